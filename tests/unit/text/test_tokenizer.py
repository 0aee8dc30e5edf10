"""Byte-level BPE: the same merges from the same text, the right merges, and text back without loss."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from lmcraft.core.errors import UserError
from lmcraft.text.tokenizer import SPECIALS, Tokenizer

# Without its parts' names: the split that Llama 3 publishes and that GGUF readers know as "dbrx".
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 1234567 o'clock, isn't it?\n\n\n  Yes.\t",
    "Größe, naïve, 日本語のテキスト, עברית, 🤖🏽‍🚀 and a\u0301 combining mark\r\n",
    "def f(x):\n    return x ** 2  # two\n",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 5, 400)


# -- training --------------------------------------------------------------------------------------------------------

_TRAIN = """
import random, sys
from lmcraft.text.tokenizer import Tokenizer
chance = random.Random(7)
words = ["".join(chance.choices("abcd", k=chance.randint(1, 6))) for _ in range(3000)]
texts = [" ".join(words[i : i + 10]) for i in range(0, 3000, 10)]
random.Random(int(sys.argv[1])).shuffle(texts)
print(Tokenizer.train(texts, 700).digest)
"""


def test_merges_do_not_depend_on_order_threads_or_hash_seed() -> None:
    """If this failed, two runs of one command would give models that cannot read each other's tokens (trap 1).

    Short words over four letters give hundreds of ties, each of which a hash order would break by chance.
    """
    runs = [("0", "0", "true", "2"), ("1", "1", "false", "1"), ("2", "random", "true", "1")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TRAIN, shuffle],
            env=os.environ
            | {"PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel, "RAYON_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for shuffle, seed, parallel, threads in runs
    ]
    digests = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert len(digests[0]) == 64 and len(set(digests)) == 1


def naive_merges(words: list[str], merges: int) -> list[tuple[str, str]]:
    """BPE by the definition: count every pair anew, merge the most frequent, smaller ids first."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: number for number, token in enumerate(tokens)}
    sequences = [([ids[c] for c in word], count) for word, count in sorted(Counter(words).items())]
    found = []
    while len(tokens) < 256 + merges:
        pairs: Counter = Counter()
        for sequence, count in sequences:
            for pair in pairwise(sequence):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        new = tokens[best[0]] + tokens[best[1]]
        if new not in ids:
            ids[new] = len(tokens)
            tokens.append(new)
        found.append((tokens[best[0]], tokens[best[1]]))
        for sequence, _ in sequences:
            place = 0
            while place < len(sequence) - 1:
                if (sequence[place], sequence[place + 1]) == best:
                    sequence[place : place + 2] = [ids[new]]
                place += 1
    return found


