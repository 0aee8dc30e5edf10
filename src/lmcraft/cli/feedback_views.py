"""What `lmcraft feedback` shows: tables for people; whatever simulated raters made is marked as theirs.

Proved by tests/cli/test_feedback.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..report.tokens import plain
from .output import table

if TYPE_CHECKING:
    from ..feedback.reliability import Estimate

_CHARACTERS = 60
DONE = {"rate": "rated", "skip": "skipped", "flag": "flagged", "undo": "taken back"}


def estimate(found: Estimate | None) -> dict[str, Any] | None:
    """An estimate as JSON values."""
    return None if found is None else asdict(found)


def guidelines(result: dict[str, Any]) -> str:
    """The text, then a table of the criteria."""
    lines = [f"{result['project']}, version {result['version']}", plain(result["text"]).strip()]
    if result["criteria"]:
        rows = [[one["name"], f"{one['low']} to {one['high']}", one["weight"], plain(one["asks"])]
                for one in result["criteria"]]  # fmt: skip
        lines += ["", table(["criterion", "scale", "weight", "asks"], rows)]
    return "\n".join(lines)


def status(result: dict[str, Any]) -> str:
    """A paragraph for each project."""
    lines = [f"database: {result['database']}"]
    for one in result["projects"]:
        lines += ["", f"{one['project']}: {one['items']:,} items with {one['answers']:,} answers, "
                  f"{one['rated_items']:,} rated; guidelines version {one['guidelines']}"]  # fmt: skip
        rows = [[_marked(line["rater"], line["simulated"]), line["rate"], line["skip"], line["flag"], line["last"]]
                for line in one["raters"]]  # fmt: skip
        if rows:
            lines.append(table(["rater", "rated", "skipped", "flagged", "last"], rows))
        lines += [
            f"flagged by {flag['rater']}: {flag['item']}  {plain(flag['comment'])}" for flag in one["flags"]
        ]
    if not result["projects"]:
        lines.append("no projects yet; begin one: lmcraft feedback new NAME")
    return "\n".join(lines)


def agreement(result: dict[str, Any]) -> str:
    """Coefficients, raters, quarrels."""
    simulated = result["simulated"]
    lines = [
        f"{result['project']}: {result['ratings']:,} ratings of {result['who']}",
        *_notice(simulated),
        "",
    ]
    if not result["questions"]:
        return "\n".join([*lines, "nothing is rated yet"])
    numbers = ("units", "shared", "raters", "percent", "cohen", "fleiss", "alpha")
    rows = [[one["question"], one["level"], *(one[name] for name in numbers)] for one in result["questions"]]
    lines.append(table(["question", "level", *numbers], rows))
    rows = [[_marked(one["rater"], one["rater"] in simulated), one["question"], one["units"], one["with_majority"],
             one["kappa"]] for one in result["raters"]]  # fmt: skip
    lines += ["", "each rater against the majority of the others",
              table(["rater", "question", "units", "equal", "kappa"], rows)]  # fmt: skip
    rows = [[_marked(one["rater"], one["simulated"]), one["units"], one["with_majority"], one["verdict"],
             _bias(one["position_bias"])] for one in result["reliability"]]  # fmt: skip
    if rows:
        lines += ["", table(["rater", "shared choices", "with majority", "verdict", "liking for the first"], rows),
                  f"liking for the first place, all raters: {_bias(result['position_bias'])}"]  # fmt: skip
    if result["quarrels"]:
        rows = [[one["item"], one["disagreement"], one["question"],
                 ", ".join(f"{name}: {value}" for name, value in one["said"].items())[:_CHARACTERS]]
                for one in result["quarrels"]]  # fmt: skip
        lines += [
            "",
            "items that raters differ about most",
            table(["item", "apart", "worst in", "said"], rows),
        ]
    return "\n".join(lines)


def exported(result: dict[str, Any]) -> str:
    """Files with their rows, and what was left out."""
    lines = [f"{file}: {count:,} rows" for file, count in result["files"].items()]
    lines += [f"left out, {reason}: {count:,}" for reason, count in result.get("left_out", {}).items()]
    if result.get("dropped_raters"):
        lines.append(f"raters left out: {', '.join(result['dropped_raters'])}")
    return "\n".join([*lines, *_notice(result["simulated"])])


def _bias(found: dict[str, Any] | None) -> str:
    return "-" if found is None else f"{found['value']:+.2f} ± {found['error']:.2f} logits"


def _marked(rater: str, simulated: bool) -> str:
    return f"{rater} (simulated)" if simulated else rater


def _notice(simulated: list[str]) -> list[str]:
    from ..feedback.simulated import NOTICE

    return [f"{NOTICE} ({', '.join(simulated)})"] if simulated else []
