"""Conversations from the spellings in use (OpenAI, ShareGPT, plain turns, single strings), checked before training.

1. Roles are system, user, assistant and tool; human, gpt, model, developer, function and observation are other names
   for them. An unknown role is refused, not guessed.
2. A system message may only be the first; the first after it is the user's; then user and assistant take turns. A tool
   answers an assistant and may speak several times in a row; the assistant speaks after it.
3. Only text is trained on: content that is not a string (pictures, tool calls) is refused.
4. An assistant turn without text, and a conversation without an assistant turn, would train nothing and are refused.
   An empty system message is dropped, as if it had not been written.

Proved by tests/unit/data/test_formats.py.
"""

from __future__ import annotations

from typing import Any

from .jsonrows import named
from .records import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_FOLLOWERS = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
_MARKS = {"<system>": "system", "<user>": "user", "<assistant>": "assistant"}


class Wrong(Exception):
    """Why a row is not the record it should be; its text becomes the Problem."""


def messages(value: Any, column: str = "messages") -> tuple[Message, ...]:
    """A list of {"role", "content"} or {"from", "value"} objects; order not yet checked."""
    if not isinstance(value, list):
        raise Wrong(f"{column} must be a list of messages, found {named(value)}")
    if not value:
        raise Wrong(f"{column} is empty")
    return tuple(_message(item, number, column) for number, item in enumerate(value, start=1))


def _message(item: Any, number: int, column: str) -> Message:
    place = f"message {number} of {column}"
    if not isinstance(item, dict):
        raise Wrong(f"{place} must be an object, found {named(item)}")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if role is None:
        raise Wrong(f"{place} has no role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise Wrong(f"{place} has the unknown role {str(role)[:40]!r}; known are {', '.join(ROLES)}")
    if content is None and item.get("tool_calls"):
        raise Wrong(f"{place} holds tool calls; only text can be trained on")
    if not isinstance(content, str):
        raise Wrong(f"the content of {place} must be a string, found {named(content)}")
    return Message(ROLES[role.lower()], content)


def ordered(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Check who speaks when; returns the turns without an empty system message."""
    if turns and turns[0].role == "system" and not turns[0].content.strip():
        turns = turns[1:]
    before = None
    for number, message in enumerate(turns, start=1):
        if message.role not in _FOLLOWERS[before]:
            raise Wrong(_disorder(before, message.role, number))
        if message.role == "assistant" and not message.content.strip():
            raise Wrong(f"wrong content: the assistant says nothing in message {number}")
        before = message.role
    return turns


def _disorder(before: str | None, role: str, number: int) -> str:
    if role == "system":
        return f"wrong roles: message {number} is system, which may only be the first"
    if before is None or before == "system":
        return f"wrong roles: the first message must be the user's, message {number} is {role}"
    if before == role:
        return f"wrong roles: messages {number - 1} and {number} are both {role}"
    return f"wrong roles: message {number} is {role}, after {before} comes {' or '.join(_FOLLOWERS[before])}"


def answered(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """An ordered conversation in which the assistant speaks at least once."""
    turns = ordered(turns)
    if not any(message.role == "assistant" for message in turns):
        raise Wrong("the conversation has no assistant turn, so it would train nothing")
    return turns


def asked(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """An ordered prompt: the assistant is to speak next."""
    turns = ordered(turns)
    if not turns or turns[-1].role not in ("user", "tool"):
        raise Wrong("the prompt must end with a message of the user or a tool")
    return turns


def prompt(value: Any, column: str = "prompt") -> tuple[Message, ...]:
    """A prompt given as a string (one user message) or as messages."""
    if isinstance(value, str):
        return asked((Message("user", string(value, column)),))
    return asked(messages(value, column))


def answer(value: Any, column: str, before: tuple[Message, ...]) -> tuple[Message, ...]:
    """An answer given as a string, a message or messages; repeated prompt messages at its start are taken off."""
    if isinstance(value, str):
        turns: tuple[Message, ...] = (Message("assistant", value),)
    else:
        turns = messages([value] if isinstance(value, dict) else value, column)
        if turns[: len(before)] == before:
            turns = turns[len(before) :]
    if not turns or turns[0].role != "assistant":
        raise Wrong(f"{column} must begin with a message of the assistant")
    ordered(before + turns)
    return turns


def string(value: Any, column: str) -> str:
    """A string with something in it besides white space."""
    if not isinstance(value, str):
        raise Wrong(f"{column} must be a string, found {named(value)}")
    if not value.strip():
        raise Wrong(f"{column} is empty")
    return value


def is_turns(text: Any) -> bool:
    """Whether a text begins as the plain turns do: a line `<user>` or `<system>`."""
    return isinstance(text, str) and text.lstrip().split("\n", 1)[0].strip() in ("<user>", "<system>")


def turns(text: str) -> tuple[Message, ...]:
    """Plain turns: lines `<system>`, `<user>`, `<assistant>`, each followed by what is said."""
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\n"):
        role = _MARKS.get(line.strip())
        if role is not None:
            found.append((role, []))
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            raise Wrong("text before the first <user> line")
    return tuple(Message(role, "\n".join(said).strip("\n")) for role, said in found)


_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def transcript(text: str) -> tuple[Message, ...]:
    """The transcript that Anthropic's HH data is written in: blank line, `Human:` or `Assistant:`, what is said."""
    found: list[Message] = []
    rest = text if text.startswith("\n\n") else "\n\n" + text.lstrip("\n")
    if not rest.startswith(_HUMAN):
        raise Wrong("no prompt column, and the text is not a transcript of Human: and Assistant: turns")
    role, rest = "user", rest.removeprefix(_HUMAN)
    while True:
        places = [(rest.find(mark), mark) for mark in (_HUMAN, _ASSISTANT) if mark in rest]
        if not places:
            break
        at, mark = min(places)
        found.append(Message(role, rest[:at].strip()))
        role, rest = ("user" if mark == _HUMAN else "assistant"), rest[at + len(mark) :]
    found.append(Message(role, rest.strip()))
    return tuple(found)
