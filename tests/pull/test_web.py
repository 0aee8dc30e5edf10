"""Downloads: they go on where they stopped, and nothing of what is wrong stays."""

from __future__ import annotations

import fcntl
import hashlib
import json
import random

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.pull import web

CONTENT = random.Random(1).randbytes(300_000)


def nothing(code, headers):
    return None


def wanted(server, content=CONTENT, path="/file", **changes):
    facts = {"url": server.url + path, "name": "file", "size": len(content), "sha256": sha256(content)}
    return web.File(**{**facts, **changes})


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def left():
    """What downloads left behind, by name."""
    return {file.name: file.read_bytes() for file in web.folder().glob("*")} if web.folder().exists() else {}


def test_a_whole_file(served, ranged):
    """A failure would mean that nothing can be downloaded, or that it is asked for twice."""
    server = served(lambda path, headers: ranged(CONTENT, headers))
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT
    assert left() == {sha256(CONTENT): CONTENT}
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT
    assert server.ranges() == [None]
    web.forget([wanted(server)])
    assert left() == {}


def test_gits_own_digest(served, ranged):
    """A failure would mean that the small files of a hub are not checked."""
    git = hashlib.sha1(b"blob 300000\0" + CONTENT).hexdigest()
    server = served(lambda path, headers: ranged(CONTENT, headers))
    assert web.download(wanted(server, sha256="", git=git), nothing).name == git
    assert web.download(wanted(server, sha256="", git=git), nothing).read_bytes() == CONTENT
    assert len(server.requests) == 1
    with pytest.raises(UserError, match="not what it should be"):
        web.download(wanted(server, sha256="", git="0" * 40), nothing)


def test_a_broken_connection_is_taken_up_again(served, ranged):
    """A failure would mean that a bad line means to begin anew, or that bytes are missing or doubled."""
    server = served(lambda path, headers: ranged(CONTENT, headers))
    server.cuts = [100_000, 50_000, 0, 0, 1]
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-", *["bytes=150000-"] * 3, "bytes=150001-"]


def test_another_process_goes_on(served, ranged):
    """A failure would mean that an interrupted pull begins anew."""
    server = served(lambda path, headers: ranged(CONTENT, headers))
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(UserError, match="stopped at 100,000 of 300,000") as error:
        web.download(wanted(server), nothing)
    assert "same command goes on" in str(error.value)
    assert left() == {f"{sha256(CONTENT)}.part": CONTENT[:100_000]}
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT
    assert server.ranges()[-1] == "bytes=100000-"
    assert left() == {sha256(CONTENT): CONTENT}


def test_a_server_that_knows_no_ranges(served, ranged):
    """A failure would mean that the whole file is appended to its first half."""
    server = served(lambda path, headers: (200, {}, CONTENT))
    server.cuts = [100_000]
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT
    liar = served(lambda path, headers: (206, {"Content-Range": f"bytes 0-9/{len(CONTENT)}"}, CONTENT))
    liar.cuts = [7]
    web.forget([wanted(server)])
    assert web.download(wanted(liar), nothing).read_bytes() == CONTENT


def test_a_server_that_has_less(served, ranged):
    """A failure would mean that a part which fits nothing blocks the download for ever."""
    server = served(lambda path, headers: ranged(CONTENT, headers))
    server.cuts = [100_000]
    server.answer = lambda path, headers: (
        ranged(CONTENT[:50], headers) if "Range" in headers else (200, {}, CONTENT)
    )
    with pytest.raises(UserError, match="416"):
        web.download(wanted(server), nothing)
    server.answer = lambda path, headers: ranged(CONTENT, headers)
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (CONTENT[:-1] + b"?", "not what it should be"),
        (CONTENT + b"?", "more of file than it should"),
        (bytes(len(CONTENT)), "not what it should be"),
    ],
)
def test_wrong_content_leaves_nothing(served, sent, words):
    """A failure would mean that a changed or swollen file stays on the disk, or is taken for the right one."""
    server = served(lambda path, headers: (200, {}, sent))
    with pytest.raises(UserError, match=words):
        web.download(wanted(server), nothing)
    assert left() == {}


