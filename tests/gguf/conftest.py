"""GGUF files for tests: small ones through the library's own writer, and hostile ones byte by byte."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import pytest

Kind = gguf.GGMLQuantizationType
BYTES = [chr(b) if 33 <= b < 127 or 161 <= b < 173 or b >= 174 else None for b in range(256)]
NUMBERS = {
    "u8": 0,
    "i8": 1,
    "u16": 2,
    "i16": 3,
    "u32": 4,
    "i32": 5,
    "f32": 6,
    "bool": 7,
    "u64": 10,
    "i64": 11,
    "f64": 12,
}
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's vocabulary, by byte."""
    extra = iter(range(256, 512))
    return [letter if letter is not None else chr(next(extra)) for letter in BYTES]


def bpe_facts(pre: str | None = "smollm", words: tuple[str, ...] = ("the", "Ġthe", "ing")) -> dict:
    """A byte-level vocabulary: three specials, the bytes, and merges that lead to some words."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_alphabet()]
    merges = []
    for word in words:
        for stop in range(2, len(word) + 1):
            if word[:stop] not in tokens:
                merges.append(f"{word[: stop - 1]} {word[stop - 1]}")
                tokens.append(word[:stop])
    facts = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3), "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    return {key: value for key, value in facts.items() if value is not None}


def spm_facts(prefix: bool = True, words: tuple[str, ...] = ("▁the", "▁then", "ing", "th")) -> dict:
    """A SentencePiece vocabulary: specials, bytes, letters, and words with scores."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "  ",
        "   ",
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
    ]
    types = [2, 3, 3] + [6] * 256 + [4, 4] + [1] * 27
    for word in words:
        for stop in range(2, len(word) + 1):
            if word[:stop] not in tokens:
                tokens.append(word[:stop])
                types.append(1)
    scores = [0.0] * 259 + [-1000.0] * 2 + [-float(n) for n in range(len(tokens) - 261)]
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }  # fmt: skip


def llama_facts(vocab: int, layers: int = 1, width: int = 32, heads: int = 2, mlp: int = 32) -> dict:
    """The sizes of a Llama."""
    return {
        "general.architecture": "llama", "llama.block_count": layers, "llama.context_length": 64,
        "llama.embedding_length": width, "llama.feed_forward_length": mlp, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": 1, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0, "llama.vocab_size": vocab,
    }  # fmt: skip


def llama_tensors(
    vocab: int, layers: int = 1, width: int = 32, heads: int = 2, mlp: int = 32
) -> dict[str, np.ndarray]:
    """Random weights of a Llama with one key-value head and a tied output."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (vocab, width), "output_norm.weight": (width,)}
    for i in range(layers):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (width,), f"blk.{i}.ffn_norm.weight": (width,),
            f"blk.{i}.attn_q.weight": (width, width), f"blk.{i}.attn_k.weight": (width // heads, width),
            f"blk.{i}.attn_v.weight": (width // heads, width), f"blk.{i}.attn_output.weight": (width, width),
            f"blk.{i}.ffn_gate.weight": (mlp, width), f"blk.{i}.ffn_up.weight": (mlp, width),
            f"blk.{i}.ffn_down.weight": (width, mlp),
        }  # fmt: skip
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def write(path: Path, facts: dict, tensors: dict[str, np.ndarray], kind: Kind = Kind.F32) -> Path:
    """A file by the library's writer; matrices in the given number format, vectors in float32."""
    writer = gguf.GGUFWriter(path, facts["general.architecture"])
    for key, value in facts.items():
        if key == "general.architecture":
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, values in tensors.items():
        if values.dtype == np.uint8:  # blocks made by hand
            writer.add_tensor(name, values, raw_dtype=kind)
        else:
            used = kind if values.ndim == 2 else Kind.F32
            writer.add_tensor(name, gguf.quants.quantize(values, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@dataclass
class Raw:
    """A file put together by hand; `fields` are the places and widths of all counts, lengths, types and offsets."""

    content: bytearray = field(default_factory=bytearray)
    fields: list[tuple[int, int]] = field(default_factory=list)

    def number(self, value: int, width: int) -> None:
        self.fields.append((len(self.content), width))
        self.content += (value % (1 << 8 * width)).to_bytes(width, "little")

    def text(self, value: str | bytes) -> None:
        value = value.encode() if isinstance(value, str) else value
        self.number(len(value), 8)
        self.content += value

    def fact(self, key: str, kind: int, value: object) -> None:
        """A fact; `kind` is its number, or (9, number) for an array."""
        self.text(key)
        array = isinstance(kind, tuple)
        self.number(9 if array else kind, 4)
        if array:
            self.number(kind[1], 4)
            self.number(len(value), 8)
        for one in value if array else [value]:
            if (kind[1] if array else kind) == 8:
                self.text(one)
            else:
                self.content += struct.pack("<" + FORMATS[kind[1] if array else kind], one)

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> None:
        self.text(name)
        self.number(len(shape), 4)
        for size in reversed(shape):
            self.number(size, 8)
        self.number(kind, 4)
        self.number(offset, 8)


def raw_llama(facts: dict, tensors: dict[str, np.ndarray], align: int = 32) -> Raw:
    """The file that `write` writes in float32, and where its fields are."""
    raw = Raw(bytearray(b"GGUF"))
    raw.number(3, 4)
    raw.number(len(tensors), 8)
    raw.number(len(facts), 8)
    kinds = {bool: 7, int: 4, float: 6, str: 8}
    for key, value in facts.items():
        several = isinstance(value, list)
        raw.fact(key, (9, (kinds | {int: 5})[type(value[0])]) if several else kinds[type(value)], value)
    place = 0
    for name, values in tensors.items():
        raw.tensor(name, values.shape, 0, place)
        place += values.nbytes + -values.nbytes % align
    raw.content += bytes(-len(raw.content) % align)
    for values in tensors.values():
        raw.content += values.tobytes() + bytes(-values.nbytes % align)
    return raw


class Files:
    """What the tests of this folder make files with."""

    bpe_facts, spm_facts = staticmethod(bpe_facts), staticmethod(spm_facts)
    llama_facts, llama_tensors = staticmethod(llama_facts), staticmethod(llama_tensors)
    write, raw_llama, Raw, byte_alphabet = (
        staticmethod(write),
        staticmethod(raw_llama),
        Raw,
        staticmethod(byte_alphabet),
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def llama(
        self, tokenizer: dict | None = None, kind: Kind = Kind.F32, name: str = "tiny.gguf", **sizes: int
    ) -> Path:
        """A tiny Llama with a tokenizer."""
        tokenizer = bpe_facts() if tokenizer is None else tokenizer
        vocab = len(tokenizer["tokenizer.ggml.tokens"])
        return write(
            self.folder / name, llama_facts(vocab, **sizes) | tokenizer, llama_tensors(vocab, **sizes), kind
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Makes GGUF files in the test's folder."""
    return Files(tmp_path)


@pytest.fixture(scope="session")
def made() -> type[Files]:
    """The functions that make files, for tests that make them once."""
    return Files
