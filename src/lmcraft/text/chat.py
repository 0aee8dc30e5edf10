"""Conversation templates: messages to ids, with the mask of what the assistant said, its end of turn included.

1. The rendered text is cut where prompts end and answers begin and stop (`text/layout.py`), and the pieces are encoded
   one by one, in the same way for training and for prompts. So the ids of a prompt are exactly how the ids of the
   conversation begin, whatever the merges of the tokenizer would do across the cut.
2. Only answers are trained: from after the generation marker to the token that ends the turn. What follows it (mostly a
   line break) belongs to the next prompt.
3. The template writes what begins a text (BOS), the tokenizer adds nothing: there is exactly one.
4. `<|im_end|>` inside a message is ordinary text. Such strings are replaced by unused characters before rendering and
   written back when their piece is encoded, so no message can end its own turn. (`plain` marks turns by ordinary text,
   `<user>`, and cannot promise this.)

Proved by tests/unit/text/test_chat.py and tests/unit/text/test_chat_templates.py.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.gguf import is_gguf
from .jinja import Template
from .layout import Layout, Layouts, Plain
from .special import TURN_ENDS, template_source
from .tokenizer import Tokenizer

BUILT_IN = ("chatml", "plain")
DEFAULT = "chatml"
# Objects with the attributes `role` and `content`, or mappings with these keys.
Messages = Sequence[Any]

LONGEST_SPECIAL = 100  # characters of a special token that a piece may follow

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_UNUSED = range(0xE000, 0xF900)  # private-use characters


@dataclass(frozen=True, slots=True)
class Encoded:
    """Ids of a conversation; `trained[i]` says whether id i is a target; `exchanges` where each user turn begins."""

    ids: list[int] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    exchanges: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the text that is encoded by itself; `before` is what stands before it, where that matters."""

    text: str
    before: str
    trained: bool
    begins: int  # how many user turns begin here


