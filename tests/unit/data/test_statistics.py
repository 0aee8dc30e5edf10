"""Statistics: the numbers people decide by are counted right."""

from __future__ import annotations

from lmcraft.data.records import Chat, Labeled, Message, Pair, Rated, Tagged, Text, Vote, Where
from lmcraft.data.statistics import describe, spread, tokens
from lmcraft.data.synthetic import conversations
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

Q, A = Message("user", "one two"), Message("assistant", "abc")


def test_spread():
    """A failure would mean that a context length is chosen by a wrong quantile."""
    assert spread([4, 1, 3, 2]) == {
        "total": 10,
        "mean": 2.5,
        "smallest": 1,
        "median": 2,
        "q95": 4,
        "largest": 4,
    }
    assert spread(range(1, 101))["q95"] == 95 and spread(range(1, 101))["median"] == 50
    assert spread([7]) == {"total": 7, "mean": 7, "smallest": 7, "median": 7, "q95": 7, "largest": 7}


def test_conversations():
    """A failure would mean that turns or the trained share are not what the data holds."""
    long = Chat((Message("system", "s" * 20), Q, A), Where("x", 2))
    facts = describe([Chat((Q, A), Where("x", 1)), long])
    assert facts["characters"]["total"] == 40 and facts["words"]["total"] == 7
    assert facts["trained_characters"] == {"total": 6, "share": 0.15}
    assert facts["turns"]["largest"] == 3 and facts["with_a_system_message"] == 1
    assert facts["longest"] == "x:2"


def test_classes():
    """A failure would mean that an unbalanced data set looks balanced."""
    mails = [Labeled("t", "ham"), Labeled("t", "spam"), Labeled("u", "ham")]
    assert describe(mails)["classes"] == {"ham": 2, "spam": 1}
    assert describe([Tagged(("a", "b"), ("O", "O"))])["classes"] == {"O": 2}
    assert describe([Rated((Q,), (A,), False)])["classes"] == {"bad": 1}
    assert describe([Vote("m", "n", "tie")])["classes"] == {"tie": 1}
    many = describe([Labeled("t", str(n)) for n in range(50)])
    assert len(many["classes"]) == 30 and many["number_of_classes"] == 50
    assert "classes" not in describe([Text("t")])


def test_tokens():
    """A failure would mean that the predicted size of a training run is not that of the run."""
    chats = conversations(700)
    tokenizer = Tokenizer.train((m.content for chat in chats for m in chat.messages), 300)
    template = ChatTemplate.load("chatml", tokenizer)
    encoded = [template.encode(chat.messages) for chat in chats]
    facts = tokens(chats, tokenizer, template, context=40)
    assert facts["tokens"] == spread([len(one.ids) for one in encoded])
    assert facts["trained_tokens"]["total"] == sum(sum(one.trained) for one in encoded)
    assert facts["longer_than_the_context"] == sum(len(one.ids) > 40 for one in encoded) > 0
    pair = Pair((Q,), (A,), (Message("assistant", "abcabc"),))
    lengths = [len(tokenizer.encode(text)) for text in ("one two", "abc", "abcabc")]
    facts = tokens([pair, pair], tokenizer, template)
    assert facts["tokens"]["total"] == 2 * sum(lengths)
    assert facts["trained_tokens"]["total"] == 2 * sum(lengths[1:])
    assert "longer_than_the_context" not in facts
