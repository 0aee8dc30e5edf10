"""Conversation templates: messages to ids, with the mask of what the assistant said, its end of turn included.

1. The prompt with the generation marker must be an exact prefix of the conversation. That is checked for every
   conversation, and a template that breaks it is an error that shows where.
2. The rendered text is cut where messages and trained parts begin and end, and the parts are encoded one by one, the
   same way for training and for prompts. So the ids of a prompt are an exact prefix of the ids of the conversation.
3. A trained part begins after the generation marker and ends with the token that ends the turn. What follows (a line
   break, mostly) is not trained. A template without such a token is an error: the model could never learn to stop.
4. The names of special tokens inside a message are ordinary text.
5. Most templates render each message by itself. Then one rendering of the conversation proves that its parts, rendered
   once each, are right; otherwise the conversation is rendered again for every turn.

Proved by tests/unit/text/test_chat.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .jinja import Template
from .tokenizer import Tokenizer

BUILT_IN = ("chatml", "plain")
Messages = Sequence[Any]


@dataclass(frozen=True)
class Encoded:
    """Ids of a conversation, which of them are trained, and where each user turn begins."""

    ids: list[int]
    trained: list[bool]
    exchanges: list[int]


@dataclass(frozen=True)
class _Part:
    """A piece of the rendered text that is encoded by itself."""

    text: str
    trained: bool = False
    begins_exchange: bool = False


class ChatTemplate:
    """A template and the tokenizer that its text is for."""

    def __init__(self, source: str, tokenizer: Tokenizer, name: str) -> None:
        self.source, self.tokenizer, self.name = source, tokenizer, name
        self._template = Template(source, name)
        named = {f"{key}_token": text or "" for key, text in tokenizer.names.items()}
        self._variables: dict[str, Any] = {**named, "tools": None}
        ends = (tokenizer.names.get("end_of_turn"), tokenizer.names.get("eos"))
        self._ends = tuple(text for text in ends if text)

    @classmethod
    def load(cls, name: str | Path, tokenizer: Tokenizer) -> ChatTemplate:
        """A template by name (chatml, plain), file, or model directory."""
        if str(name) in BUILT_IN:
            source = files("lmcraft.text").joinpath(f"templates/{name}.jinja").read_text(encoding="utf-8")
            return cls(source, tokenizer, str(name))
        place = Path(name)
        source = _source(place) if place.is_dir() else (place.read_text(encoding="utf-8") if place.is_file() else None)
        if source is None:
            raise UserError("there is no chat template here", where=str(name),
                            fix=f"name a file, or one of: {', '.join(BUILT_IN)}")  # fmt: skip
        return cls(source, tokenizer, str(name))

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether a model directory has a template."""
        return _source(directory) is not None

    @cached_property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        ids = (self.tokenizer.end_of_turn, self.tokenizer.eos)
        return sorted({i for i in ids if i is not None})

    def render(self, messages: Messages, generation: bool = False) -> str:
        """The conversation as text; with `generation`, ending where the assistant is to speak."""
        return self._render([_plain(m) for m in messages], generation)

    def encode(self, messages: Messages) -> Encoded:
        """Ids and mask of one conversation."""
        return self.encode_all([messages])[0]

    def encode_all(self, conversations: Sequence[Messages]) -> list[Encoded]:
        """Ids and masks of many conversations, encoded in parallel."""
        guarded = [_guarded([_plain(m) for m in c], self.tokenizer.special_strings) for c in conversations]
        parts = [self._parts(messages) for messages, _ in guarded]
        ids = iter(self.tokenizer.encode_batch([part.text for one in parts for part in one]))
        made = []
        for (_, swapped), one in zip(guarded, parts, strict=True):
            encoded = Encoded([], [], [])
            for part in one:
                piece = next(ids)
                if swapped and any(mark in part.text for mark in swapped):
                    piece = self._encode_swapped(part.text, swapped)
                if part.begins_exchange:
                    encoded.exchanges.append(len(encoded.ids))
                encoded.ids.extend(piece)
                encoded.trained.extend([part.trained] * len(piece))
            made.append(encoded)
        return made

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of a conversation that the assistant is to continue."""
        plain, swapped = _guarded([_plain(m) for m in messages], self.tokenizer.special_strings)
        parts = self._parts(plain)
        whole = self._render(plain, generation=True)
        before = "".join(part.text for part in parts)
        if not whole.startswith(before) or whole == before:
            raise self._broken(len(plain), before, whole)
        parts.append(_Part(whole[len(before) :]))
        return [i for part in parts for i in self._encode_swapped(part.text, swapped)]

    def _render(self, messages: list[dict[str, str]], generation: bool = False) -> str:
        return self._template.render(messages=messages, add_generation_prompt=generation, **self._variables)

    def _parts(self, messages: list[dict[str, str]]) -> list[_Part]:
        if self._is_local:
            pieces = [self._alone(m["role"], m["content"]) for m in messages]
            if "".join(pieces) == self._render(messages):
                return [
                    part
                    for number, (message, piece) in enumerate(zip(messages, pieces, strict=True))
                    for part in self._message_parts(message["role"], piece, self._marker, number)
                ]
        return self._parts_turn_by_turn(messages)

    def _parts_turn_by_turn(self, messages: list[dict[str, str]]) -> list[_Part]:
        whole = self._render(messages)
        parts: list[_Part] = []
        done = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:number], generation=True)
            said = self._render(messages[: number + 1])
            end = self._end_of_answer(said, len(prompt))
            if not said.startswith(prompt):
                raise self._broken(number + 1, prompt, said)
            if not whole.startswith(said[:end]):
                raise self._broken(number + 1, said[:end], whole)
            parts.append(_Part(whole[done : len(prompt)], begins_exchange=True))
            parts.append(_Part(whole[len(prompt) : end], trained=True))
            done = end
        if done < len(whole):
            parts.append(_Part(whole[done:]))
        return parts

    def _message_parts(self, role: str, piece: str, marker: str, number: int) -> list[_Part]:
        if role != "assistant":
            return [_Part(piece, begins_exchange=role == "user")]
        if not piece.startswith(marker):
            raise self._broken(number + 1, marker, piece)
        end = self._end_of_answer(piece, len(marker))
        parts = [_Part(marker), _Part(piece[len(marker) : end], trained=True)]
        return [*parts, _Part(piece[end:])] if end < len(piece) else parts

    def _end_of_answer(self, text: str, start: int) -> int:
        """Where the answer that begins at `start` ends, its end-of-turn token included."""
        ends = [place + len(end) for end in self._ends if (place := text.find(end, start)) >= 0]
        if not ends:
            raise UserError(
                "the chat template ends an answer without a token that ends the turn", where=self.name,
                why="a model trained on it would never learn to stop",
                fix=f"let the template write {' or '.join(self._ends) or 'an eos token'} after each assistant message",
            )  # fmt: skip
        return min(ends)

    @cached_property
    def _marker(self) -> str:
        """What the template writes where the assistant is to speak."""
        probe = [{"role": "user", "content": "x"}]
        return self._render(probe, generation=True)[len(self._render(probe)) :]

    @cached_property
    def _is_local(self) -> bool:
        """Whether the template renders every message by itself, as far as a few conversations show."""
        roles = ("user", "assistant", "user", "assistant", "user")
        talk = [{"role": role, "content": f"{role} {n} {'word ' * n}end"} for n, role in enumerate(roles)]
        try:
            for messages in (talk, talk[:3], [{"role": "system", "content": "be kind"}, *talk]):
                pieces = [self._alone(m["role"], m["content"]) for m in messages]
                for stop in range(1, len(messages) + 1):
                    text = "".join(pieces[:stop])
                    if self._render(messages[:stop]) != text:
                        return False
                    asked = self._render(messages[:stop], generation=True)
                    if messages[stop - 1]["role"] == "user" and asked != text + self._marker:
                        return False
        except UserError:  # a template may refuse a message alone
            return False
        return True

    def _alone(self, role: str, content: str) -> str:
        return self._render([{"role": role, "content": content}])

    def _encode_swapped(self, text: str, swapped: Mapping[str, str]) -> list[int]:
        """Ids of a text in which stand-ins are written out as ordinary text."""
        places = [text.find(mark) for mark in swapped if mark in text]
        if not places:
            return self.tokenizer.encode(text)
        place = min(places)
        name = swapped[text[place]]
        before = self.tokenizer.encode(text[:place]) if place else []
        return before + self.tokenizer.encode_plain(name) + self._encode_swapped(text[place + 1 :], swapped)

    def _broken(self, turn: int, expected: str, found: str) -> UserError:
        same = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found)))
        return UserError(
            f"the chat template rewrites what came before message {turn}", where=self.name,
            why=f"expected {expected[same : same + 40]!r} after {expected[max(0, same - 20) : same]!r}, "
                f"found {found[same : same + 40]!r}; the trained part would be shifted",
            fix="use a template that only appends, such as chatml",
        )  # fmt: skip


def _source(directory: Path) -> str | None:
    """The template of a model directory."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(found, list):
        named = {one["name"]: one["template"] for one in found}
        found = named.get("default", next(iter(named.values()), None))
    return found


def _plain(message: Any) -> dict[str, str]:
    if isinstance(message, Mapping):
        return {"role": str(message["role"]), "content": str(message["content"])}
    return {"role": message.role, "content": message.content}


def _guarded(
    messages: list[dict[str, str]], specials: tuple[str, ...]
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Messages with the names of special tokens replaced by private-use characters, and what these stand for."""
    used = "".join(message["content"] for message in messages)
    present = [text for text in specials if text in used]
    if not present:
        return messages, {}
    free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
    swapped = {next(free): text for text in sorted(present, key=len, reverse=True)}
    guarded = []
    for message in messages:
        content = message["content"]
        for mark, text in swapped.items():
            content = content.replace(text, mark)
        guarded.append({**message, "content": content})
    return guarded, swapped


