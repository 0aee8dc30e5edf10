"""BERT's tokenizer from its vocab.txt: words, cut greedily into the longest known pieces, `##` before continuations.

Wu et al. 2016 (https://arxiv.org/abs/1609.08144), section 4.1, as in BERT (https://arxiv.org/abs/1810.04805).

1. The line of a piece in vocab.txt is its id. Lower case, accents and Chinese characters follow tokenizer_config.json;
   without one, text is lower-cased, as BERT's first release did.
2. A word with a part that no piece covers is [UNK] as a whole.

Proved by tests/unit/text/test_wordpiece.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..core.disk import read_json
from ..core.errors import UserError

VOCABULARY = "vocab.txt"
NAMES = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
MAX_FILE_BYTES = 64 << 20
LONGEST_WORD = 100


def read(directory: Path) -> Tokenizer:
    """The library's tokenizer of a directory with vocab.txt.

    Raises:
        UserError: the file is too large, no UTF-8, has a piece twice, or lacks a special token.
    """
    file = directory / VOCABULARY
    settings = directory / "tokenizer_config.json"
    config = read_json(settings) if settings.is_file() else {}
    if not isinstance(config, dict):
        raise UserError("the file does not hold a JSON object", where=str(settings))
    return build(_pieces(file), config, str(file))


def build(vocabulary: Mapping[str, int], config: Mapping[str, Any], where: str) -> Tokenizer:
    """The library's tokenizer of a vocabulary; `config` is what tokenizer_config.json says."""
    names = {role: _text(config.get(f"{role}_token")) or name for role, name in NAMES.items()}
    missing = [name for name in names.values() if name not in vocabulary]
    if missing:
        raise UserError(f"the vocabulary lacks {', '.join(missing)}", where=where,
                        why="a WordPiece tokenizer needs its special tokens")  # fmt: skip
    library = Tokenizer(
        models.WordPiece(dict(vocabulary), unk_token=names["unk"], max_input_chars_per_word=LONGEST_WORD)
    )
    library.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=config.get("tokenize_chinese_chars", True) is not False,
        strip_accents=config.get("strip_accents"), lowercase=config.get("do_lower_case", True) is not False,
    )  # fmt: skip
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix="##")
    library.post_processor = processors.TemplateProcessing(
        single=f"{names['cls']} $A {names['sep']}",
        pair=f"{names['cls']} $A {names['sep']} $B:1 {names['sep']}:1",
        special_tokens=[(names[role], vocabulary[names[role]]) for role in ("cls", "sep")],
    )
    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names.values()])
    return library


def _pieces(file: Path) -> dict[str, int]:
    if file.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"the vocabulary is larger than {MAX_FILE_BYTES >> 20} MB", where=str(file))
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError("the vocabulary is not UTF-8", where=str(file), why=str(error)) from None
    if lines and not lines[-1]:
        lines.pop()
    pieces: dict[str, int] = {}
    for number, line in enumerate(lines):
        piece = line.rstrip("\r")
        if piece in pieces:
            raise UserError(
                f"the piece {piece!r} stands twice in the vocabulary", where=f"{file}:{number + 1}"
            )
        pieces[piece] = number
    return pieces


def _text(token: Any) -> str | None:
    """A token's text; some files keep it in an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
