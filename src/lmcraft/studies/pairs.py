"""The tasks of the translation study: lines to train on, and held-out lines by their length.

    numbers   English number words to German ones        copy, reverse   letters        file   pairs of one's own

1. A line is one item or several joined, so that lines of every length up to `longest` words are met in training and in
   the test (Bahdanau et al. 2015 had to wait for long sentences; pairs can be joined to some).
2. Items of the test are not in training: numbers that are held out, other letters, other pairs.
3. The tokenizer of number words learns the parts of numbers, so that no token spans two of them and an alignment of
   tokens is one of parts. A made task is scored by its tokens; pairs of a file by sacreBLEU's own tokenizer.

Proved by tests/unit/studies/test_pairs.py.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.disk import read_json, write_json
from ..core.errors import UserError
from ..data import number_words, synthetic
from ..data.load import load
from ..data.records import Parallel
from ..data.split import split
from ..text.tokenizer import Tokenizer
from .alignment import Aligned

HELD_OUT_SEED, JOINED_SEED = 1_000_003, 2_000_003
VOCAB, VOCAB_OF_PARTS = 4096, 1024
ALIGNED_LINES = 100
TRIES = 1000  # lines drawn for each one that a bucket needs


@dataclass(frozen=True)
class Sizes:
    """How many lines, how they are joined, and where groups of lengths end, in words of the source."""

    lines: int
    test_lines: int
    joined: int
    lengths: tuple[int, ...]
    below: int


@dataclass(frozen=True)
class Task:
    """What the models learn and are measured on."""

    name: str
    tokenizer: Tokenizer
    train: list[Parallel]
    items: list[Parallel]
    groups: dict[str, list[Parallel]]
    aligned: list[Aligned] = field(default_factory=list)
    by_tokens: bool = True


def numbers(sizes: Sizes, seed: int) -> Task:
    """Number words from English to German."""

    def lines(count: int, joined: int, held_out: bool, own_seed: int) -> list[Parallel]:
        return number_words.pairs(count, own_seed, sizes.below, joined, held_out)

    other = seed + HELD_OUT_SEED
    longest = sizes.lengths[-1]
    train = [row for row in lines(sizes.lines, sizes.joined, False, seed) if words(row) <= longest]
    draws = (row for n in range(TRIES) for row in lines(sizes.test_lines, 2 * sizes.joined, True, other + n))
    aligned = [
        Aligned(
            Parallel(number_words.line(row, "en"), number_words.line(row, "de")), number_words.alignment(row)
        )
        for row in number_words.rows(2 * ALIGNED_LINES, other + 1, sizes.below, 1, True)
    ]
    return Task(
        "numbers", parts_tokenizer(), train, lines(sizes.test_lines, 1, True, other + 2),
        grouped(draws, sizes.lengths, sizes.test_lines), aligned,
    )  # fmt: skip


def letters(name: str, sizes: Sizes, seed: int) -> Task:
    """Copying or reversing letters; a line is one item, of as many letters as the last length says."""
    make: Callable = synthetic.copies if name == "copy" else synthetic.reversals
    longest = sizes.lengths[-1]
    train = make(sizes.lines, seed, longest)
    known = {row.source for row in train if words(row) > 2}  # of one or two letters there are too few
    held = [
        row for row in make(40 * sizes.test_lines, seed + HELD_OUT_SEED, longest) if row.source not in known
    ]
    tokenizer = Tokenizer.train((side for row in train for side in (row.source, row.target)), VOCAB_OF_PARTS)
    return Task(
        name, tokenizer, train, held[: sizes.test_lines], grouped(held, sizes.lengths, sizes.test_lines)
    )


def of_file(file: str, columns: dict[str, str], sizes: Sizes, seed: int) -> Task:
    """Pairs of a file and, as often, several of them joined.

    Raises:
        UserError: the file holds no pairs, or too few.
    """
    records = load([file], "parallel", columns).require().records
    train, held = split(records, 0.1, seed)
    if len(held) < 2:
        raise UserError("there are too few pairs", where=file, why=f"{len(records)} of them", fix="give more")
    draw = random.Random(f"{JOINED_SEED} {seed}")
    train = train[: sizes.lines]
    longer = [join(draw, train, 2, sizes.joined) for _ in range(len(train) // 2)]
    mixed = [*train, *(row for row in longer if words(row) <= sizes.lengths[-1])]
    draws = (join(draw, held, 1, sizes.joined) for _ in range(TRIES * sizes.test_lines))
    tokenizer = Tokenizer.train((side for row in train for side in (row.source, row.target)), VOCAB)
    return Task(
        "file", tokenizer, mixed, held[: sizes.test_lines], grouped(draws, sizes.lengths, sizes.test_lines),
        by_tokens=False,
    )  # fmt: skip


def join(draw: random.Random, rows: Sequence[Parallel], fewest: int, most: int) -> Parallel:
    """Some pairs one after the other."""
    part = draw.choices(rows, k=draw.randint(fewest, max(fewest, most)))
    return Parallel(" ".join(row.source for row in part), " ".join(row.target for row in part), part[0].where)


def grouped(
    rows: Iterator[Parallel] | list[Parallel], lengths: tuple[int, ...], size: int
) -> dict[str, list[Parallel]]:
    """At most `size` rows for each group of lengths; a group that stays empty is left out."""
    edges = list(zip([0, *lengths], lengths, strict=False))
    found: dict[str, list[Parallel]] = {f"{low + 1}–{high}": [] for low, high in edges}
    full = 0
    for row in rows:
        for (low, high), group in zip(edges, found.values(), strict=True):
            if low < words(row) <= high and len(group) < size:
                group.append(row)
                full += len(group) == size
        if full == len(edges):
            break
    return {name: group for name, group in found.items() if group}


def words(row: Parallel) -> int:
    """Words of the source."""
    return len(row.source.split())


def parts_tokenizer() -> Tokenizer:
    """A tokenizer whose tokens are the parts of number words, each with what stands before it in English."""
    parts = {
        text.strip() for number in _every_part() for side in number_words.pieces(number) for text, _ in side
    }
    ordered = sorted(
        {*parts, "and", number_words.JOINED.strip()} - {"", "-", ","}, key=lambda part: (-len(part), part)
    )
    texts = [before + part for part in ordered for before in ("", " ", "-", ", ")]
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.train(texts * 2, VOCAB_OF_PARTS).save(folder)
        file = Path(folder) / "tokenizer.json"
        settings = read_json(file)
        cut = {"type": "Split", "pattern": {"Regex": f"[ -]?(?:{'|'.join(ordered)})"}, "behavior": "Isolated"}
        settings["pre_tokenizer"]["pretokenizers"].insert(0, cut | {"invert": False})
        write_json(file, settings)
        return Tokenizer.load(folder)


def _every_part() -> list[int]:
    """Numbers in which every part of a number occurs."""
    return [*range(101), 1000, 10**6, 2 * 10**6]