@pytest.mark.parametrize("seed", range(60))
def test_merges_are_those_of_the_naive_trainer(seed: int, tmp_path: Path) -> None:
    """If this failed, overlapping pairs ("aaa") or stale counts would give wrong merges (trap 2)."""
    chance = random.Random(seed)
    letters = ("a", "ab", "abc")[seed % 3]
    words = ["".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(chance.randint(1, 12))]
    # A line break between words belongs to none of them, so each is a piece of its own.
    trained = Tokenizer.train(["\n".join(words)], 256 + 20, specials=())
    trained.save(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    breaks = ["Ċ"] * (len(words) - 1)
    assert [tuple(merge) for merge in merges] == naive_merges(words + breaks, 20)


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    """If this failed, some texts would have no ids at all."""
    with pytest.raises(UserError, match="too small"):
        Tokenizer.train(TEXTS, 256 + len(SPECIALS) - 1)
    assert Tokenizer.train([], 256 + len(SPECIALS)).size == 260


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    """If this failed, embeddings would have rows that no text ever trains."""
    assert Tokenizer.train(["ab ab"], 4096).size == 261  # "ab" occurs twice, " ab" once
    assert Tokenizer.train(["ab"], 4096).size == 260


@pytest.mark.parametrize("specials", [(), ("<|endoftext|>",), (*SPECIALS, "<|tool|>")])
def test_specials_come_first_and_have_their_roles(specials: tuple[str, ...]) -> None:
    """If this failed, ids of special tokens would depend on the corpus."""
    trained = Tokenizer.train(TEXTS, 300, specials)
    assert list(trained.specials.values()) == list(range(len(specials)))
    assert trained.special_ids == frozenset(range(len(specials)))
    assert trained.eos == trained.bos == (0 if specials else None)
    assert trained.end_of_turn == (2 if len(specials) > 2 else None)
    assert trained.pad == (3 if len(specials) > 2 else None)


def test_pad_is_not_eos(tokenizer: Tokenizer) -> None:
    """If this failed, hiding padding from the loss would hide the end of the text too (trap 3)."""
    assert tokenizer.pad not in (None, tokenizer.eos, tokenizer.end_of_turn)


def test_training_text_may_name_special_tokens() -> None:
    """If this failed, a corpus that mentions <|im_end|> could not be trained on, or would learn a second one."""
    trained = Tokenizer.train(["a <|im_end|> b"] * 9, 320)
    assert trained.encode("<|im_end|>") == [2]
    assert 2 not in trained.encode_plain("<|im_end|>")


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    """If this failed, text that no bytes stand for would be changed in silence, or end in a traceback."""
    for action in (tokenizer.encode, tokenizer.encode_plain, lambda text: Tokenizer.train([text], 300)):
        with pytest.raises(UserError, match="not valid Unicode"):
            action("half \ud83e of it")


# -- use -------------------------------------------------------------------------------------------------------------

UNICODE = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(UNICODE)
def test_every_text_comes_back(text: str) -> None:
    """If this failed, a model could not even in principle say what was in its data."""
    one = trained_once()
    assert one.decode(one.encode_plain(text)) == text
    assert one.special_ids.isdisjoint(one.encode_plain(text))
    if not any(special in text for special in SPECIALS):
        assert one.encode(text) == one.encode_plain(text)
        assert b"".join(map(one.token_bytes, one.encode(text))) == text.encode()


@given(st.lists(st.sampled_from([*SPECIALS, "<|im_", "end|>", "a", " ", "<", "|>", "\n"]), max_size=8))
def test_texts_of_special_tokens_come_back(parts: list[str]) -> None:
    """If this failed, a message could smuggle a token that ends its turn, or lose characters that look like one."""
    one, text = trained_once(), "".join(parts)
    assert one.decode(one.encode(text), skip_special=False) == text
    assert one.decode(one.encode_plain(text)) == text
    assert one.special_ids.isdisjoint(one.encode_plain(text))


@given(st.binary(max_size=40))
def test_any_bytes_can_be_decoded(data: bytes) -> None:
    """If this failed, a model that generates half a character would crash whoever listens."""
    one = trained_once()
    by_byte = {one.token_bytes(number): number for number in range(4, 260)}
    assert one.decode([by_byte[bytes([byte])] for byte in data]) == data.decode("utf-8", "replace")


_CACHE: list[Tokenizer] = []


def trained_once() -> Tokenizer:
    if not _CACHE:
        _CACHE.append(Tokenizer.train(TEXTS * 5, 400))
    return _CACHE[0]


def test_batches_are_single_texts(tokenizer: Tokenizer) -> None:
    """If this failed, tokens of training (batches) and of serving (single) would differ."""
    texts = [*TEXTS, "", "<|im_start|>user\nhi<|im_end|>"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode("") == [] and tokenizer.encode_batch([]) == []


def test_encode_adds_nothing(tokenizer: Tokenizer) -> None:
    """If this failed, BOS would be doubled wherever the caller adds it too (trap 5)."""
    assert tokenizer.bos not in tokenizer.encode("hello")
    assert tokenizer.decode(tokenizer.encode("<|endoftext|>hi"), skip_special=True) == "hi"


def test_a_prompt_and_its_answer_are_not_their_sum(tokenizer: Tokenizer) -> None:
    """Why conversations and scores are encoded in pieces, everywhere the same way (trap 11).

    If this failed, merges would no longer cross the cut and the rule in text/chat.py would be pointless.
    """
    whole, first = "the lazy dog", "the la"
    assert tokenizer.encode(whole) != tokenizer.encode(first) + tokenizer.encode(whole[len(first) :])


@given(st.text(alphabet=st.sampled_from("aZé日1٣ \t\r\n'sTRvemLLd.,!_-\u0301\u00a0🤖"), max_size=40))
def test_the_split_is_one_that_other_programs_know(text: str) -> None:
    """If this failed, an exported GGUF would cut texts in other places than the model was trained with."""
    reference = pre_tokenizers.Split(Regex(LLAMA_3_SPLIT), "isolated")
    ours = trained_once()._library.pre_tokenizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    expected = pre_tokenizers.Sequence([reference, byte_level]).pre_tokenize_str(text)
    assert ours.pre_tokenize_str(text) == expected


def test_digits_go_in_threes(tokenizer: Tokenizer) -> None:
    """If this failed, long numbers would become rare tokens of their own."""
    pieces = [piece for piece, _ in tokenizer._library.pre_tokenizer.pre_tokenize_str("1234567 it's  x")]
    assert pieces == ["123", "456", "7", "Ġit", "'s", "Ġ", "Ġx"]


def test_compression_counts(tokenizer: Tokenizer) -> None:
    """If this failed, tokenizers could not be compared."""
    counts = tokenizer.compression(["héllo world", "x"])
    assert (counts.bytes, counts.characters, counts.words) == (13, 12, 3)
    assert counts.tokens == len(tokenizer.encode("héllo world")) + 1
    assert counts.bytes_per_token == pytest.approx(13 / counts.tokens)
    assert tokenizer.compression([]).tokens_per_byte == 0


def test_the_digest_is_that_of_the_content(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """If this failed, a cache could hold tokens of another tokenizer, or never be used again."""
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.digest == tokenizer.digest == Tokenizer.train(TEXTS * 5, 400).digest
    assert tokenizer.digest != Tokenizer.train(TEXTS * 5, 399).digest
    assert tokenizer.digest != Tokenizer.train(TEXTS * 5, 400, SPECIALS[:3]).digest


def test_saving_twice_writes_the_same_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """If this failed, digests of model directories would change without cause."""

    def written(directory: Path) -> list[str]:
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())]

    tokenizer.save(tmp_path / "a")
    Tokenizer.load(tmp_path / "a").save(tmp_path / "b")
    assert written(tmp_path / "a") == written(tmp_path / "b")


def test_unknown_ids_are_the_users_mistake(tokenizer: Tokenizer) -> None:
    """If this failed, a token of another vocabulary would be shown as something."""
    with pytest.raises(UserError, match="no token with the id"):
        tokenizer.token_bytes(tokenizer.size)
