"""What every benchmark has: arguments with its own docstring as help, and a table in RESULTS.md.

A table stands below the command, without the folders of this machine, the machine and the date.

Proved by: the file it writes; used by every benchmark of this folder.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

FILE = Path(__file__).with_name("RESULTS.md")


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def append(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]], notes: str = "") -> None:
    """One section at the end of RESULTS.md, also printed."""
    lines = [f"\n## {title}", ""]
    command = " ".join(Path(word).name if Path(word).is_absolute() else word for word in sys.argv)
    lines += [f"- command: `python {command}`", f"- machine: {machine()}"]
    lines += [f"- date: {datetime.now(UTC):%Y-%m-%d}", ""]
    lines += ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    if notes:
        lines += ["", notes]
    text = "\n".join(lines) + "\n"
    print(text)
    with FILE.open("a", encoding="utf-8") as file:
        file.write(text)


def machine() -> str:
    """Processor, cores, and the versions that matter."""
    import torch
    import transformers

    info = Path("/proc/cpuinfo")
    names = (
        [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    flags = info.read_text() if info.exists() else ""
    bf16 = (
        "with bf16 instructions"
        if "avx512_bf16" in flags or "amx_bf16" in flags
        else "without bf16 instructions"
    )
    cpu = names[0] if names else platform.processor()
    return (
        f"{cpu}, {torch.get_num_threads()} threads, {bf16}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
