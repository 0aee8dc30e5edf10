"""Previews: what is shown as trained is what is trained."""

from __future__ import annotations

import pytest

from lmcraft.data.preview import rendered, spans
from lmcraft.data.records import (
    Chat,
    Labeled,
    Message,
    Pair,
    Parallel,
    Prompt,
    Rated,
    Tagged,
    Text,
    parts,
)
from lmcraft.data.synthetic import conversations
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

Q, A, R, B = Message("user", "q"), Message("assistant", "a"), Message("user", "r"), Message("assistant", "b")

CASES = {
    Text("all"): ["all"],
    Chat((Message("system", "s"), Q, A, R, B)): ["a", "b"],
    Pair((Q,), (A,), (B,)): ["a", "b"],
    Rated((Q, A, R), (B,), True): ["b"],
    Prompt((Q,), "42"): [],
    Labeled("text", "ham"): ["ham"],
    Tagged(("Rome",), ("LOC",)): ["LOC"],
    Parallel("yes", "oui"): ["oui"],
}


@pytest.mark.parametrize("record", CASES, ids=lambda record: type(record).__name__)
def test_marks_by_role(record):
    """A failure would mean that the user sees prompt words in colour that are not trained, or the other way round."""
    found = spans(record)
    assert [span.text for span in found if span.trained] == CASES[record]
    assert [(span.what, span.text) for span in found] == list(parts(record))


def test_marks_by_token():
    """A failure would mean that the picture of the mask is not the mask that training uses."""
    chats = conversations(20)
    tokenizer = Tokenizer.train((m.content for chat in chats for m in chat.messages), 300)
    template = ChatTemplate.load("chatml", tokenizer)
    chat = Chat((Q, Message("assistant", "a 🙂 <|im_end|> b"), R, B))
    found = rendered(chat, tokenizer, template)
    assert "".join(span.text for span in found) == template.render(chat.messages)
    assert [span.text for span in found if span.trained] == ["a 🙂 <|im_end|> b<|im_end|>", "b<|im_end|>"]
    encoded = template.encode(chat.messages)
    assert [found[0].trained, found[-1].trained] == [encoded.trained[0], encoded.trained[-1]]
