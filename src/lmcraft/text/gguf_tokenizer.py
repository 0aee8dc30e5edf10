"""The tokenizer of a GGUF file, built on the `tokenizers` library so that its ids are those of the model's own files.

A GGUF file holds a vocabulary and names an algorithm; how text is split before it is merged is only *named*
(`tokenizer.ggml.pre`), and the splits are known to the readers. A wrong split gives other ids and a slightly worse
model, and nothing else tells. So:

1. An unknown name is an error. A file without a name, as they were written before May 2024, is told about.
2. `gpt2` is byte-level BPE with the merges of the file; `llama` is SentencePiece BPE, in which the pair whose union has
   the best score is merged first. Merges are made of the scores: first those of user-defined tokens (runs of spaces),
   then by score. Characters without a token become bytes.
3. A vocabulary that puts a space before a text does so in front of every part between special tokens, as the published
   tokenizer.json of Llama 2 does.
4. The library adds nothing on `encode`; the post-processor that would add BOS is for other programs, after a save.
5. The names of splits are those of llama.cpp (`src/llama-vocab.cpp`); the expressions are those of the published
   tokenizer.json of the models after which the splits are called.

Proved by tests/gguf/test_tokenizer.py and tests/gguf/test_pulled.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..core.errors import UserError
from ..core.gguf import Header
from ..core.log import say
from .special import Roles, end_of_turn

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# The longest piece of which merges are made; the longest in use has 48 characters.
MAX_PIECE = 512
MAX_PIECES_CHARACTERS = 16 << 20

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+", rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*")
_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Expressions that cut one after the other.
GPT2 = (_WORDS,)
DIGITS = (r"\p{N}", _WORDS)
LLAMA3 = (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_MARKS}",)
QWEN2 = (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_MARKS}",)
GPT4O = (rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHED}",)
TEKKEN = (rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SLASHED}",)
UNNAMED = (r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")

SPLITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("default",), UNNAMED),
    **dict.fromkeys(("gpt-2", "phi-2", "jina-v2-en", "jina-v2-es", "jina-v2-de", "mpt", "olmo", "gigachat"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"), LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4"), GPT4O),
    "tekken": TEKKEN,
}  # fmt: skip
# A word that is a token is that token, whatever merges would make of it.
_WHOLE_WORDS = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2", "tekken"}
_BEGIN_ALWAYS = _WHOLE_WORDS - {"tekken"}
_COMPOSED = {"qwen2", "deepseek-r1-qwen"}  # the published tokenizer composes accents first (NFC)


def build(header: Header) -> tuple[Tokenizer, Roles]:
    """The library's tokenizer of a GGUF file, and its special tokens by role.

    Raises:
        UserError: an algorithm or a split that is not known, or a vocabulary that contradicts itself.
    """
    kind = header.text("tokenizer.ggml.model")
    tokens = header.strings("tokenizer.ggml.tokens")
    types = _types(header, len(tokens))
    if len(set(tokens)) != len(tokens):
        raise _wrong(header, "the vocabulary has a token twice")
    if kind == "gpt2":
        library, begins = _byte_level(header, tokens), _split(header) in _BEGIN_ALWAYS
    elif kind == "llama":
        library, begins = _sentencepiece(header, tokens, types), True
    else:
        raise UserError(f"GGUF tokenizers of the kind {kind!r} cannot be read", where=str(header.path),
                        why="known: gpt2 (byte-level BPE), llama (SentencePiece BPE)")  # fmt: skip
    roles = _roles(header, library, tokens, begins)
    control = {roles.bos, roles.eos, roles.pad, roles.unk} - {None}
    special = [t for t, kind in zip(tokens, types, strict=True) if t and (kind == CONTROL or t in control)]
    library.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    known = set(special)
    defined = [t for t, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED and t.strip(" ")]
    library.add_tokens([AddedToken(t, special=False, normalized=False) for t in defined if t not in known])
    if roles.begins and roles.bos is not None:
        library.post_processor = processors.TemplateProcessing(
            f"{roles.bos}:0 $A:0", f"{roles.bos}:0 $A:0 {roles.bos}:1 $B:1",
            [(roles.bos, tokens.index(roles.bos))],
        )  # fmt: skip
    return library, roles


def _byte_level(header: Header, tokens: Sequence[str]) -> Tokenizer:
    name = _split(header)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = []
    for line in header.strings("tokenizer.ggml.merges"):
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise _wrong(header, f"the merge {line!r:.60} names a token that is not in the vocabulary")
        merges.append((left, right))
    library = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in _WHOLE_WORDS))
    if name in _COMPOSED:
        library.normalizer = normalizers.NFC()
    library.pre_tokenizer = pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(expression), "isolated") for expression in SPLITS[name]),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    library.decoder = decoders.ByteLevel()
    return library


def _split(header: Header) -> str:
    name = header.facts.get("tokenizer.ggml.pre")
    if name is None:
        say(
            f"warning: {header.path} does not say how its tokenizer splits text; `default` is used, ids may differ"
        )
        return "default"
    if name not in SPLITS:
        raise UserError(f"the tokenizer splits text as {name!r:.60}, which is not known", where=str(header.path),
                        why="another split would give other ids, and a worse model without a word",
                        fix="use the safetensors files of the same model, which hold their tokenizer.json")  # fmt: skip
    return name


def _sentencepiece(header: Header, tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    scores = header.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise _wrong(header, f"{len(tokens):,} tokens have {len(scores):,} scores")
    # Runs of spaces are written as spaces in the file and as ▁ in the text that they are to match.
    spelled = [t.replace(" ", "▁") if kind == USER_DEFINED and not t.strip(" ") else t
               for t, kind in zip(tokens, types, strict=True)]  # fmt: skip
    vocabulary = {token: number for number, token in enumerate(spelled)}
    if len(vocabulary) != len(tokens):
        raise _wrong(header, "the vocabulary has a token twice")
    merges = _merges(header, spelled, types, scores)
    unknown = header.facts.get("tokenizer.ggml.unknown_token_id")
    unk = spelled[_id(header, "unknown", len(tokens))] if unknown is not None else None
    library = Tokenizer(models.BPE(vocabulary, merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    prefix = header.flag("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return library


def _merges(
    header: Header, tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Every way to put a token together of two others, best first."""
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    runs = {token for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED}
    if sum(map(len, tokens)) > MAX_PIECES_CHARACTERS or max(map(len, normal | runs), default=0) > MAX_PIECE:
        raise _wrong(header, f"tokens are longer than {MAX_PIECE} characters, or too long together")
    ranked = []
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == NORMAL:
            parts, rank = normal, (1, -scores[number], number)
        elif kind == USER_DEFINED and not token.strip("▁"):
            parts, rank = runs | {"▁"}, (0, 0.0, number)
        else:
            continue
        for place in range(len(token) - 1, 0, -1):
            if token[:place] in parts and token[place:] in parts:
                ranked.append((rank, token[:place], token[place:]))
    ranked.sort(key=lambda one: one[0])
    return [(left, right) for _, left, right in ranked]


