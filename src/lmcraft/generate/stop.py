"""When generation ends, and which text may already be shown.

1. Ends: a stop token (its text is not part of the answer), a stop string (cut before it), or the token limit.
2. While streaming, text is held back as long as it could still become a stop string or is half a character.

Proved by tests/unit/generate/test_stop.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "�"


class StopWatch:
    """Follows one answer token by token.

    Args:
        decode: ids → text.
        stop_ids: tokens that end the answer.
        stop_strings: texts that end the answer.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop_ids: Sequence[int],
        stop_strings: Sequence[str],
        limit: int,
    ) -> None:
        self.decode, self.stop_ids, self.limit = decode, frozenset(stop_ids), limit
        self.stop_strings = [text for text in stop_strings if text]
        self.ids: list[int] = []
        self.shown = 0
        self._end: int | None = None  # where a stop string cuts the text
        self._decoded: tuple[int, str] = (0, "")
        self.finish_reason: str | None = None

    def add(self, token: int) -> str | None:
        """Takes the next token; returns why the answer is over, or None."""
        if token in self.stop_ids:
            self.finish_reason = "stop"
            return self.finish_reason
        self.ids.append(token)
        places = [self.text.find(text) for text in self.stop_strings]
        if any(place >= 0 for place in places):
            self._end = min(place for place in places if place >= 0)
            self.finish_reason = "stop"
        elif len(self.ids) >= self.limit:
            self.finish_reason = "length"
        return self.finish_reason

    @property
    def text(self) -> str:
        """The answer so far; decoded when it is asked for."""
        if self._decoded[0] != len(self.ids):
            self._decoded = len(self.ids), self.decode(self.ids)
        return self._decoded[1][: self._end]

    def fresh(self) -> str:
        """Text that is certain and has not been shown yet."""
        end = len(self.text)
        if self.finish_reason is None:
            if self.text.endswith(REPLACEMENT):
                end = len(self.text.rstrip(REPLACEMENT))
            for stop in self.stop_strings:
                for size in range(min(len(stop) - 1, end), 0, -1):
                    if self.text[:end].endswith(stop[:size]):
                        end -= size
                        break
        piece = self.text[self.shown : max(end, self.shown)]
        self.shown = max(end, self.shown)
        return piece
