"""docs/tokens.md says what is so: its code runs, and its limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from lmcraft.text import budget, jinja
from lmcraft.text.tokenizer import SPECIALS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "tokens.md").read_text(encoding="utf-8")


def test_its_code_runs() -> None:
    """If this failed, readers would copy code that does not work."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "docs/tokens.md", "exec"), {})


def test_its_numbers_are_the_codes() -> None:
    """If this failed, the page would promise other limits than there are."""
    rows = {
        "source": (jinja.MAX_SOURCE_BYTES, 64 << 10, "64 KB"),
        "one text, and the output": (budget.MAX_STRING, 4 << 20, "4 million characters"),
        "all texts made while rendering": (budget.MAX_TOTAL, 64 << 20, "64 million characters"),
        "elements of a list": (budget.MAX_ITEMS, 100_000, "100,000"),
        "loops inside loops": (jinja.MAX_LOOPS, 8, "8"),
        "work": (budget.MAX_WORK, 10**7, "10 million small operations; as a second fence 5 s of CPU"),
    }
    for what, (limit, number, shown) in rows.items():
        assert limit == number and f"| {what} | {shown} |" in PAGE
    assert budget.MAX_SECONDS == 5
    assert all(special.replace("|", r"\|") in PAGE for special in SPECIALS)
