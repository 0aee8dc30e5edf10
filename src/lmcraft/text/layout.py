"""Where in a rendered conversation the prompts end and the answers begin and stop.

Masks go wrong in silence when the prompt of a turn is not how the conversation begins (trl#4201). So nothing is
guessed: an answer is what the template adds between the prompt *with* its generation marker and the token that ends the
turn, and both renderings are compared, for every turn (`_turn_by_turn`).

That renders a conversation of n turns 2n times. Most templates write each message by itself, whatever stands around it.
For these the frame of a message (what is written before and after it) is learnt once for each pair of neighbouring
roles, from two probes of different form and length, and the conversation is put together from frames. The result is
not trusted either: it must equal one real rendering of the whole, and one of the last prompt. If it does not, or a
frame cannot be learnt, every turn is checked as above. Both ways give the same layout.

Proved by tests/unit/text/test_chat.py and tests/unit/text/test_chat_templates.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..core.errors import UserError

Plain = list[dict[str, str]]
Render = Callable[[Plain, bool], str]

_TIDY = (str, str.lstrip, str.rstrip, str.strip)


@dataclass
class Layout:
    """A rendered conversation and the places in it, in characters.

    Attributes:
        prompts: where the prompt of each answer ends.
        answers: (start, stop) of what is trained, the token that ends the turn included.
        users: where each user message begins.
    """

    text: str = ""
    prompts: list[int] = field(default_factory=list)
    answers: list[tuple[int, int]] = field(default_factory=list)
    users: list[int] = field(default_factory=list)

    def cuts(self) -> list[int]:
        """Where the text is cut into pieces that are encoded one by one."""
        inner = {*self.prompts, *self.users, *(place for answer in self.answers for place in answer)}
        return sorted({0, len(self.text)} | inner)


@dataclass(frozen=True)
class _Frame:
    """What a template writes around one message; the last three are set for an assistant's."""

    before: str
    after: str
    tidy: Callable[[str], str]
    marker: int = 0  # characters of `before` that belong to the prompt
    block: int = 0  # characters of `before` that the template inserts after it
    stop: int = 0  # characters of `after` that end the turn