def test_a_rotten_part_or_file(served, ranged):
    """A failure would mean that what changed on the disk is believed."""
    server = served(lambda path, headers: ranged(CONTENT, headers))
    web.folder().mkdir(parents=True)
    (web.folder() / sha256(CONTENT)).write_bytes(b"rotten")
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT
    web.forget([wanted(server)])
    (web.folder() / f"{sha256(CONTENT)}.part").write_bytes(b"rotten")
    with pytest.raises(UserError, match="nothing of it was kept"):
        web.download(wanted(server), nothing)
    assert web.download(wanted(server), nothing).read_bytes() == CONTENT


def test_two_at_once(served):
    """A failure would mean that two processes write into one part."""
    server = served(lambda path, headers: (200, {}, CONTENT))
    web.folder().mkdir(parents=True)
    with (web.folder() / f"{sha256(CONTENT)}.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="by another process"):
            web.download(wanted(server), nothing)
    assert server.requests == []


def test_redirects(served, ranged):
    """A failure would mean that a server sends us, or the user's token, wherever it likes."""
    other = served(lambda path, headers: ranged(CONTENT, headers))
    targets = {"/near": "/file", "/loop": "/loop", "/else": other.url + "/file", "/old": "http://example.org/",
               "/file:": "file:///etc/passwd", "/odd": "http://[x/"}  # fmt: skip

    def answer(path, headers):
        if path in targets:
            return 302, {"Location": targets[path]}, b""
        return ranged(CONTENT, headers)

    server = served(answer)
    near = wanted(server, path="/near", headers={"Authorization": "Bearer x", "Accept": "y"})
    assert web.download(near, nothing).read_bytes() == CONTENT
    assert [headers.get("Authorization") for _, headers in server.requests] == ["Bearer x"] * 2
    web.forget([near])
    for path in targets.keys() - {"/near"}:
        with pytest.raises(UserError):
            web.download(wanted(server, path=path), nothing)
    assert other.requests == [] and list(left().values()) in ([], [b""])


def test_what_a_network_can_do(served):
    """A failure would mean a traceback, or a file from a plain connection to anywhere."""
    server = served(lambda path, headers: (500, {}, b""))
    with pytest.raises(UserError, match="500"):
        web.download(wanted(server), nothing)
    with pytest.raises(UserError, match="told so"):
        web.download(wanted(server), lambda code, headers: UserError("told so"))
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"cannot reach 127\.0\.0\.1"):
        web.download(wanted(server), nothing)
    for url in ("http://example.org/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "x", "http://[x/", ""):
        with pytest.raises(UserError, match=r"over https|address of a server"):
            web.document(url, {}, 10, nothing)


def test_documents(served):
    """A failure would mean that an endless or senseless answer fills the memory or ends in a traceback."""
    bodies = {
        "/good": b'{"a": 1}',
        "/long": b" " * 101,
        "/odd": b"<html>",
        "/bytes": b"\xff\xfe",
        "/deep": b"[" * 100,
    }
    server = served(lambda path, headers: (200, {}, bodies[path]))
    assert web.document(f"{server.url}/good", {}, 100, nothing) == {"a": 1}
    with pytest.raises(UserError, match="too long"):
        web.document(f"{server.url}/long", {}, 100, nothing)
    for path in ("/odd", "/bytes", "/deep"):
        with pytest.raises(UserError, match="not answer in JSON"):
            web.document(server.url + path, {}, 100, nothing)
    bodies["/deep"] = json.dumps({"a": 1}).encode() + b"[" * 100_000
    with pytest.raises(UserError, match="not answer in JSON"):
        web.document(f"{server.url}/deep", {}, 10**6, nothing)
    server.cuts = [3]
    with pytest.raises(UserError):
        web.document(f"{server.url}/good", {}, 100, nothing)


def test_addresses_in_messages():
    """A failure would mean that a signed address is printed with its signature, or moves the cursor."""
    assert web.shown("https://a/b?signature=secret") == "https://a/b"
    assert web.shown("https://a/\x1b[2J") == "https://a/\\x1b[2J"
