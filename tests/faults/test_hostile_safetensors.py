"""Thousands of damaged safetensors files: each is read, or refused in a clear error, and none takes much memory."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lmcraft.core.errors import UserError
from lmcraft.models import safetensors_file

TENSORS = {
    "model.embed_tokens.weight": torch.randn(7, 4), "model.norm.weight": torch.randn(4).bfloat16(),
    "lm_head.weight": torch.randn(7, 4).half(), "count": torch.tensor(3),
}  # fmt: skip
GOOD = save(TENSORS, metadata={"format": "pt"})
HEADER_BYTES = int.from_bytes(GOOD[:8], "little")
HEADER, DATA = json.loads(GOOD[8 : 8 + HEADER_BYTES]), GOOD[8 + HEADER_BYTES :]
EXTREMES = [
    0,
    1,
    -1,
    2**31,
    2**32,
    2**63 - 1,
    2**64,
    len(GOOD),
    len(GOOD) - 1,
    len(GOOD) + 1,
    len(DATA),
    len(DATA) + 1,
]
ODD = st.sampled_from([*EXTREMES, True, None, 1.5, "4", [], {}, "F64", "BOOL", "Q4"])


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """One file that all examples overwrite."""
    return tmp_path_factory.mktemp("hostile") / "model.safetensors"


def outcome(file: Path, content: bytes) -> str:
    """`read` or `refused`; reads all numbers where the header is accepted."""
    file.write_bytes(content)
    try:
        found = safetensors_file.read(file)
        taken = sum(piece.nbytes for stored in found.values() for _, piece in safetensors_file.pieces(stored))
        assert taken <= len(content)
    except UserError as error:
        assert error.where == str(file) and error.why
        return "refused"
    return "read"


def with_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + DATA


def test_the_good_file_is_read(file):
    """If it were not, every damaged one would be refused for nothing."""
    assert outcome(file, GOOD) == "read" and outcome(file, with_header(HEADER)) == "read"


@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(GOOD)),
)
def test_flipped_and_cut_bytes(file, flips, length):
    """A traceback here would meet a user whose download broke off."""
    content = bytearray(GOOD)
    for place, value in flips:
        content[place] = value
    outcome(file, bytes(content))
    assert outcome(file, bytes(content[:length])) == "refused" or length == len(GOOD)


def drawn(data: st.DataObject) -> object:
    """An odd value of its own: what one example changes must not turn up in the next one."""
    return copy.deepcopy(data.draw(ODD))


@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.data())
def test_numbers_and_parts_of_the_header_exchanged(file, data):
    """A crash here would mean that sizes from a stranger are believed."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from([*TENSORS, "__metadata__"]))
        entry = header.get(name)
        if not isinstance(entry, dict) or name == "__metadata__":
            header[name] = drawn(data)
            continue
        part = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "gone", "whole"]))
        if part == "whole":
            header[name] = drawn(data)
        elif part == "gone":
            entry.pop(data.draw(st.sampled_from(["dtype", "shape", "data_offsets"])), None)
        elif isinstance(entry.get(part), list) and entry[part] and data.draw(st.booleans()):
            entry[part][data.draw(st.integers(0, len(entry[part]) - 1))] = drawn(data)
        else:
            entry[part] = drawn(data)
    outcome(file, with_header(header))


@pytest.mark.parametrize("length", [n for n in EXTREMES if 0 <= n < 2**64])
def test_every_length_of_the_header(file, length):
    """A failure would mean that eight bytes can take all memory."""
    found = outcome(file, length.to_bytes(8, "little") + GOOD[8:])
    assert found == "refused"


def test_a_file_cannot_ask_for_memory(file):
    """A failure would mean that a small file fills the machine."""
    claims = {"a": {"dtype": "F64", "shape": [2**40, 2**15], "data_offsets": [0, 2**58]}}
    tracemalloc.start()
    try:
        assert outcome(file, with_header(claims)) == "refused"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
