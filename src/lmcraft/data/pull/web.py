"""Downloads over HTTP: resumed where they stopped, bounded in size, and worth nothing before their digest is right.

1. A download goes to `store/.downloads/<digest>.part`. The next attempt asks for the rest with a Range request; a
   server that answers with the whole file instead is taken at its word. A part is locked while somebody writes it.
2. More bytes than announced, or another digest, and the part is deleted: nothing of it stays.
3. Redirects lead to https only, or stay on the loopback host they came from; passwords and tokens are sent to the host
   they are meant for and not along.
4. Everything that a network can do wrong becomes a UserError. Proxies and certificates are those of the environment
   (`HTTPS_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`), as urllib reads them.

Proved by tests/pull/test_web.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ...core.disk import digest, free_space, writing
from ...core.errors import UserError
from ...core.log import Progress
from .. import store
from .address import LOOPBACK

TIMEOUT_S = 30
_CHUNK = 2**20
_ATTEMPTS = 3  # in a row without a single new byte
_MB = 1_000_000
_AGENT = "lmcraft"
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

Explain = Callable[[int, Mapping[str, str]], UserError | None]


@dataclass(frozen=True, slots=True)
class File:
    """A file to download.

    Attributes:
        size: exact, in bytes.
        sha256: of its content; or "" when only git's name for it is known.
        git: SHA-1 that git gives a file of this content, or "".
        headers: sent with the request; `Authorization` only to the host of `url`.
    """

    url: str
    name: str
    size: int
    sha256: str = ""
    git: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def hasher(self) -> Any:
        """A hash object that `digest` can be compared with once the whole content went through it."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)

    @property
    def digest(self) -> str:
        return self.sha256 or self.git


def folder() -> Path:
    """Where downloads are until the entry that they belong to is whole."""
    return store.folder() / ".downloads"