class Layouts:
    """Finds layouts for one template.

    Args:
        render: the text of messages, with the generation marker or without.
        ends: texts of the tokens that can end a turn.
        name: the template's, for messages.
    """

    def __init__(self, render: Render, ends: Sequence[str], name: str) -> None:
        self._render = render
        self.ends = tuple(ends)
        self._name = name
        self._frames: dict[tuple[str | None, str], _Frame | None] = {}
        self._block: str | None = None

    def of(self, messages: Plain, generation: bool = False) -> Layout:
        """The layout of a conversation, or of a prompt with the marker for the next answer.

        Raises:
            UserError: the template is refused, rewrites earlier turns, or never ends one.
        """
        return self._from_frames(messages, generation) or self._turn_by_turn(messages, generation)

    def block(self) -> str:
        """What the template inserts between the generation marker and an answer, such as an empty thought.

        The model does not write it there and must not be trained to; it is left out of the answer.
        """
        if self._block is None:
            talk = _probe(["user", "assistant"], 0)
            try:
                said = self._render(talk, False).removeprefix(self._render(talk[:1], True))
                inserted = said.partition(talk[1]["content"])[0] if talk[1]["content"] in said else ""
                # White space before the answer is the model's to write: it merges with the first word.
                self._block = inserted if inserted.strip() else ""
            except (
                UserError
            ):  # a template may insist on a system message; then it inserts nothing that we know of
                self._block = ""
        return self._block

    # -- every turn checked ------------------------------------------------------------------------------------------

    def _turn_by_turn(self, messages: Plain, generation: bool) -> Layout:
        layout = Layout(self._render(messages, generation))
        for turn, message in enumerate(messages):
            if message["role"] == "user":
                layout.users.append(self._beginning(messages, turn, layout))
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:turn], True)
            said = self._render(messages[: turn + 1], False)
            if not said.startswith(prompt):
                raise self._no_prefix(turn, prompt, said)
            start = len(prompt)
            if said.startswith(self.block(), start):
                start += len(self.block())
            stop = self._end(said, start)
            if not layout.text.startswith(said[:stop]):
                raise self._no_prefix(turn, said[:stop], layout.text)
            layout.prompts.append(len(prompt))
            layout.answers.append((start, stop))
        return layout

    def _beginning(self, messages: Plain, turn: int, layout: Layout) -> int:
        """Where message `turn` begins, if the messages before it render to a prefix; else the last place known."""
        last = layout.answers[-1][1] if layout.answers else 0
        if turn == 0:
            return 0
        try:
            before = self._render(messages[:turn], False)
            upto = self._render(messages[: turn + 1], False)
        except UserError:  # a template may refuse a conversation that stops here
            return last
        if not upto.startswith(before):
            return last
        if not layout.text.startswith(before):
            raise self._no_prefix(turn, before, layout.text)
        return len(before)

    def _end(self, text: str, start: int) -> int:
        """Where the answer that begins at `start` ends, the token that ends it included."""
        found = [place + len(end) for end in self.ends if (place := text.find(end, start)) >= 0]
        if not found:
            known = " or ".join(self.ends) or "an eos token, which this tokenizer lacks"
            raise UserError(
                "the chat template ends an answer without a token that ends the turn",
                where=self._name,
                why="a model trained with it could never learn to stop",
                fix=f"let it write {known} after each assistant message, or use another template (chatml, plain)",
            )
        return min(found)

    def _no_prefix(self, turn: int, expected: str, found: str) -> UserError:
        pairs = enumerate(zip(expected, found, strict=False))
        same = next((place for place, (a, b) in pairs if a != b), min(len(expected), len(found)))
        return UserError(
            f"the chat template rewrites what stands before or in message {turn + 1}",
            where=self._name,
            why=f"after {expected[max(0, same - 20) : same]!r} the prompt goes on with {expected[same : same + 40]!r}, "
            f"the conversation with {found[same : same + 40]!r}; what is trained would not be what is generated",
            fix="use a template that only appends (chatml, plain), or conversations of a single exchange",
        )

    # -- put together from frames ------------------------------------------------------------------------------------

    def _from_frames(self, messages: Plain, generation: bool) -> Layout | None:
        layout = Layout()
        parts: list[str] = []
        place = 0
        before: str | None = None
        for turn, message in enumerate(messages):
            role = message["role"]
            if (before, role) not in self._frames:
                self._frames[before, role] = self._learn([m["role"] for m in messages[: turn + 1]])
            frame = self._frames[before, role]
            if frame is None:
                return None
            body = frame.tidy(message["content"])
            begins = place
            place += len(frame.before)
            if role == "user":
                layout.users.append(begins if turn else 0)
            elif role == "assistant":
                layout.prompts.append(begins + frame.marker)
                layout.answers.append((begins + frame.marker + frame.block, place + len(body) + frame.stop))
            place += len(body) + len(frame.after)
            parts += (frame.before, body, frame.after)
            before = role
        text = "".join(parts)
        layout.text = self._render(messages, generation)
        if generation:
            return layout if layout.text.startswith(text) else None
        return layout if layout.text == text and self._last_prompt_fits(messages, layout) else None

    def _last_prompt_fits(self, messages: Plain, layout: Layout) -> bool:
        turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            return True
        return self._render(messages[: turns[-1]], True) == layout.text[: layout.prompts[-1]]

    def _learn(self, roles: list[str]) -> _Frame | None:
        """The frame of the last of `roles`, after the one before it; None if the template has no such thing."""
        short, long = _probe(roles, 0), _probe(roles, 1)
        try:
            pieces = [self._piece(talk) for talk in (short, long)]
            if pieces[0] is None or pieces[1] is None or pieces[0].count(short[-1]["content"]) != 1:
                return None
            before, _, after = pieces[0].partition(short[-1]["content"])
            content = long[-1]["content"]
            tidy = next((t for t in _TIDY if pieces[1] == before + t(content) + after), None)
            if tidy is None:
                return None
            if roles[-1] != "assistant":
                return _Frame(before, after, tidy)
            marker = self._render(short[:-1], True).removeprefix(self._text(short[:-1]))
            inserted = before[len(marker) :]
            if not before.startswith(marker) or (inserted.strip() and inserted != self.block()):
                return None
            block = len(inserted) if inserted == self.block() else 0
            return _Frame(before, after, tidy, len(marker), block, self._end(after, 0))
        except (
            UserError
        ):  # a part of a conversation is refused, or a turn never ends: every turn must be looked at
            return None

    def _piece(self, talk: Plain) -> str | None:
        """What the last message adds to the text, if it only adds."""
        before, whole = self._text(talk[:-1]), self._text(talk)
        return whole[len(before) :] if whole.startswith(before) else None

    def _text(self, messages: Plain) -> str:
        return self._render(messages, False) if messages else ""


def _probe(roles: Sequence[str], kind: int) -> Plain:
    """Messages that no template expects: one word, or several lines between spaces."""
    forms = ("lmcraftprobe{}", " \n\tlmcraft  probe {}\n\n- with lines\n \n")
    return [{"role": role, "content": forms[kind].format(turn)} for turn, role in enumerate(roles)]
