"""Token shards: what is written is what is read, complete or not there at all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, Tokens, write

DOCUMENTS = [
    Document([5, 6, 7], None, Where("a.txt", 1)),
    Document([1], [False], Where("a.txt", 9)),
    Document([], None, Where("b.jsonl", 2)),
    Document([9, 8, 7, 6], [False, True, False, True], Where("b.jsonl", 3)),
]


def test_what_is_written_is_read(tmp_path):
    """A difference would mean training on other tokens, or naming the wrong line in a message."""
    tokens = write(tmp_path / "shard", iter(DOCUMENTS), 100, {"key": "k"}, Counter(dropped=2))
    assert len(tokens) == 4
    assert tokens.ids.tolist() == [5, 6, 7, 1, 9, 8, 7, 6]
    assert tokens.trained.tolist() == [True, True, True, False, False, True, False, True]
    assert tokens.offsets.tolist() == [0, 3, 4, 4, 8]
    assert [tokens.where(i) for i in range(4)] == ["a.txt:1", "a.txt:9", "b.jsonl:2", "b.jsonl:3"]
    assert (
        tokens.meta["counts"] == {"dropped": 2} and tokens.meta["key"] == "k" and tokens.meta["vocab"] == 100
    )


@pytest.mark.parametrize(
    "vocab,dtype,largest", [(1 << 16, np.uint16, 65535), ((1 << 16) + 1, np.uint32, 65536)]
)
def test_ids_fit_their_type(vocab, dtype, largest, tmp_path):
    """A failure would mean that large vocabularies wrap around and train on wrong tokens."""
    tokens = write(tmp_path / "shard", [Document([0, largest], None, Where("x", 1))], vocab, {}, Counter())
    assert tokens.ids.dtype == dtype and tokens.ids.tolist() == [0, largest]


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path):
    """A failure would mean a crash, or another token, far from the cause."""
    with pytest.raises((OverflowError, AssertionError)):
        write(tmp_path / "shard", [Document([70000], None, Where("x", 1))], 100, {}, Counter())
    assert not (tmp_path / "shard").exists()


def test_no_documents_at_all(tmp_path):
    """A failure would mean that holding nothing out (`data.holdout=0`) crashes."""
    tokens = write(tmp_path / "shard", [], 100, {}, Counter())
    assert len(tokens) == 0 and tokens.lengths.tolist() == []


def test_a_complete_shard_is_used_again(tmp_path):
    """A failure would mean that every start tokenizes everything again."""
    write(tmp_path / "shard", iter(DOCUMENTS), 100, {}, Counter())

    def never():
        raise AssertionError("read again")
        yield

    assert len(write(tmp_path / "shard", never(), 100, {}, Counter())) == 4


def test_a_failure_while_tokenizing_leaves_nothing(tmp_path):
    """A failure would mean that half a corpus is taken for a whole one at the next start."""

    def broken():
        yield DOCUMENTS[0]
        raise UserError("bad row")

    with pytest.raises(UserError, match="bad row"):
        write(tmp_path / "cache" / "shard", broken(), 100, {}, Counter())
    assert list((tmp_path / "cache").glob("*")) == [] and list((tmp_path / "cache").glob(".*")) == []


def test_another_process_may_finish_first(tmp_path):
    """A failure would mean that two trainings started together break each other's cache."""

    def slow():
        write(tmp_path / "shard", iter(DOCUMENTS), 100, {"by": "other"}, Counter())
        yield from DOCUMENTS

    tokens = write(tmp_path / "shard", slow(), 100, {"by": "us"}, Counter())
    assert tokens.meta["by"] == "other" and len(tokens) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    """A failure would mean a traceback, or half a shard that fills the disk for good."""
    import errno

    calls = []

    def full(path, array):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(b"x")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match="full") as caught:
        write(tmp_path / "cache" / "shard", iter(DOCUMENTS), 100, {}, Counter())
    assert str(tmp_path / "cache") in caught.value.where
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_pickle_is_read(tmp_path):
    """A failure would mean that a shared cache directory can run code."""
    write(tmp_path / "shard", iter(DOCUMENTS), 100, {}, Counter())
    np.save(tmp_path / "shard" / "tokens.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"pickle|object|Object|mapped"):
        Tokens(tmp_path / "shard")