class ChatTemplate:
    """A template and the tokenizer that its text is for.

    Args:
        source: the template in Jinja, as in chat_template.jinja of a model directory.
        tokenizer: encodes the pieces; its special tokens are known to the template as `bos_token`, `eos_token` ...
        name: how messages call the template.

    Raises:
        UserError: the template cannot be read, or uses what is refused.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, name: str) -> None:
        self.source, self.tokenizer, self.name = source, tokenizer, name
        self._template = Template(source, name)
        roles = tokenizer.roles
        tokens = {"bos": roles.bos, "eos": roles.eos, "pad": roles.pad, "unk": roles.unk}
        self._variables: dict[str, Any] = {
            f"{role}_token": token for role, token in tokens.items() if token is not None
        }
        stops = {text for text, number in tokenizer.specials.items() if number in tokenizer.stop_ids}
        known = {text for text in TURN_ENDS if text in tokenizer.specials}
        self._layouts = Layouts(self._render, sorted(stops | known), name)
        self._turn_off_thinking()

    # -- finding one -------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, name: str | Path, tokenizer: Tokenizer) -> ChatTemplate:
        """A template by name (chatml, plain), from a file, a model directory or a GGUF file.

        Raises:
            UserError: there is none, or it cannot be used.
        """
        if str(name) in BUILT_IN:
            file = files("lmcraft.text").joinpath("templates", f"{name}.jinja")
            return cls(file.read_text(encoding="utf-8"), tokenizer, str(name))
        place = Path(name)
        source = template_source(place) if place.is_dir() or is_gguf(place) else _file(place)
        if source is None:
            near = difflib.get_close_matches(str(name), BUILT_IN, n=1)
            raise UserError(
                "there is no chat template here",
                where=str(name),
                why="neither a name (chatml, plain), nor a file, nor a model directory that has a template",
                fix=f"did you mean {near[0]}?"
                if near
                else "use chatml, or give the model a chat_template.jinja",
            )
        return cls(source, tokenizer, str(name))

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether a model directory or GGUF file has a template."""
        return template_source(directory) is not None

    # -- use ---------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def stop_ids(self) -> list[int]:
        """The ids that end an answer: the template's end of turn, eos, and what generation_config.json names."""
        found = set(self.tokenizer.stop_ids)
        try:
            layout = self._layouts.of(
                _checked([{"role": role, "content": role} for role in ("user", "assistant")])
            )
        except UserError:  # training will tell what is wrong with it; an untrained chat may go on
            return sorted(found)
        last = self.tokenizer.split_special(layout.text[: layout.answers[0][1]])[-1]
        return sorted(found | {self.tokenizer.specials[last]})

    def render(self, messages: Messages, generation: bool = False) -> str:
        """The conversation as text; with `generation`, ending where the assistant is to speak.

        For people: ids come from `encode` and `prompt`, because a message may hold the text of a special token.
        """
        return self._render(_checked(messages), generation)

    def encode(self, messages: Messages) -> Encoded:
        """Ids and mask of one conversation; nothing is trained if no message is the assistant's.

        Raises:
            UserError: the template rewrites earlier turns, never ends one, or refuses the conversation.
        """
        return self.encode_all([messages])[0]

    def encode_all(self, conversations: Sequence[Messages]) -> list[Encoded]:
        """`encode` of each, with the pieces of all encoded together."""
        return self._encode([_Talk.of(messages, self) for messages in conversations], generation=False)

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of a conversation that the assistant is to go on with: how its `encode` would begin."""
        return self.prompt_all([messages])[0]

    def prompt_all(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """`prompt` of each, with the pieces of all encoded together."""
        talks = [_Talk.of(messages, self) for messages in conversations]
        return [encoded.ids for encoded in self._encode(talks, generation=True)]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _render(self, messages: Plain, generation: bool) -> str:
        return self._template.render(messages=messages, add_generation_prompt=generation, **self._variables)

    def _turn_off_thinking(self) -> None:
        """Asks a template that would insert an empty thought before an answer to do so in the prompt already."""
        if "enable_thinking" not in self.source or not self._layouts.block():
            return
        quiet = Layouts(
            lambda messages, generation: self._template.render(
                messages=messages, add_generation_prompt=generation, enable_thinking=False, **self._variables
            ),
            self._layouts.ends,
            self.name,
        )
        if not quiet.block():
            self._variables["enable_thinking"] = False
            self._layouts = Layouts(self._render, self._layouts.ends, self.name)

    def _encode(self, talks: list[_Talk], generation: bool) -> list[Encoded]:
        cut = [self._pieces(self._layouts.of(talk.messages, generation)) for talk in talks]
        # Many pieces are alike (line breaks, greetings); each is encoded once.
        ordinary = {
            (piece.before, piece.text): None
            for talk, pieces in zip(talks, cut, strict=True)
            for piece in pieces
            if not talk.hides(piece.text)
        }
        ids = dict(zip(ordinary, self.tokenizer.encode_after(list(ordinary)), strict=True))
        found = []
        for talk, pieces in zip(talks, cut, strict=True):
            encoded = Encoded()
            for piece in pieces:
                # Asked of the conversation: what hides a text in this one may be written in another.
                if talk.hides(piece.text):
                    new = talk.encode(piece.text, self.tokenizer)
                else:
                    new = ids[piece.before, piece.text]
                encoded.exchanges.extend([len(encoded.ids)] * piece.begins)
                encoded.ids.extend(new)
                encoded.trained.extend([piece.trained] * len(new))
            found.append(encoded)
        return found

    def _pieces(self, layout: Layout) -> list[_Piece]:
        text, cuts = layout.text, layout.cuts()
        trained = {start for start, _ in layout.answers}
        pieces = []
        for start, stop in itertools.pairwise(cuts):
            before = self.tokenizer.context(text[max(0, start - LONGEST_SPECIAL) : start])
            pieces.append(_Piece(text[start:stop], before, start in trained, layout.users.count(start)))
        return pieces


@dataclass(frozen=True)
class _Talk:
    """A conversation in which special tokens' texts are hidden behind characters that it does not use."""

    messages: Plain
    hidden: dict[str, str]

    @classmethod
    def of(cls, messages: Messages, template: ChatTemplate) -> _Talk:
        plain = _checked(messages)
        content = "\0".join(message["content"] for message in plain)
        present = [text for text in template.tokenizer.specials if text in content]
        if not present:
            return cls(plain, {})
        used = content + template.source
        unused = (chr(code) for code in _UNUSED if chr(code) not in used)
        # Longest first: one special token may be a part of another.
        hidden = dict(zip(unused, sorted(present, key=len, reverse=True), strict=False))
        if len(hidden) < len(present):
            raise UserError(
                "the conversation writes special tokens and every private-use character", fix="remove the row"
            )
        for message in plain:
            for mark, text in hidden.items():
                message["content"] = message["content"].replace(text, mark)
        return cls(plain, hidden)

    def hides(self, text: str) -> bool:
        """Whether a hidden text stands in this piece."""
        return any(mark in text for mark in self.hidden)

    def encode(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Ids of a piece: the template's special tokens as such, the message's own as ordinary text."""
        ids: list[int] = []
        for part in tokenizer.split_special(text):
            if part in tokenizer.specials:
                ids.append(tokenizer.specials[part])
                continue
            for mark, hidden in self.hidden.items():
                part = part.replace(mark, hidden)
            ids += tokenizer.encode_plain(part)
        return ids


def _checked(messages: Messages) -> Plain:
    """Plain dictionaries, after a look at roles and contents."""
    if not messages:
        raise UserError("a conversation without messages", fix="give at least one message")
    plain = []
    for number, message in enumerate(messages, start=1):
        if isinstance(message, Mapping):
            role, content = message.get("role"), message.get("content")
        else:
            role, content = message.role, message.content
        # A role is written by the template as it stands, so it must not be able to write anything else.
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise UserError(
                f"message {number} has no usable role: {role!r:.80}",
                fix="use system, user, assistant or tool",
            )
        if not isinstance(content, str):
            raise UserError(f"the content of message {number} is not a text: {content!r:.80}")
        plain.append({"role": role, "content": content})
    return plain


def _file(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"the chat template cannot be read: {error}", where=str(path)) from None
