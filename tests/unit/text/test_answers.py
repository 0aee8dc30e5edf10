"""Prompts and answers as ids: the same as in fine-tuning, ending where the answer ends."""

from __future__ import annotations

import pytest

from lmcraft.data.records import Message
from lmcraft.text.answers import encode_answers, encode_prompts
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer

ASKED = (Message("system", "be short"), Message("user", "how are you?"))
FINE, BAD = (Message("assistant", "fine"),), (Message("assistant", "not so well <|im_end|>"),)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["how are you? fine, not so well, be short"], 300)


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_a_conversation_is_rendered_as_in_fine_tuning(tokenizer, name):
    """A difference would mean that a reward model, or DPO, sees other ids than the model that was tuned writes."""
    template = ChatTemplate.load(name, tokenizer)
    one, other = encode_answers([(ASKED, FINE), (ASKED, BAD)], tokenizer, template)
    encoded = template.encode([*ASKED, *FINE])
    last = max(place for place, trained in enumerate(encoded.trained) if trained)
    assert one.ids == encoded.ids[: last + 1] and one.ids[-1] in template.stop_ids
    assert one.ids[: one.start] == other.ids[: other.start] == template.prompt(ASKED)
    assert [p for p, trained in enumerate(encoded.trained) if trained] == [*range(one.start, len(one.ids))]


def test_without_a_template_it_is_plain_text(tokenizer):
    """A failure would mean that a base model is shown marks it has never seen, or an answer without an end."""
    asked = (Message("user", "how are"),)
    (one,) = encode_answers([(asked, (Message("assistant", " you? <|im_end|>"),))], tokenizer, None)
    assert one.ids[: one.start] == encode_prompts([asked], tokenizer, None)[0]
    assert (
        one.ids[-1] == tokenizer.eos
        and tokenizer.decode(one.ids[1:-1], skip_special=False) == "how are you? <|im_end|>"
    )
    assert tokenizer.special_ids.isdisjoint(one.ids[one.start : -1])
