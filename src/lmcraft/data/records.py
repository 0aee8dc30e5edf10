"""Records: the typed examples every stage trains on, each knowing the file and line it came from.

1. A record is immutable and holds plain Python values only; ids and masks are made later, in text/ and pack.
2. `where` is left out of equality: the same example read from two files is the same example.
3. `kind(record)` and the names in `KINDS` are what stages and the command line call the types.

Proved by tests/unit/data/test_records.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """The place of a row: a file and a line counted from 1 (for Parquet, which has no lines, the row)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


NOWHERE = Where("(made in memory)", 0)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one row; the row is left out, the problem is counted and shown."""

    where: Where
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; role is system, user, assistant or tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """A document for pre-training."""

    text: str
    where: Where = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation with at least one assistant turn, for supervised fine-tuning."""

    messages: tuple[Message, ...]
    where: Where = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a better and a worse answer, for reward models and DPO.

    `margin` is by how much the better one is better, in the units of a reward, where a rater has said so; `weight` is
    how much the pair counts (two raters of three: a pair of weight 2/3, and its reverse of weight 1/3); `agreement` is
    the share of its raters who prefer it, where there were several.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    where: Where = field(default=NOWHERE, compare=False)
    margin: float | None = None
    weight: float = 1.0
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Rated:
    """A prompt with one answer and whether it was good (unpaired preference, as KTO uses it)."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    label: bool
    where: Where = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt alone, for reinforcement learning; `answer` is what a verifier may compare with."""

    prompt: tuple[Message, ...]
    answer: str | None = None
    where: Where = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Labeled:
    """A text with its class; labels are kept as strings, so 1 and "1" are one class."""

    text: str
    label: str
    where: Where = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Words with one tag each, for named entities or parts of speech."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    where: Where = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Parallel:
    """A source and the target it should become: translation, summarization."""

    source: str
    target: str
    where: Where = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Vote:
    """One battle of an arena: two models, their conversations if published, and who won.

    `winner` is model_a, model_b, tie or tie (bothbad), as the LMArena releases write it.
    """

    model_a: str
    model_b: str
    winner: str
    conversation_a: tuple[Message, ...] = ()
    conversation_b: tuple[Message, ...] = ()
    judge: str | None = None
    where: Where = field(default=NOWHERE, compare=False)


Record = Text | Chat | Pair | Rated | Prompt | Labeled | Tagged | Parallel | Vote

KINDS: dict[str, type] = {
    "text": Text,
    "chat": Chat,
    "pair": Pair,
    "rated": Rated,
    "prompt": Prompt,
    "labeled": Labeled,
    "tagged": Tagged,
    "parallel": Parallel,
    "vote": Vote,
}
_NAMES = {type_: name for name, type_ in KINDS.items()}


def kind(record: Record) -> str:
    """The name of the record's type, one of `KINDS`."""
    return _NAMES[type(record)]


def parts(record: Record) -> tuple[tuple[str, str], ...]:
    """Every string of a record with what it is (a role, or the field), in reading order.

    Statistics, duplicate search and the hold-out see records only through this, so a new record type
    needs no change there.
    """
    match record:
        case Text(text):
            return (("text", text),)
        case Chat(messages):
            return _turns(messages)
        case Pair(prompt, chosen, rejected):
            return _turns(prompt) + _turns(chosen, "chosen") + _turns(rejected, "rejected")
        case Rated(prompt, completion, label):
            return _turns(prompt) + _turns(completion) + (("label", str(label).lower()),)
        case Prompt(prompt, answer):
            return _turns(prompt) + ((("answer", answer),) if answer is not None else ())
        case Labeled(text, label):
            return (("text", text), ("label", label))
        case Tagged(tokens, tags):
            return (("tokens", " ".join(tokens)), ("tags", " ".join(tags)))
        case Parallel(source, target):
            return (("source", source), ("target", target))
        case Vote():
            names = (("model_a", record.model_a), ("model_b", record.model_b), ("winner", record.winner))
            return names + _turns(record.conversation_a) + _turns(record.conversation_b)


def _turns(messages: tuple[Message, ...], label: str | None = None) -> tuple[tuple[str, str], ...]:
    return tuple((label or message.role, message.content) for message in messages)


def fingerprint(record: Record) -> str:
    """SHA-256 over the record's exact content (not its place), in hexadecimal."""
    content = json.dumps([kind(record), parts(record)], ensure_ascii=True)
    return hashlib.sha256(content.encode("ascii")).hexdigest()
