"""Turns YAML and `key=value` arguments into frozen, validated configuration, naming every mistake and its line at once.

1. The YAML is read from parser events, not from PyYAML's constructors: no tag, anchor or merge key is obeyed, keys are
   text, a key given twice is a mistake, and depth and size are bounded. Nothing in a file can run code.
2. Plain scalars follow the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema), so `1e-4` is a number
   and `no` is text, where YAML 1.1 has it the other way round.
3. pydantic finds the mistakes; this file adds file and line, what was found, and the nearest valid name.

Proved by tests/unit/core/test_config.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
import yaml

from .errors import UserError
from .find import suggestion

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_FOUND_CHARACTERS = 80

Loc = tuple[str | int, ...]
_EVENTS_OF = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".nan": float("nan"), ".NaN": float("nan"), ".NAN": float("nan"),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
}  # fmt: skip


class Strict(pydantic.BaseModel):
    """The base of every Config: unknown keys are mistakes, instances never change, numbers are finite."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


SchemaT = TypeVar("SchemaT", bound=pydantic.BaseModel)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a configuration: where (file and line, or argument), which key, and what about it."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.what}" if self.key else f"{self.where}: {self.what}"


@dataclass(slots=True)
class Document:
    """A configuration before validation: plain values, the place of each of them, and mistakes found so far."""

    source: str
    value: dict[str, Any] = field(default_factory=dict)
    places: dict[Loc, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def where(self, loc: Sequence[str | int] = ()) -> str:
        """The place of a value, `file:line` or `argument 'a.b=1'`; of its nearest parent if it is not there."""
        return self.places.get(self.path(loc), self.source)

    def path(self, loc: Sequence[str | int]) -> Loc:
        """The part of a pydantic location that exists here (pydantic adds names of union members in between)."""
        path: Loc = ()
        for part in loc:
            if (*path, part) in self.places:
                path = (*path, part)
        return path

    def sub(self, *keys: str | int) -> Document:
        """The mapping under `keys` as a document of its own that still knows its lines (empty if it is not there)."""
        value: Any = self.value
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        places = {
            path[len(keys) :]: place for path, place in self.places.items() if path[: len(keys)] == keys
        }
        return Document(self.where(keys), value if isinstance(value, dict) else {}, places)


def read(path: Path | str | None, overrides: Sequence[str] = ()) -> Document:
    """Reads a YAML file (or starts from nothing) and applies `a.b.c=value` arguments in order; the last one wins.

    Raises:
        UserError: the file cannot be read, is larger than `MAX_BYTES`, or is not YAML at all. Everything else waits
            in `Document.mistakes` for `validate`, so that the user sees all of it at once.
    """
    document = Document("arguments") if path is None else parse(_text(Path(path)), str(path))
    for argument in overrides:
        override(document, argument)
    return document


def parse(text: str, source: str) -> Document:
    """Parses YAML text whose root is a mapping; `source` is the name shown in messages."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise UserError(f"the configuration is larger than {MAX_BYTES:,} bytes", where=source)
    document = Document(source)
    try:
        value = _Reader(document, text).root()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UserError(
            f"not valid YAML: {problem}", where=f"{source}:{mark.line + 1}" if mark else source
        ) from error
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise UserError(
            "a configuration is a mapping of keys to values",
            where=document.where(),
            why=f"found {_shown(value)}",
        )
    document.value = value
    return document


def validate(schema: type[SchemaT], document: Document) -> SchemaT:
    """Makes a `schema` from the document, or raises ONE UserError that lists every mistake with its place."""
    mistakes = list(document.mistakes)
    instance = None
    try:
        instance = schema.model_validate(document.value)
    except pydantic.ValidationError as error:
        mistakes += _explain(schema, document, error)
    if not mistakes and instance is not None:
        return instance
    if len(mistakes) == 1:
        only = mistakes[0]
        raise UserError(f"{only.key}: {only.what}" if only.key else only.what, where=only.where)
    listing = "\n".join(f"  {mistake}" for mistake in mistakes)
    raise UserError(f"{len(mistakes)} mistakes in the configuration:\n{listing}")


def dump(config: pydantic.BaseModel) -> str:
    """The configuration as YAML, complete with defaults; `validate` of its `parse` gives an equal one back."""
    plain = config.model_dump(mode="json")
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) YAML 1.2 scalar: null, boolean, integer, float or text."""
    if text in _WORDS:
        return _WORDS[text]
    if (
        len(text) <= 1000
    ):  # Python refuses to parse integers of more than 4300 digits; such text is not a number
        if _INT.fullmatch(text):
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 *or* 1.2 would read as something else, so every reader agrees."""


_Dumper.yaml_implicit_resolvers = {
    first: list(pairs) for first, pairs in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
for _pattern in (_INT, _FLOAT):
    _Dumper.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the configuration: {error.strerror}", where=str(path)) from error
    if len(raw) > MAX_BYTES:
        raise UserError(f"the configuration is larger than {MAX_BYTES:,} bytes", where=str(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError("the configuration is not UTF-8 text", where=f"{path}:{line}") from error


class _Reader:
    """Builds plain values from parser events and notes the place of each value in the document."""

    def __init__(self, document: Document, text: str) -> None:
        self.document = document
        self.events: Iterator[Any] = yaml.parse(text, Loader=_EVENTS_OF)

    def root(self) -> Any:
        value, seen = None, 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                seen += 1
                if seen > 1:
                    self._mistake(event, (), "a second YAML document in the same file")
                    return value
            elif not isinstance(event, yaml.StreamStartEvent | yaml.DocumentEndEvent | yaml.StreamEndEvent):
                value = self._node(event, ())
        return value

    def _node(self, event: Any, loc: Loc) -> Any:
        self.document.places.setdefault(loc, self._place(event))
        if isinstance(event, yaml.AliasEvent):
            self._mistake(event, loc, f"aliases (*{event.anchor}) are not supported; write the value out")
            return None
        if event.anchor:
            self._mistake(event, loc, f"anchors (&{event.anchor}) are not supported; write the value out")
        if event.tag not in (None, "!"):
            self._mistake(event, loc, f"tags ({event.tag}) are not supported; write a plain value")
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.implicit[0] and event.style in (None, "") else event.value
        if len(loc) >= MAX_DEPTH:
            raise UserError(f"the YAML is nested deeper than {MAX_DEPTH} levels", where=self._place(event))
        return self._list(loc) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(loc)

    def _list(self, loc: Loc) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*loc, len(items))))
        return items

    def _mapping(self, loc: Loc) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._mistake(event, loc, "a key must be plain text")
                self._node(event, (*loc, "?"))
                self._node(next(self.events), (*loc, "?"))
                continue
            key = event.value
            if key in items:
                first = self.document.places[(*loc, key)]
                self._mistake(event, (*loc, key), f"given twice, first at {first}")
            else:
                self.document.places[(*loc, key)] = self._place(event)
            items[key] = self._node(next(self.events), (*loc, key))
        return items

    def _place(self, event: Any) -> str:
        return f"{self.document.source}:{event.start_mark.line + 1}"

    def _mistake(self, event: Any, loc: Loc, what: str) -> None:
        self.document.mistakes.append(Mistake(self._place(event), _dotted(loc), what))


def override(document: Document, argument: str) -> None:
    """Sets `a.b.c` of the document to the value of one `a.b.c=value` argument; a wrong one is noted in `mistakes`."""
    place = f"argument {argument!r}"
    key, equals, text = argument.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        document.mistakes.append(Mistake(place, "", "an argument is written key=value or group.key=value"))
        return
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        try:
            inner = parse(f"value: {text}", place)
        except UserError as error:
            document.mistakes.append(Mistake(place, key, error.what))
            return
        document.mistakes += [Mistake(place, key, mistake.what) for mistake in inner.mistakes]
        value = inner.value["value"]
    else:
        value = scalar(text.strip())
    target: Any = document.value
    loc: Loc = ()
    for part in parts[:-1]:
        step = int(part) if isinstance(target, list) and part.isdecimal() else part
        loc = (*loc, step)
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
            document.places[loc] = place
        if not _reachable(target, step):
            document.mistakes.append(Mistake(place, _dotted(loc), "there is no such group to set a key in"))
            return
        target = target[step]
    last = int(parts[-1]) if isinstance(target, list) and parts[-1].isdecimal() else parts[-1]
    if isinstance(target, dict) or _reachable(target, last):
        target[last] = value
        _mark(document, (*loc, last), value, place)
    else:
        found = document.path(loc)
        document.mistakes.append(
            Mistake(place, _dotted((*loc, last)), f"{_dotted(found)} is not a group of keys")
        )


def _reachable(target: Any, step: str | int) -> bool:
    if isinstance(target, list):
        return isinstance(step, int) and step < len(target)
    return isinstance(target, dict) and step in target


def _mark(document: Document, loc: Loc, value: Any, place: str) -> None:
    """Forgets the places of a replaced value and notes the argument as the place of the new one."""
    for old in [path for path in document.places if path[: len(loc)] == loc]:
        del document.places[old]
    document.places.setdefault((), place)
    document.places[loc] = place
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        _mark(document, (*loc, key), child, place)


def _explain(
    schema: type[pydantic.BaseModel], document: Document, error: pydantic.ValidationError
) -> list[Mistake]:
    """One mistake per place; members of a union that all refuse a value are joined with "or"."""
    found: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors(include_url=False):
        loc = problem["loc"]
        path = document.path(loc)
        match problem["type"]:
            case "extra_forbidden":
                valid = sorted(_fields(schema, loc[:-1]))
                key = str(loc[-1])
                what = f"unknown key{suggestion(key, valid) or '; valid keys: ' + ', '.join(valid)}"
            case "missing":
                path = (*document.path(loc[:-1]), loc[-1])
                what = "required, but not given"
            case "value_error":
                what = str(problem["ctx"]["error"])
            case "union_tag_not_found":
                what = f"required, but not given: {problem['ctx']['discriminator']}"
            case _:
                what = _expected(problem)
        found.setdefault((document.where(path), _dotted(path)), []).append(what)
    return [Mistake(where, key, " or ".join(dict.fromkeys(whats))) for (where, key), whats in found.items()]


def _expected(problem: Any) -> str:
    """What pydantic expected, what it found, and for a word from a list the nearest valid one."""
    message = problem["msg"].replace("Input should be", "expected")
    hint = ""
    if isinstance(problem["input"], str):
        hint = suggestion(problem["input"], re.findall(r"'([^']*)'", message))
    return f"{message}, found {_shown(problem['input'])}{hint}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_FOUND_CHARACTERS else text[: MAX_FOUND_CHARACTERS - 1] + "…"


def _fields(schema: type[pydantic.BaseModel], loc: Iterable[str | int]) -> set[str]:
    """The field names valid at a pydantic location, through lists, unions and their tags."""
    models = {schema}
    for part in loc:
        inner = {
            model
            for outer in models
            if isinstance(part, str) and part in outer.model_fields
            for model in _models(outer.model_fields[part].annotation)
        }
        tagged = {model for model in models if part == model.__name__ or part in _tags(model)}
        models = inner or tagged or models
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _tags(model: type[pydantic.BaseModel]) -> set[Any]:
    return {value for item in model.model_fields.values() for value in get_args(item.annotation)}


def _dotted(loc: Loc) -> str:
    return ".".join(str(part) for part in loc)
