"""docs/decisions/0001-libraries.md names what the package depends on, and nothing else."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "decisions" / "0001-libraries.md").read_text(encoding="utf-8")
SHORT = {
    "Apache-2.0": "apache",
    "BSD": "bsd",
    "GPL": "gpl",
    "LGPL": "lgpl",
    "MIT": "mit",
    "MPL-2.0": "mpl",
    "PSF-like": "python software foundation",
}


def rows() -> dict[str, tuple[str, str]]:
    """Version and licence of every library in the tables."""
    found = {}
    for names, versions, licence in re.findall(
        r"^\| ([\w, -]+?) \| ([\d., ]+) \| ([^|]+?) \|", PAGE, re.MULTILINE
    ):
        for name, version in zip(names.split(", "), versions.split(", "), strict=True):
            found[name] = (version, licence)
    return found


def test_the_page_has_every_library_we_name() -> None:
    """If this failed, a dependency would have come in without a reason, or a reason would have outlived it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    assert {re.split(r"[<>=\[]", name)[0].lower() for name in named} == {name.lower() for name in rows()}


def test_versions_are_those_that_are_pinned() -> None:
    """If this failed, the page would tell of versions that nobody tests."""
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    versions = {name.lower(): version for name, version in pinned.items()} | {
        "torch": torch_of_the_makefile()
    }
    for name, (version, _) in rows().items():
        assert versions[name.lower()] == version, name


def torch_of_the_makefile() -> str:
    return re.search(r"torch==([\d.]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))[1]


def test_licences_are_what_the_packages_say() -> None:
    """If this failed, the page would name a licence that a package does not have."""
    for name, (_, licence) in rows().items():
        try:
            facts = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        said = " ".join(
            [
                facts.get("License-Expression") or "",
                facts.get("License") or "",
                *(facts.get_all("Classifier") or []),
            ]
        ).lower()
        short = next(short for shown, short in SHORT.items() if licence.startswith(shown))
        assert short in said, name
