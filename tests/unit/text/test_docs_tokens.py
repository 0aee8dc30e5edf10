"""docs/tokens.md says what is so: its code runs, and its limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from lmcraft.text import budget, jinja
from lmcraft.text.special import END_OF_DOCUMENT
from lmcraft.text.tokenizer import SPECIALS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "tokens.md").read_text(encoding="utf-8")


def test_its_code_runs() -> None:
    """If this failed, readers would copy code that does not work."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "docs/tokens.md", "exec"), {})


def test_its_numbers_are_the_codes() -> None:
    """If this failed, the page would promise other limits than there are."""
    for limit, shown in (
        (jinja.MAX_SOURCE_BYTES, "64 KB"),
        (budget.MAX_STRING, "4 million characters"),
        (budget.MAX_TOTAL, "64 million characters"),
        (budget.MAX_ITEMS, "100,000"),
        (jinja.MAX_LOOPS, "| 8 |"),
        (budget.MAX_WORK, "10 million small operations"),
        (int(budget.MAX_SECONDS), "5 s of CPU"),
    ):
        number = int(re.sub(r"[^0-9]", "", shown.split(" ")[0] if "|" not in shown else shown))
        unit = (
            1 << 20
            if "million characters" in shown
            else 10**6
            if "million" in shown
            else 1024
            if "KB" in shown
            else 1
        )
        assert shown in PAGE and limit == number * unit
    assert all(special.replace("|", r"\|") in PAGE for special in (*SPECIALS, END_OF_DOCUMENT))
