"""Byte-level BPE: trained here or read from a public tokenizer.json; text to ids and back without loss.

1. Texts are counted as pieces first and the counts are fed in sorted order, so the same text gives the same merges
   whatever the order of files, lines or processes.
2. All 256 bytes are in the alphabet: any text can be encoded, and decoding gives it back.
3. Nothing is ever added by `encode`; whoever needs bos or eos adds it, so there is exactly one.

Proved by tests/unit/text/test_tokenizer.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from ..core.disk import write_json, write_text
from ..core.errors import UserError

BOUNDARY, TURN, END_OF_TURN, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIALS = (BOUNDARY, TURN, END_OF_TURN, PAD)
PIECES = (
    r"'(?i:[sdmt]|ll|ve|re)|\s?\p{L}+|\s?\p{N}{1,3}|\s?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """See the module's docstring."""

    def __init__(self, core: tokenizers.Tokenizer, names: dict[str, str | None]) -> None:
        core.no_padding()
        core.no_truncation()
        self.core, self.names = core, names

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, specials: Sequence[str] = SPECIALS) -> Tokenizer:
        """Learns merges from texts until there are `vocab` tokens or nothing is left to merge.

        Raises:
            UserError: `vocab` is too small to hold the bytes and the special tokens.
        """
        least = 256 + len(specials)
        if vocab < least:
            raise UserError(f"a vocabulary of {vocab} is too small", why=f"bytes and special tokens need {least}")
        core = tokenizers.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        core.train_from_iterator(sorted(texts), trainer)
        known = {name: text for name, text in zip(("bos", "end_of_turn", "pad"), (BOUNDARY, END_OF_TURN, PAD), strict=True)}
        return cls(core, {**known, "eos": BOUNDARY})

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads a directory or a tokenizer.json, with the special tokens that its neighbours name."""
        place = Path(path)
        file = place / "tokenizer.json" if place.is_dir() else place
        if not file.is_file():
            raise UserError("there is no tokenizer here", where=str(path), why="tokenizer.json is missing",
                            fix="`lmcraft tokenizer train` makes one")  # fmt: skip
        try:
            core = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a file it cannot read
            raise UserError(f"the tokenizer cannot be read: {error}", where=str(file)) from error
        return cls(core, _named(file.parent, core))

    def save(self, directory: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json in the public layout."""
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "tokenizer.json", self.core.to_str(pretty=True))
        facts = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        tokens = {f"{n}_token": t for n, t in self.names.items() if t and n != "end_of_turn"}
        more = [self.names["end_of_turn"]] if self.names.get("end_of_turn") else []
        write_json(directory / "tokenizer_config.json", {**facts, **tokens, "additional_special_tokens": more})

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens in it are recognised, none is added."""
        return self.core.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return [one.ids for one in self.core.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text in which the names of special tokens are ordinary characters."""
        self.core.encode_special_tokens = True
        try:
            return self.encode(text)
        finally:
            self.core.encode_special_tokens = False

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids; bytes that are no whole character become U+FFFD."""
        return self.core.decode(list(ids), skip_special_tokens=skip_special)

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.core.get_vocab_size()

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        return frozenset(i for i, token in self.core.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def special_strings(self) -> tuple[str, ...]:
        """Texts of all special tokens."""
        added = self.core.get_added_tokens_decoder()
        return tuple(token.content for i, token in sorted(added.items()) if token.special)

    @property
    def bos(self) -> int | None:
        """The token before a document."""
        return self._id("bos")

    @property
    def eos(self) -> int | None:
        """The token after a document."""
        return self._id("eos")

    @property
    def pad(self) -> int | None:
        """The token that fills rows; no mask depends on it."""
        return self._id("pad")

    @property
    def end_of_turn(self) -> int | None:
        """The token after a turn of a conversation."""
        return self._id("end_of_turn")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokenizer."""
        return hashlib.sha256((self.core.to_str() + json.dumps(self.names, sort_keys=True)).encode()).hexdigest()

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for."""
        text = self.core.id_to_token(token)
        if token in self.special_ids or not isinstance(self.core.decoder, decoders.ByteLevel):
            return self.core.decode([token], skip_special_tokens=False).encode()
        return bytes(_BYTES[character] for character in text)

    def _id(self, name: str) -> int | None:
        text = self.names.get(name)
        return None if text is None else self.core.token_to_id(text)


def _alphabet() -> dict[str, int]:
    """The byte of each character of the byte-level alphabet (GPT-2): printable ones are themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _alphabet()
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eom_id|>")


def _named(directory: Path, core: tokenizers.Tokenizer) -> dict[str, str | None]:
    """Which tokens are bos, eos, pad and end of turn, by the files beside tokenizer.json."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = directory / name
        if file.is_file():
            try:
                found |= json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"not valid JSON: {error}", where=str(file)) from error
    names = {name: _content(found.get(f"{name}_token")) for name in ("bos", "eos", "pad")}
    if not any(names.values()) and core.token_to_id(BOUNDARY) is not None:
        names |= {"bos": BOUNDARY, "eos": BOUNDARY}
    ends = [text for text in _TURN_ENDS if core.token_to_id(text) is not None]
    return {**names, "end_of_turn": ends[0] if ends else None}


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
