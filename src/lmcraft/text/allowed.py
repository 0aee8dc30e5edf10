"""What a chat template may call: functions, filters, tests and methods, each with its result bounded.

1. The lists hold what chat templates in the field use. What is not on them does not exist for a template, so whatever
   pads, repeats, formats or prints at will (`center`, `format`, `zfill`, `pprint`, `lipsum` ...) is gone.
2. `guarded` weighs what goes into a filter or test and accounts for what comes out (`text/budget.py`).

Proved by tests/unit/text/test_jinja.py.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import filters, pass_environment
from jinja2.exceptions import TemplateError
from jinja2.runtime import LoopContext
from jinja2.tests import TESTS
from jinja2.utils import Namespace

from . import budget
from .budget import MAX_ITEMS, MAX_STRING, Refused, current


def _raise_exception(message: Any = "") -> None:
    raise TemplateError(budget.text(message)[:500])


def _strftime_now(form: str) -> str:
    # A width such as %999999999d would make the C library write that many characters.
    if len(form) > 100 or not re.fullmatch(r"(?:%-?[A-Za-z%]|[^%])*", form):
        raise Refused("its date format is too long or has field widths")
    return datetime.now().strftime(form)


def _range(*bounds: int) -> range:
    made = range(*bounds)
    if len(made) > MAX_ITEMS:
        raise Refused(f"it asks for a range of {len(made):,} numbers; {MAX_ITEMS:,} are allowed")
    return made


def _namespace(*values: Any, **named: Any) -> Namespace:
    attributes = dict(*values, **named)
    if any(not isinstance(name, str) or name.startswith("_") for name in attributes):
        raise Refused("it uses a namespace attribute that begins with an underscore")
    return Namespace(attributes)


GLOBALS: dict[str, Callable[..., Any]] = {
    "raise_exception": _raise_exception,
    "strftime_now": _strftime_now,
    "range": _range,
    "namespace": _namespace,
    "dict": dict,
}


def _join(environment: Any, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(filters.make_attrgetter(environment, attribute), value)
    return budget.joined((budget.text(item) for item in value), budget.text(d))


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = budget.text(value)
    current().make(
        len(text) + (text.count("\n") + 1) * (len(width) if isinstance(width, str) else abs(width))
    )
    return filters.do_indent(text, width, first, blank)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    return budget.replaced(budget.text(value), budget.text(old), budget.text(new), count)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    weight = current().weigh(value)
    if weight > MAX_STRING:
        raise Refused("it prints millions of characters as JSON")
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise Refused("it indents JSON by something other than 0 to 16 spaces")
    if indent and weight * indent * current().depth(value) > 8 * MAX_STRING:
        raise Refused("it prints millions of characters as indented JSON")
    if separators is not None and sum(len(budget.text(part)) for part in separators) > 8:
        raise Refused("it uses long separators in JSON")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _sum(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    if attribute is not None:
        iterable = map(filters.make_attrgetter(environment, attribute), iterable)
    return functools.reduce(functools.partial(budget.operate, "+"), iterable, start)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not isinstance(precision, int) or abs(precision) > 20:
        raise Refused("it rounds to more than 20 digits")
    return filters.do_round(value, precision, method)  # type: ignore[arg-type]


def _trim(value: Any, chars: str | None = None) -> str:
    return _call_method(budget.text(value).strip, (chars,), {})


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    return value[slice(start, stop, step)]


_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "join": pass_environment(_join),
    "indent": _indent,
    "replace": _replace,
    "tojson": _tojson,
    "sum": pass_environment(_sum),
    "round": _round,
    "trim": _trim,
    "string": budget.text,
    "safe": budget.text,
    "_slice": _slice,
}


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


_FIELD_FILTERS = _words(
    "abs capitalize count d default dictsort first float groupby int items last length list lower map max min reject "
    "rejectattr reverse select selectattr sort title truncate unique upper wordcount"
)
_WALKS_CHARACTERS = _words(
    "list sort unique groupby map select reject selectattr rejectattr max min sum join"
)


def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter or test with its arguments weighed before and its result accounted for after."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        purse = current()
        for value in (*args, *kwargs.values()):
            if isinstance(value, str) and len(value) > MAX_ITEMS and name in _WALKS_CHARACTERS:
                raise Refused(f"it walks through a long text with the filter '{name}'")
            purse.spend(5 + purse.weigh(value) // 256)
        return purse.keep(function(*args, **kwargs))

    return run


_METHODS: dict[type, frozenset[str]] = {
    str: _words(
        "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower "
        "isnumeric isprintable isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace "
        "rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
    ),
    dict: _words("get items keys values copy"),
    list: _words("count index copy"),
    tuple: _words("count index"),
}
# CPython searches backwards, and strips, in time proportional to the product of both lengths.
_SLOW_WITH_LONG_ARGUMENT = _words("rfind rindex rpartition rsplit strip lstrip rstrip")


def _call_method(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a method of a plain value that is on the list."""
    owner, name = method.__self__, method.__name__
    if name in _SLOW_WITH_LONG_ARGUMENT and any(isinstance(a, str) and len(a) > 256 for a in args):
        raise Refused(f"it gives a long text to '{name}'")
    if name == "join":
        return budget.joined(*args, owner)
    if name == "replace":
        return budget.replaced(owner, *args, **kwargs)
    if name in ("split", "rsplit"):
        separator, limit = (*args, None, None)[:2]
        limit = kwargs.get("maxsplit", -1 if limit is None else limit)
        # One more than allowed, so that the account below refuses instead of a truncated list going unnoticed.
        limit = MAX_ITEMS + 1 if limit < 0 else min(limit, MAX_ITEMS + 1)
        return current().keep(method(kwargs.get("sep", separator), limit))
    if name == "splitlines" and len(owner) > 10 * MAX_ITEMS:
        raise Refused("it splits a very long text into lines")
    return current().keep(method(*args, **kwargs))


def may_call(method: Any) -> bool:
    """Whether `method` is one that templates may call: of a plain value, or of the `loop` variable."""
    if isinstance(method, BuiltinMethodType):
        return method.__name__ in _METHODS.get(type(method.__self__), ())
    return (
        isinstance(method, MethodType)
        and isinstance(method.__self__, LoopContext)
        and method.__name__ in ("cycle", "changed")
    )


def call_method(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a method that `may_call` allowed."""
    purse = current()
    if isinstance(method.__self__, LoopContext):
        return method(*args, **kwargs)
    purse.spend(purse.weigh(method.__self__) // 256)
    return _call_method(method, args, kwargs)


def chosen_filters() -> dict[str, Callable[..., Any]]:
    """The filters of a template by name."""
    chosen = {name: filters.FILTERS[name] for name in _FIELD_FILTERS} | _OWN_FILTERS
    return {name: guarded(name, function) for name, function in chosen.items()}


def chosen_tests() -> dict[str, Callable[..., Any]]:
    """The tests (`is defined` ...) of a template by name."""
    return {name: guarded(name, function) for name, function in TESTS.items()}
