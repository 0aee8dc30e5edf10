"""The work and memory budget of one template rendering, and the operations that draw on it.

A sandbox stops a template from reaching Python's internals, but not from asking for a string of a billion characters or
for nested loops that end next year. Here every operation that can grow a value checks the size of its result *before*
making it, and every operation pays from a fixed purse, so that the refusal does not depend on the machine's speed.

1. Work is counted in units (about one small operation each); CPU time of the thread is only a second fence, because a
   busy machine must not make a good template fail.
2. A container is weighed by what printing it would cost. A list that holds itself twice, forty times over, is small in
   memory but has 2^40 leaves for `==`, `str()` or `hash()`; the weight sees that and refuses the list when it is made.
3. Weights are cached by identity. That is right because the sandbox is immutable; the cache keeps the value alive.

Proved by tests/unit/text/test_jinja.py.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

MAX_STRING = 4 << 20  # characters of one value, and of the whole output
MAX_TOTAL = 64 << 20  # characters made during one rendering, garbage included
MAX_ITEMS = 100_000  # elements of one container, as in Jinja's own sandboxed range
MAX_WEIGHT = 8 << 20  # characters that printing a container would take
MAX_DEPTH = 32  # containers inside containers
MAX_BITS = 256  # of an integer in arithmetic
MAX_WORK = 10_000_000
MAX_SECONDS = 5.0

_VIEWS = (ItemsView, KeysView, ValuesView)


class Refused(SecurityError):
    """The template asked for something that is not allowed, or for too much of it."""


class Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self.work = 0
        self.made = 0
        self._next_look = 0
        self._deadline_s = time.thread_time() + MAX_SECONDS
        self._weights: dict[int, tuple[int, int, object]] = {}

    def spend(self, work: int) -> None:
        """Pays `work` units; looks at the clock now and then."""
        self.work += work
        if self.work >= self._next_look:
            if self.work > MAX_WORK or time.thread_time() > self._deadline_s:
                raise Refused("it does too much work (loops, calls or long strings)")
            self._next_look = self.work + 20_000

    def make(self, characters: int) -> None:
        """Announces a value of so many characters, before it exists."""
        if characters > MAX_STRING:
            raise Refused(f"it makes a text of {characters:,} characters; {MAX_STRING:,} are allowed")
        self.made += characters
        if self.made > MAX_TOTAL:
            raise Refused(f"it makes more than {MAX_TOTAL:,} characters of intermediate text")
        self.spend(1 + characters // 256)

    def weigh(self, value: Any) -> int:
        """About how many characters `str(value)` would take."""
        if isinstance(value, str):
            return len(value) + 2
        return self._measure(value)[0]

    def depth(self, value: Any) -> int:
        """How deep containers are nested in `value`; 0 for a plain value."""
        return self._measure(value)[1]

    def _measure(self, value: Any) -> tuple[int, int]:
        if isinstance(value, str):
            return len(value) + 2, 0
        if isinstance(value, (list, tuple, dict, *_VIEWS)):
            known = self._weights.get(id(value))
            if known is None:
                known = self._weights[id(value)] = (*self._measure_container(value), value)
            return known[0], known[1]
        if isinstance(value, int) and value.bit_length() > 4096:
            raise Refused("it makes an integer of thousands of digits")
        if isinstance(value, Namespace):
            raise Refused("it uses a namespace as a value; only its attributes may be used")
        return 32, 0

    def _measure_container(self, value: Any) -> tuple[int, int]:
        if len(value) > MAX_ITEMS:
            raise Refused(f"it makes a list of {len(value):,} elements; {MAX_ITEMS:,} are allowed")
        self.spend(1 + len(value))
        children: Iterable[Any] = value
        if isinstance(value, dict):
            children = (part for item in value.items() for part in item)
        weight, depth = 2, 0
        for child in children:
            child_weight, child_depth = self._measure(child)
            weight += child_weight + 2
            depth = max(depth, child_depth)
            if weight > MAX_WEIGHT:
                raise Refused("it makes a list that would print as many million characters")
        if depth >= MAX_DEPTH:
            raise Refused(f"it nests lists deeper than {MAX_DEPTH}")
        return weight, depth + 1

    def keep(self, value: Any) -> Any:
        """Accounts for a value that exists already, and gives it back."""
        if isinstance(value, str):
            self.make(len(value))
        else:
            self._measure(value)
            if isinstance(value, (list, tuple, dict)):
                self.make(16 * len(value))
        return value


_CURRENT: ContextVar[Budget] = ContextVar("lmcraft_template_budget")


def current() -> Budget:
    """The budget of the rendering that is going on in this thread."""
    return _CURRENT.get()


class rendering:
    """Context manager that opens a fresh budget."""

    def __enter__(self) -> Budget:
        budget = Budget()
        self._token = _CURRENT.set(budget)
        return budget

    def __exit__(self, *_: object) -> None:
        _CURRENT.reset(self._token)


def text(value: Any) -> str:
    """`str(value)` for what a template may print."""
    budget = current()
    budget.spend(10)
    if isinstance(value, str):
        return value
    if budget.weigh(value) > MAX_STRING:
        raise Refused("it prints a list of millions of characters")
    return str(value)


def joined(parts: Iterable[str], separator: str = "") -> str:
    """`separator.join(parts)`, measured while the parts arrive."""
    budget = current()
    kept: list[str] = []
    total = 0
    for part in parts:
        total += len(part) + len(separator)
        budget.spend(1)
        if total > MAX_STRING + len(separator):
            raise Refused(f"it makes a text of more than {MAX_STRING:,} characters")
        kept.append(part)
    budget.make(total)
    return separator.join(kept)


def replaced(value: str, old: str, new: str, count: int | None = None) -> str:
    """`value.replace(old, new)` if the result is not too long."""
    found = value.count(old)
    if count is not None and count >= 0:
        found = min(found, count)
    current().make(max(len(value), len(value) + found * (len(new) - len(old))))
    return value.replace(old, new, -1 if count is None else count)


def operate(operator: str, left: Any, right: Any) -> Any:
    """The arithmetic operators of a template, with the size of the result checked first."""
    budget = current()
    budget.spend(5)
    numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if numbers:
        for number in (left, right):
            if isinstance(number, int) and number.bit_length() > MAX_BITS:
                raise Refused(f"it computes with an integer of more than {MAX_BITS} bits")
    elif operator == "*":
        times, whole = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(times, int) or not isinstance(whole, (str, list, tuple)):
            raise TypeError(f"{type(left).__name__} * {type(right).__name__}")
        budget.make(max(0, times) * len(whole) * (1 if isinstance(whole, str) else 16))
    elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
        budget.make((len(left) + len(right)) * (1 if isinstance(left, str) else 16))
    elif not isinstance(left, Undefined) and not isinstance(right, Undefined):
        raise Refused(f"it applies '{operator}' to something other than numbers")
    result = _OPERATORS[operator](left, right)
    return result if numbers or isinstance(result, str) else budget.keep(result)


_OPERATORS = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "//": lambda left, right: left // right,
    "%": lambda left, right: left % right,
}


class Each:
    """The iterable of a loop: every round is paid for, in proportion to the size of the loop's body."""

    def __init__(self, iterable: Any, cost: int) -> None:
        self._iterable = iterable
        self._cost = cost

    def __len__(self) -> int:
        return len(self._iterable)

    def __iter__(self) -> Iterator[Any]:
        budget = current()
        for item in self._iterable:
            budget.spend(self._cost)
            yield item