def _types(header: Header, count: int) -> list[int]:
    if "tokenizer.ggml.token_type" not in header.facts:
        return [NORMAL] * count
    types = [int(kind) for kind in header.numbers("tokenizer.ggml.token_type")]
    if len(types) != count:
        raise _wrong(header, f"{count:,} tokens have {len(types):,} types")
    return types


def _roles(header: Header, library: Tokenizer, tokens: Sequence[str], begins: bool) -> Roles:
    """Who begins, ends and pads, and where generation stops."""
    found: dict[str, str | None] = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = _id(header, key, len(tokens))
        found[role] = None if number is None else tokens[number]
    stops = [_id(header, key, len(tokens)) for key in ("eos", "eot", "eom")]
    known = tuple(number for number in stops if number is not None)
    template = header.facts.get("tokenizer.chat_template")
    end = end_of_turn(found["eos"], template if isinstance(template, str) else None, library, known)
    adds = header.flag("tokenizer.ggml.add_bos_token", begins)
    return Roles(**found, end_of_turn=end, stop_ids=known, begins=adds and found["bos"] is not None)


def _id(header: Header, role: str, size: int) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in header.facts:
        return None
    number = header.integer(key)
    if number >= size:
        raise _wrong(header, f"{key} is {number}, the vocabulary has {size:,} tokens")
    return number


def _wrong(header: Header, why: str) -> UserError:
    return UserError("the tokenizer of the GGUF file is damaged", where=str(header.path), why=why)
