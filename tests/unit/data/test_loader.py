"""From shards to batches: every row once an epoch, the same order for everybody, resumable to the row."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.data.batch import IGNORE, Batch
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Twenty documents whose ids name their document: 100·d, 100·d + 1, …"""
    documents = [
        Document([100 * d + i for i in range(2 + d % 7)], [True] * (2 + d % 7), Where("rows.jsonl", d + 1))
        for d in range(20)
    ]
    return write(tmp_path_factory.mktemp("loader") / "shard", documents, 5000, {}, Counter())


def firsts(batch: Batch) -> list[int]:
    return batch.tokens_BT[:, 0].tolist()


def test_targets_are_the_next_ids(tokens):
    """A shift would train the model to say the current or the second next token."""
    batch = Loader(tokens, 12, 4, seed=0).next()
    assert batch.tokens_BT.dtype == batch.targets_BT.dtype == batch.segments_BT.dtype == torch.int64
    for tokens_T, targets_T, segments_T in zip(
        batch.tokens_BT, batch.targets_BT, batch.segments_BT, strict=True
    ):
        real_T = segments_T != 0
        assert (targets_T[real_T] == tokens_T[real_T] + 1).all()
        assert (targets_T[~real_T] == IGNORE).all()
        documents = [int(t) // 100 for t in tokens_T[real_T]]
        assert [documents.index(d) for d in documents] == [
            segments_T[real_T].tolist().index(s) for s in segments_T[real_T].tolist()
        ]


def test_untrained_ids_are_no_targets(tmp_path):
    """A failure would mean that prompts are trained."""
    document = Document([1, 2, 3, 4], [True, False, True, False], Where("x", 1))
    shard = write(tmp_path / "s", [document], 10, {}, Counter())
    batch = Loader(shard, 5, 1, seed=0).next()
    assert batch.targets_BT.tolist() == [[IGNORE, 3, IGNORE, IGNORE, IGNORE]]
    assert batch.count == 1 and batch.tokens == 3


@given(st.integers(1, 9), st.integers(0, 5))
def test_every_row_once_an_epoch(tokens, batch_size, seed):
    """A failure would mean that some rows are seen twice and others never."""
    loader = Loader(tokens, 8, batch_size, seed, pack=False)
    seen: list[int] = []
    while len(seen) < 3 * len(loader.rows):
        seen += firsts(loader.next())
    for epoch in range(3):
        part = seen[epoch * len(loader.rows) : (epoch + 1) * len(loader.rows)]
        assert sorted(part) == [100 * d for d in range(20)]
    assert seen[:20] != seen[20:40]  # each epoch has an order of its own


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_rows_of_one_process(tokens, world):
    """A failure would mean that the result depends on the number of processes."""
    one = Loader(tokens, 8, 12, seed=5)
    ranks = [Loader(tokens, 8, 12, seed=5, rank=r, world=world) for r in range(world)]
    for _ in range(4):
        whole = firsts(one.next())
        parts = [firsts(rank.next()) for rank in ranks]
        assert [parts[i % world][i // world] for i in range(12)] == whole


def test_groups_stay_in_one_rank(tokens):
    """A failure would mean that pairs compete with others when there are more processes."""
    whole = firsts(Loader(tokens, 8, 12, seed=5).next())
    ranks = [Loader(tokens, 8, 12, seed=5, rank=r, world=2, group=3) for r in range(2)]
    assert [firsts(rank.next()) for rank in ranks] == [whole[0:3] + whole[6:9], whole[3:6] + whole[9:12]]


def test_resumes_to_the_row(tokens):
    """A failure would mean that a resumed run skips or repeats rows (nanochat: "approximate resume")."""
    loader = Loader(tokens, 8, 3, seed=2, pack=False)
    batches = [loader.next() for _ in range(30)]
    for done in range(30):
        again = Loader(tokens, 8, 3, seed=2, pack=False)
        again.read = 3 * done
        assert torch.equal(again.next().tokens_BT, batches[done].tokens_BT)


def test_global_random_state_is_neither_used_nor_changed(tokens):
    """A failure would mean that a sampled word or a plug-in changes the order of the data."""
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    loader = Loader(tokens, 8, 4, seed=0)
    loader.next()
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()


def test_other_seeds_give_other_orders(tokens):
    """A failure would mean that repeating with another seed measures nothing."""
    orders = {tuple(firsts(Loader(tokens, 8, 20, seed=seed, pack=False).next())) for seed in range(20)}
    assert len(orders) == 20


def test_rows_without_targets_are_left_out_and_counted(tmp_path):
    """A failure would mean steps that train nothing, or rows that vanish unseen."""
    documents = [
        Document([1, 2, 3], [True, False, False], Where("x", 1)),  # the first id is never a target
        Document([4, 5, 6], [False, True, True], Where("x", 2)),
    ]
    loader = Loader(write(tmp_path / "s", documents, 10, {}, Counter()), 2, 1, seed=0)
    assert loader.fill.rows == 1 and loader.fill.rows_without_target == 1 and loader.fill.documents == 2
    assert {loader.next().rows[0] for _ in range(5)} == {"x:2"}


def test_fill_adds_up(tokens):
    """A failure would mean that the report says something else than what is trained."""
    loader = Loader(tokens, 8, 4, seed=0)
    whole = loader.batch(list(range(len(loader.rows))))
    assert loader.fill.tokens == whole.tokens and loader.fill.targets == whole.count
    assert loader.fill.tokens + loader.fill.padding == whole.tokens_BT.numel()
    assert Loader(tokens, 3, 4, seed=0).fill.cut_documents == int((tokens.lengths > 4).sum())


def test_rows_name_their_documents(tokens):
    """A failure would mean that an error message points at the wrong line."""
    loader = Loader(tokens, 40, 2, seed=0)
    batch = loader.next()
    for row, tokens_T, segments_T in zip(batch.rows, batch.tokens_BT, batch.segments_BT, strict=True):
        inside = dict.fromkeys(int(t) // 100 + 1 for t in tokens_T[segments_T != 0])
        assert row == ", ".join(f"rows.jsonl:{line}" for line in inside)


def test_fewer_rows_than_a_batch(tokens, tmp_path):
    """A failure would mean that three examples cannot be trained on."""
    shard = write(tmp_path / "s", [Document([1, 2], None, Where("x", 1))], 10, {}, Counter())
    assert Loader(shard, 4, 16, seed=0).next().tokens_BT.shape == (16, 4)


@given(st.integers(1, 20), st.integers(1, 20))
def test_split_keeps_all_rows_in_order(rows, size):
    """A failure would mean that micro-batches lose rows or their names."""
    tensor = torch.arange(rows * 2).view(rows, 2)
    batch = Batch(tensor, tensor, tensor, [str(r) for r in range(rows)])
    parts = list(batch.split(size))
    assert torch.equal(torch.cat([p.tokens_BT for p in parts]), tensor)
    assert [row for part in parts for row in part.rows] == batch.rows
    assert all(len(p.tokens_BT) <= size for p in parts)
    assert sum(p.count for p in parts) == batch.count


def test_labels_stand_at_their_own_position(tmp_path):
    """A shift would train a tagger to name the next word's class, or lose the last word."""
    documents = [
        Document([5, 6, 7], None, Where("x", 1), labels=[1, IGNORE, 2]),
        Document([8, 9], None, Where("x", 2), labels=[IGNORE, 0]),
    ]
    shard = write(tmp_path / "s", documents, 10, {}, Counter())
    batch = Loader(shard, 5, 1, seed=0).next()
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.targets_BT.tolist() == [[1, IGNORE, 2, IGNORE, 0]]
    assert batch.segments_BT.tolist() == [[1, 1, 1, 2, 2]]
    assert batch.count == 3


@pytest.fixture
def pairs(tmp_path):
    """Forty pairs of many lengths; the ids of both sides name their pair."""
    documents = [
        Document([100 * d + i for i in range(1 + n)], None, Where("pairs", d), source=[100 * d] * n)
        for d, n in ((d, 2 + 7 * d % 11) for d in range(40))
    ]
    return write(tmp_path / "pairs", documents, 5000, {}, Counter())


@pytest.mark.parametrize("pack", [True, False])
def test_a_source_stands_in_its_documents_segment(pairs, pack):
    """A difference would mean that sentences are trained on other sentences' translations."""
    loader = Loader(pairs, 24, 6, seed=1, pack=pack)
    for batch in (loader.next(), *loader.next().split(4)):
        source = batch.source
        assert len(source.tokens_BS) == len(batch.tokens_BT)
        for b in range(len(batch.tokens_BT)):
            for number in range(1, int(batch.segments_BT[b].max()) + 1):
                own = {int(i) // 100 for i in batch.tokens_BT[b][batch.segments_BT[b] == number]}
                read = source.tokens_BS[b][source.segments_BS[b] == number].tolist()
                (pair,) = own
                assert read == [100 * pair] * (2 + 7 * pair % 11)


def test_unpacked_batches_are_of_similar_length_and_trimmed(pairs):
    """A failure would mean that most of what is computed is padding."""
    loader = Loader(pairs, 24, 4, seed=1, pack=False)
    shares = []
    for _ in range(10):
        batch = loader.next()
        longest = int((batch.segments_BT != 0).sum(dim=1).max())
        assert longest <= batch.tokens_BT.shape[1] < longest + 4
        shares.append(float((batch.segments_BT != 0).float().mean()))
    assert sum(shares) / 10 > 0.75


def test_batches_are_a_fair_sample_where_that_is_asked_for(pairs):
    """A failure would mean that a round of reinforcement learning sees prompts of one length alone."""
    loader = Loader(pairs, 24, 4, seed=1, pack=False)
    loader.alike = False
    lengths = [(loader.next().segments_BT != 0).sum(dim=1).float() for _ in range(10)]
    within = torch.stack([some.var() for some in lengths]).mean()
    assert within > 0.8 * torch.cat(lengths).var()


@given(st.integers(1, 9), st.integers(0, 3))
def test_buckets_keep_every_row_once_an_epoch_and_resume(batch_size, seed):
    """A failure would mean that some rows are seen twice, others never, or that resuming reads others."""
    with tempfile.TemporaryDirectory() as folder:
        documents = [Document([d] * (2 + d % 5), None, Where("x", d)) for d in range(23)]
        shard = write(Path(folder) / "s", documents, 30, {}, Counter())
        loader = Loader(shard, 8, batch_size, seed, pack=False)
        seen = []
        for _ in range(-(-46 // batch_size)):
            again = Loader(shard, 8, batch_size, seed, pack=False)
            again.read = loader.read
            batch = loader.next()
            assert torch.equal(again.next().tokens_BT, batch.tokens_BT)
            seen += firsts(batch)
        assert sorted(seen[:23]) == sorted(seen[23:46]) == list(range(23))


def test_finish_gets_a_seed_that_depends_on_the_place_alone(tokens):
    """A failure would mean that masks repeat every epoch, or change when a run is resumed or split over ranks."""
    asked: list[int] = []

    def finish(batch, seeds):
        asked.extend(seeds)
        return batch

    whole = Loader(tokens, 8, 6, seed=0, finish=finish)
    for _ in range(8):
        whole.next()
    assert asked == list(range(48))
    asked.clear()
    for rank in (0, 1):
        Loader(tokens, 8, 6, seed=0, rank=rank, world=2, finish=finish).next()
    assert asked == [0, 2, 4, 1, 3, 5]


def test_signals_go_with_their_rows(tmp_path):
    """Another row's number would give a preference the margin of its neighbour."""
    documents = [
        Document([d, d, d + 1], None, Where("rows.jsonl", d), signals={"weight": 1.0, "margin": d / 2})
        for d in range(8)
    ]
    loader = Loader(write(tmp_path / "shard", documents, 100, {}, Counter()), 12, 4, seed=0, pack=False)
    for _ in range(4):
        for micro in loader.next().split(2):
            assert micro.signals["margin"].tolist() == [first / 2 for first in firsts(micro)]
            assert micro.signals["weight"].tolist() == [1.0, 1.0]
