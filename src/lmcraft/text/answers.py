"""Prompts and answers as ids: how a preference is rendered for reward models, DPO and PPO.

1. With a chat template, the ids are those of fine-tuning: the prompt ends where the assistant is to speak, the answer
   with the token that ends its turn. What a template writes after that belongs to no answer and is left out.
2. Without one, prompt and answer are plain text: bos + prompt, then the answer + eos. Several messages are joined by
   line breaks.
3. The ids of all answers to a prompt begin with the same ids, those of the prompt.

Proved by tests/unit/text/test_answers.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .chat import ChatTemplate, Messages
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Answered:
    """Ids of a prompt and its answer; the answer begins at `start`."""

    ids: list[int]
    start: int


def encode_answers(
    pairs: Sequence[tuple[Messages, Messages]], tokenizer: Tokenizer, template: ChatTemplate | None
) -> list[Answered]:
    """Each prompt with its answer; the pieces of all are encoded together.

    Raises:
        UserError: the template refuses a conversation.
    """
    prompts = encode_prompts([prompt for prompt, _ in pairs], tokenizer, template)
    if template is None:
        answers = _plain(pairs, tokenizer)
        return [Answered(before + ids, len(before)) for before, ids in zip(prompts, answers, strict=True)]
    found = []
    whole = template.encode_all([[*prompt, *answer] for prompt, answer in pairs])
    for before, encoded in zip(prompts, whole, strict=True):
        stop = max((place for place, trained in enumerate(encoded.trained, start=1) if trained), default=0)
        found.append(Answered(encoded.ids[:stop], len(before)))
    return found


def encode_prompts(
    prompts: Sequence[Messages], tokenizer: Tokenizer, template: ChatTemplate | None
) -> list[list[int]]:
    """Each prompt, ending where its answer begins."""
    if template is not None:
        return template.prompt_all(prompts)
    return [[*tokenizer.beginning, *ids] for ids in tokenizer.encode_texts([words(p) for p in prompts])]


def words(messages: Messages) -> str:
    """What is said, without who says it: all that a model can be given which knows no conversation."""
    return "\n".join(
        message["content"] if isinstance(message, Mapping) else message.content for message in messages
    )


def _plain(pairs: Sequence[tuple[Messages, Messages]], tokenizer: Tokenizer) -> list[list[int]]:
    """Answers as they go on from their prompts, with eos."""
    texts = [words(answer) for _, answer in pairs]
    befores = [tokenizer.context(words(prompt)) for prompt, _ in pairs]
    found = tokenizer.encode_after([*zip(befores, texts, strict=True)])
    after = [] if tokenizer.eos is None else [tokenizer.eos]
    return [
        [*(ids if tokenizer.special_ids.isdisjoint(ids) else tokenizer.encode_plain(text)), *after]
        for text, ids in zip(texts, found, strict=True)
    ]
