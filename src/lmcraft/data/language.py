"""A random language whose entropy is known exactly: words of random letters, their frequencies, and a simple grammar.

    class of a word ~ Markov chain over classes;   word ~ Zipf within its class;   text = words with spaces between

1. A space ends every word and a word belongs to one class, so a text has one reading, and its probability is
   Π P(class | class before) · P(word | class); the last word may be cut, and then all words that begin so count.
2. So the loss of the best possible model on a text can be calculated, character by character, on the very text that a
   model is measured on.
3. Common words are learned first and rare ones late, as in real languages (Zipf 1935): what is left to learn shrinks
   slowly.

Legend: X classes of words, W words, S letters, B rows, T positions.
Proved by tests/unit/data/test_language.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LETTERS = 26
SPACE = LETTERS
VOCAB = LETTERS + 1
_SHIFT = 2.7  # Mandelbrot's: the commonest words are not as common as the bare law says


@dataclass(frozen=True)
class Language:
    """A language; the same (words, classes, seed) is always the same one."""

    words: int
    classes: int
    seed: int

    @cached_property
    def spelling(self) -> list[list[int]]:
        """The letters of each word, each followed by a space; no word is spelled as another."""
        generator = torch.Generator().manual_seed(self.seed)
        odds_S = torch.rand(LETTERS, generator=generator) + 0.1
        found: dict[tuple[int, ...], None] = {}
        while len(found) < self.words:
            # Common words are short: the length grows with the logarithm of the rank.
            least = 1 + int(math.log(1 + len(found)) / math.log(LETTERS) + 0.5)
            length = least + int(torch.randint(0, 4, (1,), generator=generator))
            letters = torch.multinomial(odds_S, length, replacement=True, generator=generator)
            found.setdefault(tuple(letters.tolist()))
        return [[*word, SPACE] for word in found]

    @cached_property
    def word_odds_XW(self) -> Tensor:
        """P(word | class); word w is of class w mod classes, and its rank there decides."""
        ranks_W = torch.arange(self.words) // self.classes
        odds_W = 1 / (ranks_W + _SHIFT)
        mine_XW = torch.arange(self.words) % self.classes == torch.arange(self.classes)[:, None]
        odds_XW = odds_W * mine_XW
        return odds_XW / odds_XW.sum(dim=1, keepdim=True)

    @cached_property
    def next_class_XX(self) -> Tensor:
        """P(class | class of the word before); each class has few that are likely."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        odds_XX = torch.rand(self.classes, self.classes, generator=generator).pow(6) + 1e-3
        return odds_XX / odds_XX.sum(dim=1, keepdim=True)

    @cached_property
    def first_class_X(self) -> Tensor:
        """How common each class is in the long run: the stationary distribution of the chain."""
        odds_X = torch.full((self.classes,), 1 / self.classes)
        for _ in range(200):
            odds_X = odds_X @ self.next_class_XX
        return odds_X

    def text(self, generator: torch.Generator, rows: int, length: int) -> Tensor:
        """Texts that begin with a word, cut after `length` characters; int64 [B, T]."""
        texts: list[list[int]] = [[] for _ in range(rows)]
        classes_B = torch.multinomial(self.first_class_X, rows, replacement=True, generator=generator)
        while min(map(len, texts)) < length:
            chosen_B1 = torch.multinomial(self.word_odds_XW[classes_B], 1, generator=generator)
            for text, word in zip(texts, chosen_B1[:, 0].tolist(), strict=True):
                text += self.spelling[word]
            classes_B = torch.multinomial(self.next_class_XX[classes_B], 1, generator=generator)[:, 0]
        return torch.tensor([text[:length] for text in texts])

    @cached_property
    def _prefixes(self) -> dict[tuple[int, ...], list[int]]:
        found: dict[tuple[int, ...], list[int]] = {}
        for word, letters in enumerate(self.spelling):
            for stop in range(1, len(letters) + 1):
                found.setdefault(tuple(letters[:stop]), []).append(word)
        return found

    def surprise(self, text: list[int], start: int = 0) -> float:
        """−log P(text from character `start` on | what stands before) in nats: no model can do better on average."""
        total = self._logprob(text) - (self._logprob(text[:start]) if start else 0.0)
        return -total

    def _logprob(self, text: list[int]) -> float:
        odds_X, total, begin = self.first_class_X, 0.0, 0
        for stop, letter in enumerate(text, start=1):
            if letter != SPACE and stop < len(text):
                continue
            words = self._prefixes[tuple(text[begin:stop])]
            share = float((odds_X @ self.word_odds_XW[:, words]).sum())
            total += math.log(share)
            if letter == SPACE:
                odds_X, begin = self.next_class_XX[words[0] % self.classes], stop
        return total

    @cached_property
    def entropy(self) -> float:
        """Nats per character in the long run."""
        word_X = -torch.special.xlogy(self.word_odds_XW, self.word_odds_XW).sum(dim=1)
        class_X = -torch.special.xlogy(self.next_class_XX, self.next_class_XX).sum(dim=1)
        lengths_W = torch.tensor([float(len(letters)) for letters in self.spelling])
        per_word = self.first_class_X @ (word_X + class_X)
        return float(per_word / (self.first_class_X @ self.word_odds_XW @ lengths_W))
