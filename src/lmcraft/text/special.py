"""Which special token begins a text, ends it, pads a row, and ends a turn, as the files of a model directory say.

1. The public layout names the tokens in four places (tokenizer_config.json, special_tokens_map.json,
   generation_config.json, config.json). They are asked in this order; the first answer counts.
2. The end of a turn has no public name. It is a token with a known name that the chat template writes or that
   generation stops at; in newer models it is not the end of the text (`<|eot_id|>`, `<|im_end|>`).
3. Everything that generation_config.json stops at is a stop id.
4. Some vocabularies have a BOS that only chat templates write (SmolLM2); `begins` says whether a plain text gets it.

Proved by tests/unit/text/test_tokenizer_public.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers

from ..core import gguf
from ..core.disk import read_json
from ..core.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"
PUBLIC = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")  # roles that tokenizer_config.json names
MASK = "<|mask|>"
MASKS = (MASK, "[MASK]", "<mask>")
BERT = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]", "unk": "[UNK]"}
PADS = ("<|pad|>", "<pad>", "[PAD]")
# Ends of turns in use: ChatML and Qwen, Llama 3, Gemma, Phi, OpenChat, Gemma 4, gpt-oss.
TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_turn|>",
    "<turn|>",
    "<|return|>",
)
MAX_CONFIG_BYTES = 64 << 20


@dataclass(frozen=True)
class Roles:
    """The texts of the special tokens by their role, and the ids that generation stops at.

    Attributes:
        begins: whether a text that no template renders begins with bos.
    """

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    end_of_turn: str | None = None
    unk: str | None = None
    mask: str | None = None
    cls: str | None = None
    sep: str | None = None
    stop_ids: tuple[int, ...] = ()
    begins: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a digest."""
        return asdict(self)


def guess_roles(tokens: Sequence[str]) -> Roles:
    """Roles by name alone, for a tokenizer that nothing describes."""

    def first(*names: str) -> str | None:
        return next((name for name in names if name in tokens), None)

    return Roles(
        bos=first(END_OF_DOCUMENT, "<s>", "<bos>", "<|begin_of_text|>", "[CLS]"),
        eos=first(END_OF_DOCUMENT, "</s>", "<eos>", "<|end_of_text|>", "[SEP]"),
        pad=first(*PADS),
        end_of_turn=first(*TURN_ENDS),
        unk=first("<unk>", "[UNK]"),
        mask=find_mask(tokens),
    )


def as_special(token: str) -> tokenizers.AddedToken:
    """A special token; a mask takes the space before it, as the words do in whose places it stands in training."""
    return tokenizers.AddedToken(token, special=True, normalized=False, lstrip=token in MASKS)


def find_mask(tokens: Sequence[str]) -> str | None:
    """The token that stands in the place of a masked word, by its name."""
    return next((name for name in MASKS if name in tokens), None)


def read_roles(directory: Path, library: tokenizers.Tokenizer, added: Sequence[str]) -> Roles:
    """Roles by the files beside tokenizer.json.

    Raises:
        UserError: one of the files is no JSON object, or names a token that the vocabulary does not have.
    """
    names = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")
    config, mapped, generation, model = (_object(directory / name) for name in names)
    found: dict[str, str | None] = {}
    for role in PUBLIC:
        found[role] = _named(config, mapped, role, directory)
        if found[role] is None and f"{role}_token" not in config:
            found[role] = _by_id(library, generation, model, role)
        if found[role] is not None and library.token_to_id(found[role]) is None:
            raise UserError(
                f"the {role} token {found[role]!r} is not in the vocabulary",
                where=str(directory / "tokenizer_config.json"),
                fix="name a token of tokenizer.json, or add it there",
            )
    if isinstance(
        library.model, tokenizers.models.WordPiece
    ):  # BERT's old files leave its names to the program
        found |= {
            r: name for r, name in BERT.items() if found[r] is None and library.token_to_id(name) is not None
        }
    elif found["bos"] is None and found["eos"] is None and not config and not mapped:
        return guess_roles(added)
    stops = tuple(i for i in _ids(generation.get("eos_token_id")) if library.id_to_token(i) is not None)
    end = end_of_turn(found["eos"], template_source(directory), library, stops)
    return Roles(**found, end_of_turn=end, stop_ids=stops, begins=config.get("add_bos_token") is not False)


def template_source(directory: Path) -> str | None:
    """The chat template of a model directory or a GGUF file, if it has one."""
    if gguf.is_gguf(directory):
        return gguf.read(directory).text("tokenizer.chat_template", "") or None
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    template = _object(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several by name, of which one is the default
        by_name = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
        template = by_name.get("default", next(iter(by_name.values()), None))
    return template if isinstance(template, str) else None


def end_of_turn(
    eos: str | None, template: str | None, library: tokenizers.Tokenizer, stops: Sequence[int]
) -> str | None:
    """The token that ends a turn: a known one that the template writes or generation stops at."""
    known = [name for name in TURN_ENDS if library.token_to_id(name) is not None]
    if template is not None:
        written = [name for name in known if name in template]
        if written:
            return written[0]
        if eos is not None and (eos in template or "eos_token" in template):
            return eos
    stopped_at = [library.id_to_token(number) for number in stops]
    return next((name for name in known if name in stopped_at), known[0] if known else None)


def _object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise UserError(f"the file is larger than {MAX_CONFIG_BYTES >> 20} MB", where=str(file))
    value = read_json(file)
    if not isinstance(value, dict):
        raise UserError("the file does not hold a JSON object", where=str(file))
    return value


def _named(config: Mapping[str, Any], mapped: Mapping[str, Any], role: str, directory: Path) -> str | None:
    for source in (config, mapped):
        token = source.get(f"{role}_token")
        if isinstance(token, dict):
            token = token.get("content")
        if token is not None and not isinstance(token, str):
            raise UserError(
                f"the {role} token is not a text", where=str(directory), why=f"found {token!r:.60}"
            )
        if token is not None:
            return token
    return None


def _by_id(library: tokenizers.Tokenizer, generation: Mapping, model: Mapping, role: str) -> str | None:
    for source in (generation, model):
        for number in _ids(source.get(f"{role}_token_id")):
            token = library.id_to_token(number)
            if token is not None:
                return token
    return None


def _ids(value: Any) -> list[int]:
    """One id or a list of ids; the public layout has both."""
    numbers = value if isinstance(value, list) else [value]
    return [number for number in numbers if isinstance(number, int) and 0 <= number < 1 << 31]
