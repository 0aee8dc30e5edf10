"""Byte-level BPE: text to token ids and back, trained here or read from any public tokenizer.json.

Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909), over bytes as in GPT-2, on the `tokenizers` library.

1. All 256 bytes are in the vocabulary, so every text has ids and decodes to itself.
2. Training is a function of the *multiset* of texts: pairs are merged by count, then by the smaller ids, and the ids of
   the bytes are fixed. Order of the texts, threads and hash seeds change nothing (tokenizers#1794, minbpe#90).
3. Text is split before merging in the way of GPT-4 and Llama 3, so that files of the GGUF kind can name a known
   splitter (`dbrx`: this split, without added tokens) and other programs find the same ids.
4. `encode` adds nothing. What begins a text (BOS) is written once, by the chat template or by whoever builds the
   document, never by the tokenizer (a BOS that two parts add is doubled, and then removed twice).
5. `encode_plain` treats `<|im_end|>` in a text as ten ordinary characters; it is for whatever a user wrote.

Proved by tests/unit/text/test_tokenizer.py and tests/unit/text/test_tokenizer_public.py.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as _Library

from ..core import gguf
from ..core.disk import write_json, write_text
from ..core.errors import UserError
from . import gguf_tokenizer, wordpiece
from .bytelevel import BYTE_OF, BYTES
from .compression import Compression
from .special import END_OF_DOCUMENT, PUBLIC, Roles, as_special, find_mask, guess_roles, read_roles

SPECIALS = (END_OF_DOCUMENT, "<|im_start|>", "<|im_end|>", "<|pad|>")
MAX_FILE_BYTES = 256 << 20

# The alternatives in order; the first that matches at a place wins.
_SPLIT = "|".join(
    (
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])",  # English contractions keep their apostrophe
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # a word, with the one space or mark before it
        r"\p{N}{1,3}",  # digits in groups of three at most: 10^3 numbers are learnable, 10^9 are not
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # a run of marks, with line ends after it
        r"\s*[\r\n]+",  # blank lines together
        r"\s+(?!\S)",  # spaces, but the last one is left to the word after them
        r"\s+",
    )
)


class Tokenizer:
    """A vocabulary with its merge rules and special tokens.

    Args:
        library: the tokenizer of the `tokenizers` library.
        roles: which special token begins, ends and pads.

    Attributes:
        bos, eos, pad, end_of_turn, mask: ids, or None where the vocabulary has no such token. BERT's [CLS] and [SEP]
            begin and end a text.
        stop_ids: every id that a model with this tokenizer may end with.
    """

    def __init__(self, library: _Library, roles: Roles) -> None:
        self._library = library
        self.roles = roles
        named = (roles.bos or roles.cls, roles.eos or roles.sep, roles.pad, roles.end_of_turn, roles.mask)
        self.bos, self.eos, self.pad, self.end_of_turn, self.mask = map(self.id, named)
        self.stop_ids = sorted({*roles.stop_ids, self.eos, self.end_of_turn} - {None})
        control = {*named} - {None}
        self._specials = {
            token.content: number
            for number, token in library.get_added_tokens_decoder().items()
            if token.special or token.content in control
        }
        self.special_ids = frozenset(self._specials.values())
        # What no text may be turned into: all of them, but for an unk token that is nothing else besides.
        self._control_ids = self.special_ids - ({self.id(roles.unk)} - {*map(self.id, control)})
        self._settings = json.loads(library.to_str())

    # -- making one --------------------------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, specials: Sequence[str] = SPECIALS) -> Tokenizer:
        """Learns a vocabulary of at most `vocab` tokens: the specials, 256 bytes, and merges.

        A small corpus may offer fewer merges (a pair must occur twice); then `.size` is smaller than `vocab`.

        Raises:
            UserError: `vocab` has no room for the bytes and the specials, or a text is no valid Unicode.
        """
        least = BYTES + len(specials)
        if vocab < least:
            raise UserError(
                f"a vocabulary of {vocab:,} tokens is too small",
                where=f"vocab={vocab}",
                why=f"{BYTES} bytes and {len(specials)} special tokens already need {least}",
                fix=f"ask for more than {least}; 4096 suits a small corpus",
            )
        library = _Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            min_frequency=2,
            special_tokens=[as_special(token) for token in specials],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        with _library_errors("the texts for the tokenizer"):
            library.train_from_iterator(map(_checked, texts), trainer)
        return cls(library, guess_roles(specials))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads a directory in the public layout, a tokenizer.json, or a GGUF file.

        Raises:
            UserError: nothing there, or it is damaged, too large, or of a kind that the library cannot read.
        """
        path = Path(path)
        if gguf.is_gguf(path):
            with _library_errors(str(path)):
                return cls(*gguf_tokenizer.build(gguf.read(path)))
        file = path if path.is_file() else path / "tokenizer.json"
        if not file.is_file() and (path / wordpiece.VOCABULARY).is_file():
            library = wordpiece.read(path)
            return cls(library, read_roles(path, library, list(wordpiece.NAMES.values())))
        if not file.is_file():
            raise UserError(
                "there is no tokenizer here", where=str(file),
                fix="name a model directory that holds tokenizer.json, or train one: lmcraft tokenizer train",
            )  # fmt: skip
        if file.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"the tokenizer file is larger than {MAX_FILE_BYTES >> 20} MB", where=str(file))
        with _library_errors(str(file)):
            library = _Library.from_file(str(file))
        # A file may ask for cutting or padding of everything; both would silently change the ids.
        library.no_truncation()
        library.no_padding()
        added = [token.content for token in library.get_added_tokens_decoder().values()]
        return cls(library, read_roles(file.parent, library, added))

    def extended(self, specials: Sequence[str]) -> Tokenizer:
        """The same with these special tokens behind its vocabulary, if it does not have them."""
        library = _Library.from_str(self._library.to_str())
        library.add_special_tokens([as_special(token) for token in specials])
        return type(self)(
            library, dataclasses.replace(self.roles, mask=self.roles.mask or find_mask(specials))
        )

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` reads."""
        directory = Path(directory)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            # Without this transformers takes the name of the class for an old one and warns about a length.
            "model_max_length": 1_000_000_000,
        }
        for role in PUBLIC:
            token = getattr(self.roles, role)
            if token is not None:
                config[f"{role}_token"] = token
        if not self.roles.begins:
            config["add_bos_token"] = False
        if self.roles.end_of_turn is not None:
            config["additional_special_tokens"] = [self.roles.end_of_turn]
        write_json(directory / "tokenizer_config.json", config)
        # Last: a directory that a killed process left with tokenizer.json knows its roles too.
        write_text(directory / "tokenizer.json", self._library.to_str(pretty=True))

    # -- what is in it -----------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return self._largest_id + 1

    @functools.cached_property
    def _largest_id(self) -> int:
        return max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over vocabulary, rules and roles."""
        content = json.dumps([self._settings, self.roles.as_dict()], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def same_ids(self, other: Tokenizer) -> bool:
        """Whether both give every text the same ids, whatever roles special tokens have."""
        return self._settings == other._settings

    @property
    def specials(self) -> dict[str, int]:
        """The special tokens by their text."""
        return dict(self._specials)

    @property
    def beginning(self) -> list[int]:
        """The ids that a text begins with where no template writes them: bos, or nothing."""
        return [self.bos] if self.bos is not None and self.roles.begins else []

    def id(self, token: str | None) -> int | None:
        """The id of a token by its text in the vocabulary."""
        return None if token is None else self._library.token_to_id(token)

    def token(self, number: int) -> str | None:
        """How a token is written in the vocabulary."""
        return self._library.id_to_token(number)

    def token_bytes(self, number: int) -> bytes:
        """The bytes that a token stands for; a piece of a character for some tokens.

        Raises:
            UserError: there is no such id.
        """
        added = self._library.get_added_tokens_decoder().get(number)
        if added is not None:
            return added.content.encode("utf-8")
        token = self._library.id_to_token(number)
        if token is None:
            raise UserError(
                f"there is no token with the id {number}", why=f"ids go from 0 to {self.size - 1}"
            )
        if self._is_byte_level:
            return b"".join(BYTE_OF[c] if c in BYTE_OF else c.encode() for c in token)
        if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return token.removeprefix("##").replace("▁", " ").encode("utf-8")

    # -- use ---------------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; nothing is added, special tokens written in it are recognised."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, on all cores."""
        with _library_errors("the text to encode"):
            found = self._library.encode_batch_fast(list(map(_checked, texts)), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_plain` of each, on all cores: a book that writes about `<|im_end|>` does not end a turn."""
        pairs = zip(texts, self.encode_batch(texts), strict=True)
        return [ids if self.special_ids.isdisjoint(ids) else self.encode_plain(text) for text, ids in pairs]

    def encode_after(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Ids of the second text of each pair as it goes on from the first, a `context` ("" for none).

        For most vocabularies this is `encode_batch`. Those that put a space before the first word of a text (Llama 2)
        would put one into the middle of a conversation that is encoded in pieces.
        """
        joined = self.encode_batch([context + text for context, text in pairs])
        heads = {context: self.encode(context) if context else [] for context, _ in pairs}
        found = []
        for (context, text), ids in zip(pairs, joined, strict=True):
            head = heads[context]
            found.append(ids[len(head) :] if ids[: len(head)] == head else self.encode(text))
        return found

    def context(self, before: str) -> str:
        """What of the text before a piece can change the piece's ids; for `encode_after`."""
        if not before or not self._marks_beginnings:
            return ""
        return next((token for token in self._specials if before.endswith(token)), "\n")

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text` in which nothing is special, whatever is written in it."""
        with _library_errors("the text to encode"):
            ids = self._plain.encode(_checked(text), add_special_tokens=False).ids
        if self._control_ids.isdisjoint(ids):
            return ids
        # Some vocabularies hold special tokens as ordinary words too; a cut inside the word keeps it from matching.
        match = self._any_special.search(text)
        if match is None:
            return [number for number in ids if number not in self._control_ids]
        cut = match.start() + 1
        return self.encode_plain(text[:cut]) + self.encode_plain(text[cut:])

    def spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """`encode_plain` of each, and the characters (start, stop) that each id stands for."""
        with _library_errors("the text to encode"):
            found = self._plain.encode_batch(list(map(_checked, texts)), add_special_tokens=False)
        pairs = [zip(encoding.ids, encoding.offsets, strict=True) for encoding in found]
        kept = [[pair for pair in one if pair[0] not in self._control_ids] for one in pairs]
        return [([number for number, _ in one], [span for _, span in one]) for one in kept]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self._library.decode(list(ids), skip_special_tokens=skip_special)

    def split_special(self, text: str) -> list[str]:
        """`text` cut at its special tokens; those are elements of their own."""
        return [part for part in self._any_special.split(text) if part]

    def compression(self, texts: Iterable[str]) -> Compression:
        """Counts bytes, characters, words and tokens of `texts`."""
        size = characters = words = tokens = 0
        for batch in _batches(texts, 1000):
            tokens += sum(map(len, self.encode_batch(batch)))
            for text in batch:
                size += len(text.encode("utf-8"))
                characters += len(text)
                words += len(text.split())
        return Compression(size, characters, words, tokens)

    @functools.cached_property
    def _any_special(self) -> re.Pattern[str]:
        # Longest first: one special token may begin with another.
        tokens = sorted(self._specials, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, tokens)) + ")" if tokens else "((?!))")

    @functools.cached_property
    def _plain(self) -> _Library:
        settings = json.loads(json.dumps(self._settings))
        for token in settings.get("added_tokens", ()):
            token["special"] = token["special"] or token["content"] in self._specials
        plain = _Library.from_str(json.dumps(settings))
        plain.encode_special_tokens = True
        return plain

    @functools.cached_property
    def _is_byte_level(self) -> bool:
        return any(part.get("type") == "ByteLevel" for part in _parts(self._settings.get("decoder")))

    @property
    def marks_continuations(self) -> bool:
        """Whether pieces inside a word are written with ## (WordPiece)."""
        return self._settings["model"].get("type") == "WordPiece"

    @functools.cached_property
    def _marks_beginnings(self) -> bool:
        """Whether a text in the middle of another gets other ids than alone."""
        for part in (*_parts(self._settings.get("normalizer")), *_parts(self._settings.get("pre_tokenizer"))):
            scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space") else "never")
            if part.get("type") == "Prepend" or (part.get("type") == "Metaspace" and scheme != "never"):
                return True
            if part.get("type") == "ByteLevel" and part.get("add_prefix_space"):
                return True
        return False


def _parts(settings: Any) -> Iterator[dict[str, Any]]:
    """A step of the library's settings and the steps inside it."""
    if isinstance(settings, dict):
        yield settings
        for value in settings.values():
            for inner in value if isinstance(value, list) else [value]:
                yield from _parts(inner)


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _checked(text: str) -> str:
    """`text`, unless it holds half of a UTF-16 pair, which no bytes stand for."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text is not valid Unicode: {text[error.start]!r} at character {error.start}",
                why="a lone surrogate is half of a character and has no bytes",
                fix="decode the data as UTF-8, or with errors='replace'",
            ) from None
    return text


@contextmanager
def _library_errors(where: str) -> Iterator[None]:
    """Turns what the library raises into a `UserError`."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except (
        BaseException
    ) as error:  # a panic of the library's Rust code is no Exception, other errors are bare ones
        raise UserError(f"the tokenizer library refuses it: {str(error)[:300]}", where=where) from None
