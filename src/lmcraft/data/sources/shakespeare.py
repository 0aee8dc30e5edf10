"""Convert the texts of the shakespeare package to text JSON Lines, a work a row, with its title.

1. The works in modern spelling (`*_gut.txt`), in order of title; the folio texts are not taken.
2. What Project Gutenberg puts before and after a work (up to a `*** START` or `*END*THE SMALL PRINT` line, from a
   `*** END` or `End of … Project Gutenberg` line on) is taken off; most files of the package come without it.
3. Line ends become LF, spaces at line ends and blank lines around the work go; nothing else is changed.

Proved by tests/unit/data/test_catalog.py.
"""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

_FLAGS = re.MULTILINE | re.IGNORECASE
_START = re.compile(r"^(\*\*\* ?START|\*END\*? ?THE SMALL PRINT).*$", _FLAGS)
_END = re.compile(r"^(\*\*\* ?END OF|END OF (THE |THIS )?PROJECT GUTENBERG).*", _FLAGS | re.DOTALL)


def convert(folder: Path, target: Path) -> dict[str, int]:
    """Write every work of `folder` to `target`; returns how many works and characters."""
    titles = configparser.ConfigParser(interpolation=None)
    titles.read_string((folder / "metadata.txt").read_text(encoding="utf-8"))
    works = []
    for file in sorted(folder.glob("*_gut.txt")):
        title = titles.get(file.stem, "title", fallback=file.stem.removesuffix("_gut").replace("_", " "))
        works.append((title, _work(_decoded(file.read_bytes()))))
    works.sort()
    with target.open("w", encoding="utf-8", newline="\n") as out:
        for title, text in works:
            out.write(json.dumps({"text": text, "title": title}, ensure_ascii=False) + "\n")
    return {"works": len(works), "characters": sum(len(text) for _, text in works)}


def _decoded(raw: bytes) -> str:
    """Some files of 2008 are Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _work(text: str) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    starts = list(_START.finditer(text))
    if starts:
        text = text[starts[-1].end() :]
    text = _END.sub("", text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