def document(url: str, headers: Mapping[str, str], limit: int, explain: Explain) -> Any:
    """The JSON document at an address, at most `limit` bytes of it."""
    with _opened(url, headers, explain) as answer:
        try:
            raw = answer.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(url, error) from error
    if len(raw) > limit:
        raise UserError("the answer of the server is too long", where=shown(url), why=f"over {limit:,} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError("the server did not answer in JSON", where=shown(url)) from error


def download(file: File, explain: Explain) -> Path:
    """Fetch a file, or what is missing of it; returns where it lies, whole and verified, in `folder()`.

    Raises:
        UserError: the server cannot be reached, refuses, stops half-way, or sends another content.
    """
    whole = folder() / file.digest
    with writing(whole, file.size):
        folder().mkdir(parents=True, exist_ok=True)
        if whole.is_file():
            if _hashed(file, whole) == file.digest:
                return whole
            whole.unlink()
        part = whole.with_name(f"{whole.name}.part")
        with part.open("a+b") as target:
            _lock(target, file)
            free_space(folder(), file.size - part.stat().st_size)
            _fill(file, target, explain)
            part.replace(whole)
    return whole


def forget(files: list[File]) -> None:
    """Remove downloads that have become part of an entry."""
    for file in files:
        (folder() / file.digest).unlink(missing_ok=True)


def unfinished() -> list[Path]:
    """What interrupted pulls left: parts of files, and whole files of models that are not whole."""
    return [file for file in sorted(folder().iterdir()) if file.is_file()] if folder().is_dir() else []


def shown(url: str) -> str:
    """An address for a message: without a query, which can hold a signature."""
    return ascii(url.partition("?")[0])[1:-1][:200]


def _fill(file: File, target: IO[bytes], explain: Explain) -> None:
    """Bring the part to its full length and check it; deletes it when its content is wrong."""
    target.seek(0)
    hasher = file.hasher()
    while chunk := target.read(_CHUNK):
        hasher.update(chunk)
    attempts = 0
    with Progress(max(1, file.size // _MB), "MB", file.name, start=target.tell() // _MB) as progress:
        while target.tell() < file.size:
            before = target.tell()
            hasher = _more(file, target, hasher, progress, explain)
            attempts = attempts + 1 if target.tell() <= before else 0
            if target.tell() < file.size and attempts >= _ATTEMPTS:
                raise UserError(
                    f"the download of {file.name} stopped at {target.tell():,} of {file.size:,} bytes",
                    where=shown(file.url), fix="the same command goes on from there",
                )  # fmt: skip
    if target.tell() != file.size or hasher.hexdigest() != file.digest:
        target.truncate(0)
        Path(target.name).unlink()
        raise UserError(
            f"{file.name} is not what it should be", where=shown(file.url),
            why=f"its digest is {hasher.hexdigest()}, expected {file.digest}; nothing of it was kept",
            fix="try again; if it stays, do not trust this source",
        )  # fmt: skip
    target.flush()


def _more(file: File, target: IO[bytes], hasher: Any, progress: Progress, explain: Explain) -> Any:
    """One request for the rest; returns the hash of all that is there now. A broken connection just ends it."""
    place = target.tell()
    headers = {**file.headers, **({"Range": f"bytes={place}-"} if place else {})}

    def refused(code: int, answered: Mapping[str, str]) -> UserError | None:
        if code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # what we have is of no use to this server
            target.truncate(0)
        return explain(code, answered)

    with _opened(file.url, headers, refused) as answer:
        begins = _RANGE.match(answer.headers.get("Content-Range", ""))
        if answer.status != http.client.PARTIAL_CONTENT or not begins or int(begins[1]) != place:
            target.seek(0)
            target.truncate()
            hasher = file.hasher()
        for chunk in _chunks(answer):
            if target.tell() + len(chunk) > file.size:
                target.truncate(0)
                Path(target.name).unlink()
                raise UserError(
                    f"the server sends more of {file.name} than it should", where=shown(file.url),
                    why=f"over {file.size:,} bytes; nothing of it was kept",
                )  # fmt: skip
            target.write(chunk)
            hasher.update(chunk)
            progress.update(target.tell() // _MB)
    target.flush()
    return hasher


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives, up to the end or to where the connection breaks: how much is missing tells the two apart."""
    while True:
        try:
            chunk = answer.read(_CHUNK)
        except (OSError, http.client.HTTPException):
            return
        if not chunk:
            return
        yield chunk


def _lock(target: IO[bytes], file: File) -> None:
    try:
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{file.name} is being downloaded by another process", fix="wait until it is done"
        ) from error


def _hashed(file: File, path: Path) -> str:
    if file.sha256:
        return digest(path)
    hasher = file.hasher()
    hasher.update(path.read_bytes())
    return hasher.hexdigest()


@contextlib.contextmanager
def _opened(url: str, headers: Mapping[str, str], explain: Explain) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET request; a refusal is told by `explain`, or in general words."""
    _check(url)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"})
        for name, value in headers.items():
            request.add_unredirected_header(name, value) if name == "Authorization" else request.add_header(
                name, value
            )
        here = urlsplit(url).hostname in LOOPBACK  # no proxy stands between this machine and itself
        proxies = urllib.request.ProxyHandler({} if here else None)
        answer = urllib.request.build_opener(_Redirects, proxies).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            raise (
                explain(error.code, error.headers)
                or UserError(f"the server answers {error.code} {error.reason}"[:200], where=shown(url))
            ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from error
    with answer:
        yield answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where it may lead."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        stays = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)
        if not stays and (new.scheme != "https" or new.hostname in LOOPBACK):
            raise UserError(
                "the server leads elsewhere", where=shown(req.full_url), why=f"to {shown(newurl)}"
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and stays:
            request.unredirected_hdrs.update(
                {name: value for name, value in req.unredirected_hdrs.items() if name == "Authorization"}
            )
        return request


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    except ValueError as error:
        raise UserError("this is not an address of a server", where=shown(url)) from error
    if not secure:
        raise UserError(
            "models are fetched over https", where=shown(url), why="plain http is for this machine only"
        )


def _unreachable(url: str, error: Exception) -> UserError:
    reason = getattr(error, "reason", None) or error
    return UserError(
        f"cannot reach {ascii(urlsplit(url).hostname or url)[1:-1]}", where=shown(url),
        why=ascii(str(reason))[1:-1][:200],
        fix="check the network and the proxy; what was downloaded is kept, and the same command goes on",
    )  # fmt: skip
