"""Asks a person, item after item, in the terminal or through a pipe, and keeps each judgement before the next question.

1. Answers are shown in random order under the numbers 1, 2, …; who wrote them is never said.
2. A judgement is on the disk when "kept" is printed. Ctrl-C, the end of the input and a lost connection cost
   at most the item on the screen.
3. Texts of models are shown with control characters by name, so that none can move the cursor or hide a part.

Proved by tests/cli/test_feedback.py.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, TypeVar
from uuid import uuid4

from ..report.tokens import plain

if TYPE_CHECKING:
    from ..feedback.judgement import Item, Rater
    from ..feedback.store import Project

T = TypeVar("T")
COMMANDS = {
    "s": "skip", "f": "flag for a look by others", "c": "write a comment", "u": "undo the last one",
    "g": "guidelines", "?": "this help", "q": "quit",
}  # fmt: skip


class Left(Exception):
    """The rater leaves the item: by one of `COMMANDS`, or because the input has ended."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Session:
    """One rater at work.

    Args:
        enough: leave out items that so many others have rated.
        limit: stop after so many judgements.
        seed: of the order of the answers on the screen.
    """

    def __init__(
        self, project: Project, rater: Rater, out: TextIO, *, enough: int | None = None, limit: int | None = None,
        seed: int | None = None,
    ) -> None:  # fmt: skip
        self.project, self.rater, self.out = project, rater, out
        self.enough, self.limit = enough, limit
        self.draw = random.Random(seed)
        self.kept = {"rate": 0, "skip": 0, "flag": 0, "undo": 0}
        self.version, self.guidelines = project.guidelines()
        self.comment = ""

    def run(self) -> None:
        """Asks until nothing is open, the limit is reached or the rater quits."""
        self._show_guidelines()
        total = self.project.open_count(self.rater, self.enough)
        again: Item | None = None
        while self.limit is None or self.kept["rate"] < self.limit:
            item = again or self.project.next(self.rater, self.enough)
            if item is None:
                self._say("\nNothing is open any more. Thank you!")
                return
            self._renew_guidelines()
            number = max(total - self.project.open_count(self.rater, self.enough) + 1, 1)
            self._say(f"\n── {number} of {total} " + "─" * 50)
            again, self.comment = None, ""
            try:
                self._judge(item)
            except Left as left:
                if left.how == "q":
                    return
                again = self._leave(item, left.how)

    def _judge(self, item: Item) -> None:
        """Shows an item, asks everything about it, and keeps what was said."""
        from ..feedback.judgement import Judgement

        began = time.monotonic()
        shown = self.draw.sample(range(len(item.answers)), len(item.answers))
        self._show_item(item, shown)
        if not self.guidelines.criteria and len(shown) < 2:
            self._ask("one answer and no criteria: nothing can be rated here; s to skip", lambda _: None)
        scores = self._ask_scores(shown)
        choice, ranking = self._ask_better(shown)
        seconds = round(time.monotonic() - began, 1)
        judgement = Judgement(scores, choice, ranking, self.comment, tuple(shown), seconds)
        self.project.rate(self.rater, item, judgement, key=uuid4().hex)
        self.kept["rate"] += 1
        self._say("kept")

    def _leave(self, item: Item, how: str) -> Item | None:
        """Does what the command says; the item to show next, if it is not the queue that decides."""
        from ..feedback.judgement import Judgement

        if how == "u":
            before = self.project.undo(self.rater, key=uuid4().hex)
            self.kept["undo"] += before is not None
            self._say("taken back" if before else "there is nothing to take back")
            return before or item
        action = COMMANDS[how].split()[0]
        self.project.rate(self.rater, item, Judgement(comment=self.comment), key=uuid4().hex, action=action)
        self.kept[action] += 1
        self._say("kept")
        return None

    def _renew_guidelines(self) -> None:
        """Shows the guidelines anew if they have changed: a rating is kept under the newest version."""
        version, guidelines = self.project.guidelines()
        if version != self.version:
            self.version, self.guidelines = version, guidelines
            self._say("\nThe guidelines have changed.")
            self._show_guidelines()

    def _show_guidelines(self) -> None:
        self._say(f"Guidelines (version {self.version})\n{plain(self.guidelines.text).strip()}")
        for one in self.guidelines.criteria:
            self._say(f"  {one.name}, {one.low} to {one.high}: {plain(one.asks)}")
        self._say(
            "Commands at every question: " + ", ".join(f"{key} {what}" for key, what in COMMANDS.items())
        )

    def _show_item(self, item: Item, shown: list[int]) -> None:
        for message in item.prompt:
            self._say(f"{message.role}: {plain(message.content)}")
        for number, place in enumerate(shown, start=1):
            self._say(f"\n[{number}] {plain(item.answers[place].text)}")
        self._say("")

    def _ask_scores(self, shown: list[int]) -> dict[int, dict[str, int]]:
        scores: dict[int, dict[str, int]] = {}
        for one in self.guidelines.criteria:
            for number, place in enumerate(shown, start=1):
                question = f"{one.name} of [{number}], {one.low} to {one.high}"
                score = self._ask(question, lambda said, one=one: _whole(said, one.low, one.high))
                scores.setdefault(place, {})[one.name] = score
        return scores

    def _ask_better(self, shown: list[int]) -> tuple[int | str | None, tuple[int, ...]]:
        """The choice between two answers, or the ranking of more."""
        from ..feedback.judgement import BOTH_BAD, TIE

        if not self.guidelines.compare or len(shown) < 2:
            return None, ()
        if len(shown) == 2:
            said = {"1": shown[0], "2": shown[1], "=": TIE, "tie": TIE, "0": BOTH_BAD, "both bad": BOTH_BAD}
            return self._ask("better: 1, 2, = (tie) or 0 (both bad)", said.get), ()
        ranking = self._ask("numbers from best to worst, such as 2 1 3", lambda said: _order(said, shown))
        return None, ranking

    def _ask(self, question: str, understand: Callable[[str], T | None]) -> T:
        """Asks until the answer is understood, or the rater leaves by a command."""
        while True:
            said = self._read(f"{question} > ").strip()
            command, _, rest = said.partition(" ")
            if command == "c":
                self.comment = (rest or self._read("comment > ")).strip()
            elif said in ("?", "g"):
                self._show_guidelines()
            elif said in COMMANDS:
                raise Left(said)
            elif (value := understand(said.lower())) is not None:
                return value
            else:
                self._say(f"{plain(said)[:40]!r} is no answer to this; ? shows what is")

    def _read(self, question: str) -> str:
        """One line; a terminal gives editing, a pipe its next line, and its end quits."""
        if sys.stdin.isatty():
            try:
                return input(question)
            except EOFError:
                raise Left("q") from None
        self.out.write(question)
        self.out.flush()
        line = sys.stdin.readline()
        self.out.write(line if line.endswith("\n") else f"{line}\n")  # a pipe has no echo
        if not line:
            raise Left("q")
        return line

    def _say(self, text: str) -> None:
        print(text, file=self.out, flush=True)


def _whole(said: str, low: int, high: int) -> int | None:
    try:
        number = int(said)
    except ValueError:
        return None
    return number if low <= number <= high else None


def _order(said: str, shown: list[int]) -> tuple[int, ...] | None:
    """Places in the order of the numbers that were said, if every answer is named once."""
    numbers = said.replace(",", " ").split()
    numbers = list(said) if len(numbers) == 1 and len(shown) < 10 else numbers
    if sorted(numbers) != sorted(str(number) for number in range(1, len(shown) + 1)):
        return None
    return tuple(shown[int(number) - 1] for number in numbers)
