"""Which files make a model directory: those that hold weights, words and settings, and none that can hold code.

1. Weights are safetensors. Pickles (`.bin`, `.pt`, `.ckpt` …) can run code when they are read: they are never fetched,
   copied or opened, whatever else a directory holds.
2. A name must be plain (letters, digits, `._-`), at the top of the directory; the two files by which
   sentence-transformers says how an embedding is pooled are the only ones below.
3. Where a directory holds weights twice, those called `model…` are the ones of the public layout; others
   (`consolidated.safetensors`) are left.

Proved by tests/unit/data/test_modelfiles.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..core.errors import UserError

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SETTINGS = frozenset(
    """
    config.json generation_config.json adapter_config.json model.safetensors.index.json
    tokenizer.json tokenizer_config.json tokenizer.model special_tokens_map.json added_tokens.json
    vocab.json vocab.txt vocab.bpe merges.txt spiece.model source.spm target.spm sentencepiece.bpe.model
    chat_template.jinja chat_template.json
    modules.json sentence_bert_config.json config_sentence_transformers.json 1_Pooling/config.json
    """.split()
)
_PAPERS = re.compile(r"(LICEN[CS]E|NOTICE|README|USE_POLICY|MODEL_CARD)[A-Za-z0-9_-]*(\.(txt|md|html|rst))?")
_PICKLES = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".h5",
    ".msgpack",
    ".npy",
    ".npz",
    ".mar",
)
_NAMED = 8  # files that a message lists


def is_pickle(name: str) -> bool:
    """Whether a file is of a kind that can run code when it is read, by its extension."""
    return name.lower().endswith(_PICKLES)


def allowed(name: str) -> bool:
    """Whether a file of a model directory, named by its path in it, may come into the store."""
    if name in _SETTINGS:
        return True
    if not _PLAIN.fullmatch(name):
        return False
    return name.endswith(".safetensors") or bool(_PAPERS.fullmatch(name))


def chosen(names: Iterable[str], where: str) -> list[str]:
    """The files to take of a model directory, sorted.

    Raises:
        UserError: it is no model directory, or has no safetensors.
    """
    names = sorted(names)
    files = [name for name in names if allowed(name)]
    if not {"config.json", "adapter_config.json"} & set(files):
        raise UserError(
            "this is not a model directory", where=where, why=f"it has no config.json; it holds {listed(names)}",
            fix="of a run, take the folder model/ in it",
        )  # fmt: skip
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        pickles = [name for name in names if is_pickle(name)]
        found = f"it has only {listed(pickles)}: pickled weights" if pickles else "pickled weights"
        raise UserError(
            "the model directory has no safetensors", where=where, why=f"{found} can hold code and are not read",
            fix="save the model as safetensors first",
        )  # fmt: skip
    public = [name for name in weights if name.startswith("model")]
    left = set(weights) - set(public) if public else set()
    return [name for name in files if name not in left]


def listed(names: Iterable[str]) -> str:
    """Names for a message: the first few, escaped and cut to a length that a line can hold."""
    names = list(names)
    shown = [ascii(name)[1:-1][:60] for name in names[:_NAMED]]
    more = len(names) - len(shown)
    return ", ".join([*shown, *([f"and {more:,} more"] if more > 0 else [])]) or "nothing"
