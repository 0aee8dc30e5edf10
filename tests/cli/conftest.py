"""Small data that the commands are tried on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tales() -> Callable[[Path], Path]:
    """Writes book.txt (40 short texts) and chats.jsonl (40 conversations about them) into a folder."""

    def write(folder: Path) -> Path:
        (folder / "book.txt").write_text(
            "\n<|endoftext|>\n".join(f"The tale of {i} cats." for i in range(40))
        )
        rows = [
            [{"role": "user", "content": f"{i} cats?"}, {"role": "assistant", "content": f"{i} cats."}]
            for i in range(40)
        ]
        (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
        return folder

    return write
