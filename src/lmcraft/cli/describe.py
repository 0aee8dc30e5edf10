"""What a model on the disk is, from its headers and settings alone: no tensor is read, no torch imported.

Proved by tests/cli/test_show.py.
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from ..core.disk import digest, read_json
from ..core.errors import UserError

_CONTEXTS = ("max_position_embeddings", "n_positions", "context", "max_length")
_CARD = re.compile(r"\A---\r?\n(.*?)^---", re.DOTALL | re.MULTILINE)
_CARD_LICENCE = re.compile(r"^license: *[\"']?([A-Za-z0-9._-]{1,60})", re.MULTILINE)
_CARD_CHARACTERS = 20_000
_SHOWN_CHARACTERS = 200


def directory(folder: Path) -> dict[str, Any]:
    """Family, context, parameters, number formats, template, licence and files of a model directory.

    Raises:
        UserError: it is none, or its weights or settings are damaged.
    """
    from ..text.chat import ChatTemplate  # brings the tokenizers, which help texts do not need

    facts: dict[str, Any] = {}
    for key, name in (
        ("model_config", "config.json"),
        ("adapter_config", "adapter_config.json"),
        ("adapter", "lmcraft.json"),
    ):
        if (folder / name).is_file():
            facts[key] = read_json(folder / name)
            if not isinstance(facts[key], dict):
                raise UserError("not the settings of a model", where=str(folder / name))
    if not facts:
        raise UserError(
            "there is nothing to show here", where=str(folder), why="neither a run nor a model directory"
        )
    config = facts.get("model_config", {})
    return {
        "family": config.get("model_type") or config.get("kind"),
        "context": next((config[key] for key in _CONTEXTS if key in config), None),
        **_weights(folder),
        "chat_template": ChatTemplate.exists(folder),
        "licence": _card_licence(folder),
        **facts,
        "sha256": digest(folder),
        "files": {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }


def gguf_file(file: Path) -> dict[str, Any]:
    """The same of a .gguf file, and how many parameters it holds in which format.

    Raises:
        UserError: it is none, or damaged.
    """
    from ..core import gguf  # its library brings numpy, which help texts do not need

    header = gguf.read(file)
    family = header.facts.get("general.architecture")
    formats: Counter[str] = Counter()
    for tensor in header.tensors.values():
        formats[tensor.type.name] += prod(tensor.shape)
    tokens = header.facts.get("tokenizer.ggml.tokens")
    return {
        "format": f"GGUF version {header.version}",
        "family": _plain(family),
        "title": _plain(header.facts.get("general.name")),
        "context": _plain(header.facts.get(f"{family}.context_length")),
        "parameters": formats.total(),
        "quantization": dict(formats.most_common()),
        "tensors": len(header.tensors),
        "vocabulary": tokens.count if isinstance(tokens, gguf.Array) else None,
        "chat_template": isinstance(header.facts.get("tokenizer.chat_template"), str),
        "licence": _plain(header.facts.get("general.license")),
    }


def _plain(value: Any) -> Any:
    """A short fact of a file from anywhere, safe to print; None for what is no text and no number."""
    if isinstance(value, str):
        return "".join(letter for letter in value if letter.isprintable())[:_SHOWN_CHARACTERS]
    return value if isinstance(value, int | float) else None


def _weights(folder: Path) -> dict[str, Any]:
    """Parameters and number formats from the headers of the safetensors; the tensors are not read."""
    from safetensors import SafetensorError, safe_open

    parameters, formats = 0, set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    tensor = tensors.get_slice(name)
                    parameters += prod(tensor.get_shape())
                    formats.add(tensor.get_dtype())
        except (SafetensorError, OSError) as error:
            raise UserError("the weights cannot be read", where=str(file), why=str(error)) from error
    return {"parameters": parameters, "formats": sorted(formats)}


def _card_licence(folder: Path) -> str | None:
    """What the head of the model card says of the licence."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as file:
        head = _CARD.match(file.read(_CARD_CHARACTERS))
    found = _CARD_LICENCE.search(head[1]) if head else None
    return found[1] if found else None
