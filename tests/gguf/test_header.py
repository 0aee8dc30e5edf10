"""Headers of GGUF files: what is read, and that each lie in one is told."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from lmcraft.core import gguf
from lmcraft.core.errors import UserError

TENSORS = {"a": np.zeros((2, 32), np.float32), "b": np.ones(3, np.float32)}


def made(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "made.gguf"
    file.write_bytes(content)
    return file


def refused(file: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        gguf.read(file)
    assert str(file) in caught.value.where
    for part in parts:
        assert part in str(caught.value)


def test_the_header_is_what_the_library_wrote(files):
    """A failure would mean that sizes, texts or the places of tensors are not those of the file."""
    facts = files.llama_facts(4) | {"t": "ä", "list": ["", "x y"], "floats": [0.5, -1.0], "ints": [1, -2]}
    facts |= {"yes": True}
    file = files.write(files.folder / "x.gguf", facts, TENSORS)
    header = gguf.read(file)
    assert header.text("t") == "ä" and header.strings("list") == ["", "x y"] and header.flag("yes", False)
    assert header.numbers("floats") == [0.5, -1.0] and header.numbers("ints") == [1, -2]
    assert header.integer("llama.embedding_length") == 32
    assert header.number("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    assert {name: one.shape for name, one in header.tensors.items()} == {"a": (2, 32), "b": (3,)}
    content = file.read_bytes()
    for name, values in TENSORS.items():
        stored = header.tensors[name]
        assert content[stored.offset : stored.offset + stored.bytes] == values.tobytes()


def test_files_made_by_hand_are_files_of_the_library(files):
    """A failure would mean that the tests of hostile files attack a format of their own."""
    facts = files.llama_facts(4) | {"list": ["a", "b"], "numbers": [1, 2], "scores": [0.5]}
    assert (
        files.write(files.folder / "x.gguf", facts, TENSORS).read_bytes()
        == files.raw_llama(facts, TENSORS).content
    )


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda h: h.integer("nothing"), "nothing is not a count"),
        (lambda h: h.integer("t"), "t is not a count"),
        (lambda h: h.integer("minus"), "it is -1"),
        (lambda h: h.integer("yes"), "it is True"),
        (lambda h: h.number("nan"), "it is nan"),
        (lambda h: h.flag("t", True), "true or false"),
        (lambda h: h.text("ints"), "ints is not a text"),
        (lambda h: h.strings("ints"), "a list of texts"),
        (lambda h: h.numbers("list"), "a list of numbers"),
        (lambda h: h.numbers("t"), "a list of numbers"),
    ],
)  # fmt: skip
def test_a_fact_of_another_type_is_told(files, ask, told):
    """A failure would mean a traceback for a file whose facts are not what they should be."""
    raw = files.Raw(bytearray(b"GGUF"))
    raw.number(3, 4)
    raw.number(0, 8)
    raw.number(6, 8)
    for key, kind, value in (("t", 8, "x"), ("minus", 5, -1), ("yes", 7, True), ("nan", 6, float("nan")),
                             ("ints", (9, 4), [1]), ("list", (9, 8), ["x"])):  # fmt: skip
        raw.fact(key, kind, value)
    header = gguf.read(made(files.folder, raw.content + bytes(-len(raw.content) % 32)))
    with pytest.raises(UserError) as caught:
        ask(header)
    assert told in str(caught.value)
    assert (
        header.integer("nothing", 7) == 7
        and header.text("nothing", "d") == "d"
        and header.flag("nothing", True)
    )


def test_what_is_no_gguf_is_told(tmp_path):
    """A failure would mean a traceback for a file of another kind, or that a pickle is taken for something."""
    refused(made(tmp_path, b""), "0 bytes")
    refused(made(tmp_path, b"GGUF"), "4 bytes")
    refused(made(tmp_path, b"x" * 100), "not a GGUF file", "xxxx")
    refused(made(tmp_path, b"\x80\x04\x95" + bytes(100)), "pickle, which could run code")
    refused(made(tmp_path, b"PK\x03\x04" + bytes(100)), "pickle, which could run code")
    refused(tmp_path / "nothing.gguf", "cannot be read")
    head = struct.Struct("<4sIQQ")
    refused(made(tmp_path, head.pack(b"GGUF", 1, 0, 0)), "GGUF version 1 cannot be read")
    refused(made(tmp_path, head.pack(b"GGUF", 3 << 24, 0, 0)), "big-endian")


LIES = {
    "more tensors than there is room for": lambda r: r.number(1 << 20, 8),
    "a tensor with no dimension": lambda r: r.tensor("x", (), 0, 0),
    "a tensor with nine dimensions": lambda r: r.tensor("x", (1,) * 9, 0, 0),
    "a dimension of zero": lambda r: r.tensor("x", (0, 4), 0, 0),
    "dimensions whose product overflows": lambda r: r.tensor("x", (1 << 32, 1 << 32), 0, 0),
    "a dimension of 2^64 - 1": lambda r: r.tensor("x", ((1 << 64) - 1,), 0, 0),
    "a type that is not known": lambda r: r.tensor("x", (32,), 99, 0),
    "a row that is no whole block": lambda r: r.tensor("x", (33,), 8, 0),
    "data beyond the end": lambda r: r.tensor("x", (1 << 20,), 0, 0),
    "an offset beyond the end": lambda r: r.tensor("x", (1,), 0, 1 << 40),
    "an offset that is not aligned": lambda r: r.tensor("x", (1,), 0, 4),
    "a name without letters": lambda r: r.tensor("", (1,), 0, 0),
    "a name of 300 letters": lambda r: r.tensor("x" * 300, (1,), 0, 0),
    "a name that is not UTF-8": lambda r: r.tensor(b"\xff", (1,), 0, 0),
    "a name with a line break": lambda r: r.tensor("a\nb", (1,), 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_tensor_is_told(files, lie):
    """A failure would mean that a hostile file makes the reader read elsewhere, allocate or crash."""
    raw = files.Raw(bytearray(b"GGUF"))
    raw.number(3, 4)
    raw.number(1, 8)
    raw.number(0, 8)
    LIES[lie](raw)
    refused(made(files.folder, raw.content + bytes(-len(raw.content) % 32) + bytes(32)), "damaged")


def cut_text(raw) -> None:
    """Turns the empty list at the end into one of a text that is longer than the file."""
    del raw.content[-8:]
    raw.number(1, 8)
    raw.number(99, 8)


FACT_LIES = {
    "twice": lambda r: (r.fact("k", 4, 1), r.fact("k", 4, 1)),
    "an unknown type": lambda r: (r.text("k"), r.number(13, 4)),
    "a list of lists": lambda r: (r.text("k"), r.number(9, 4), r.number(9, 4), r.number(1, 8)),
    "a list of 2^63 numbers": lambda r: (r.text("k"), r.number(9, 4), r.number(4, 4), r.number(1 << 63, 8)),
    "a list of 2^64 - 1 texts": lambda r: (r.text("k"), r.number(9, 4), r.number(8, 4), r.number(-1, 8)),
    "a list of a million texts": lambda r: (r.text("k"), r.number(9, 4), r.number(8, 4), r.number(1 << 20, 8)),
    "a text of 2^63 bytes": lambda r: (r.text("k"), r.number(8, 4), r.number(1 << 63, 8)),
    "a text that is not UTF-8": lambda r: r.fact("k", 8, b"\xff\xfe"),
    "a text in a list that goes beyond": lambda r: r.fact("k", (9, 8), []) or cut_text(r),
    "an alignment of 0": lambda r: r.fact("general.alignment", 4, 0),
    "an alignment of 12": lambda r: r.fact("general.alignment", 4, 12),
    "an alignment of 2^31": lambda r: r.fact("general.alignment", 4, 1 << 31),
    "an alignment that is true": lambda r: r.fact("general.alignment", 7, True),
}  # fmt: skip


@pytest.mark.parametrize("lie", FACT_LIES)
def test_a_lie_about_a_fact_is_told(files, lie):
    """A failure would mean that a hostile file makes the reader loop, allocate or crash."""
    raw = files.Raw(bytearray(b"GGUF"))
    raw.number(3, 4)
    raw.number(0, 8)
    raw.number(2 if lie == "twice" else 1, 8)
    FACT_LIES[lie](raw)
    refused(made(files.folder, raw.content + bytes(-len(raw.content) % 32)), "damaged")


@pytest.mark.parametrize(("second", "told"), [("a", "there twice"), ("b", "the tensor before it ends")])
def test_tensors_follow_each_other(files, second, told):
    """A failure would mean that two tensors share bytes, or that one hides another."""
    raw = files.Raw(bytearray(b"GGUF"))
    raw.number(3, 4)
    raw.number(2, 8)
    raw.number(0, 8)
    raw.tensor("a", (16,), 0, 0)
    raw.tensor(second, (16,), 0, 64 if second == "a" else 32)
    refused(made(files.folder, raw.content + bytes(-len(raw.content) % 32) + bytes(128)), told)


def test_bytes_that_belong_to_nothing_are_told(files):
    """A failure would mean that a size which was made smaller goes unnoticed."""
    content = files.raw_llama(files.llama_facts(4), TENSORS).content
    gguf.read(made(files.folder, content))
    gguf.read(made(files.folder, content[: -(32 - 12)]))  # the last padding may be missing
    refused(made(files.folder, content + bytes(32)), "belong to nothing")


def test_a_fact_that_is_not_utf8_is_told_when_it_is_asked_for(files):
    """A failure would mean a traceback for a vocabulary with a broken token."""
    raw = files.Raw(bytearray(b"GGUF"))
    raw.number(3, 4)
    raw.number(0, 8)
    raw.number(1, 8)
    raw.fact("list", (9, 8), [b"\xff"])
    header = gguf.read(made(files.folder, raw.content + bytes(-len(raw.content) % 32)))
    with pytest.raises(UserError, match="damaged"):
        header.strings("list")
