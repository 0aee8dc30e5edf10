"""Safetensors files made to keep a machine busy or full are refused in seconds of its time and bounded memory."""

from __future__ import annotations

import gc
import json
import pickle
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmcraft.core.errors import UserError
from lmcraft.models import decoder, model, safetensors_file, weights

SECONDS = 2.0  # of the processor
MEGABYTES = 500
SHAPES = {"a.weight": (3, 4), "b": (2,), "c": (), "empty": (0, 4)}


def whole(header: dict | bytes, data: bytes) -> bytes:
    """A file with this header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def described() -> tuple[dict, bytes]:
    """Header and data of a good file."""
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in SHAPES.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    return header, bytes(range(place))


HEADER, DATA = described()
CONTENT = whole(HEADER, DATA)
EXTREMES = (
    0,
    1,
    -1,
    1 << 31,
    (1 << 63) - 1,
    1 << 64,
    len(CONTENT) - 1,
    len(CONTENT),
    len(CONTENT) + 1,
    0.5,
    None,
    "4",
    [],
    True,
)


@pytest.fixture(autouse=True)
def bounded_memory():
    """The peak of the process may not grow by more than `MEGABYTES`; what other tests left behind is not collected."""
    gc.freeze()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    gc.unfreeze()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


def refused(file: Path, content: bytes) -> bool:
    """Whether a file is refused; it must be refused properly, or read."""
    file.write_bytes(content)
    began = time.process_time()
    try:
        found = safetensors_file.read(file)
    except UserError as error:
        assert error.what and str(file) in (error.where or "")
        return True
    finally:
        assert time.process_time() - began < SECONDS
    for tensor in found.values():
        assert tensor.offset + tensor.bytes <= len(content)
        for _ in safetensors_file.pieces(tensor):
            pass
    return False


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path to every number, text and list in the header."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def replaced(value: object, path: tuple, new: object) -> object:
    """A copy of the header with another value at a place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


PLACES = places(HEADER)


@st.composite
def damaged(draw) -> bytes:
    """A file that is cut, flipped, overwritten or has an extreme where a size or offset was."""
    what = draw(st.sampled_from(("cut", "flip", "length", "entry", "entry", "bytes", "remove", "twice")))
    if what == "entry":
        return whole(replaced(HEADER, draw(st.sampled_from(PLACES)), draw(st.sampled_from(EXTREMES))), DATA)
    if what == "length":
        length = draw(
            st.sampled_from([e for e in EXTREMES if type(e) is int]) | st.integers(0, 2 * len(CONTENT))
        )
        return (length % (1 << 64)).to_bytes(8, "little") + CONTENT[8:]
    place = draw(st.integers(0, len(CONTENT) - len(DATA)))
    if what == "flip":
        return CONTENT[:place] + bytes([CONTENT[place] ^ 1 << draw(st.integers(0, 7))]) + CONTENT[place + 1 :]
    if what == "bytes":
        new = draw(st.binary(min_size=1, max_size=9))
        return CONTENT[:place] + new + CONTENT[place + len(new) :]
    if what == "twice":
        return CONTENT[: place + draw(st.integers(1, 40))] + CONTENT[place:]
    return CONTENT[:place] if what == "cut" else CONTENT[:place] + CONTENT[place + draw(st.integers(1, 40)) :]


def attack(file: Path, examples: int) -> int:
    """Hypothesis makes damaged files; returns how many were refused."""
    count = 0

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(damaged())
    def once(content: bytes) -> None:
        nonlocal count
        count += refused(file, content)

    once()
    return count


@pytest.mark.long
def test_many_more_damaged_files(tmp_path):
    """A failure would mean a traceback, a hang or a bomb for a file that came from outside."""
    assert attack(tmp_path / "x.safetensors", 200_000) > 100_000


def test_every_place_with_every_extreme(tmp_path):
    """A failure would mean that one size, type or offset of a header is believed as it stands."""
    file = tmp_path / "x.safetensors"
    assert not refused(file, CONTENT)
    changes = [(place, extreme) for place in PLACES for extreme in EXTREMES if place[:1] != ("__metadata__",)]
    believed = [
        one
        for one in changes
        if (header := replaced(HEADER, *one)) != HEADER and not refused(file, whole(header, DATA))
    ]
    assert len(changes) > 250 and all(place[:1] == ("empty",) for place, _ in believed), believed


TWICE = json.dumps(HEADER).encode()[:-1] + b',"b":' + json.dumps(HEADER["b"]).encode() + b"}"


def changed(path: tuple, new: object) -> bytes:
    """The good file with another value at a place of its header."""
    return whole(replaced(HEADER, path, new), DATA)


BOMBS = {
    "a header of 3 MB that is a list": lambda: whole(b"[" + b"[]," * 1_000_000 + b"[]]", b""),
    "a header of 3 MB of lists": lambda: whole(b'{"a": [' + b"[]," * 1_000_000 + b"[]]}", b""),
    "a header of 9 MB": lambda: whole(b'{"a": [' + b"[]," * 3_000_000 + b"[]]}", b""),
    "a million dimensions": lambda: changed(("a.weight", "shape"), [1 << 62] * 150_000),
    "lists in lists": lambda: whole(b"[" * 1_000_000 + b"]" * 1_000_000, b""),
    "a number with a million digits": lambda: whole(b'{"a": ' + b"9" * 1_000_000 + b"}", b""),
    "a name twice": lambda: whole(TWICE, DATA),
    "tensors that overlap": lambda: changed(("b", "data_offsets"), [40, 48]),
    "a gap": lambda: whole(replaced(HEADER, ("b", "data_offsets"), [52, 60]), DATA + bytes(4)),
    "bytes that belong to nothing": lambda: CONTENT + b"\0",
    "dimensions whose product overflows": lambda: changed(("a.weight", "shape"), [1 << 32, 1 << 32]),
    "a minus": lambda: changed(("a.weight", "shape"), [-3, -4]),
    "an unknown format": lambda: changed(("a.weight", "dtype"), "F8"),
    "not UTF-8": lambda: whole(b'{"\xff": 1}', b""),
    "nothing": lambda: b"",
    "a pickle": lambda: pickle.dumps({"a": [1.0]}),
    "a checkpoint of torch": lambda: b"PK\x03\x04" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused(tmp_path, bomb):
    """A failure would mean that a small file keeps a machine busy for hours, or fills its memory."""
    assert refused(tmp_path / "x.safetensors", BOMBS[bomb]())


def test_a_whole_model_with_a_damaged_file(tmp_path):
    """A failure would mean that the errors above do not reach the user as such."""
    torch.manual_seed(0)
    weights.save(
        model.build(decoder.Config(vocab=11, layers=1, width=8, heads=2, context=8)), tmp_path / "good"
    )
    content = (tmp_path / "good" / "model.safetensors").read_bytes()
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    for damaged_content in (
        content[:-1],
        content + b"\0",
        content[:40],
        b"\xff" * 8 + content[8:],
        b"\x80\x04" + bytes(50),
    ):
        (tmp_path / "bad" / "model.safetensors").write_bytes(damaged_content)
        with pytest.raises(UserError, match="weights cannot be read"):
            weights.load(tmp_path / "bad")
