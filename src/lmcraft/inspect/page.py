"""Writes the page of an inspection: one file without any outside request that shows what passed through the model.

1. The content security policy forbids every request; the one script is named in it by its digest.
2. Everything but choosing and pointing works without the script.
3. All text passes autoescape; characters that cannot be seen are shown by name.

Proved by tests/unit/inspect/test_page.py and tests/cli/test_inspect.py.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader
from markupsafe import Markup

from ..core.disk import write_text
from ..report import words
from ..report.page import environment
from ..text.tokenizer import Tokenizer
from . import sections, views
from .align import Alignment, alignment, of_words
from .look import Inspection, rows_of
from .pieces import word_label
from .pieces import words as word_groups
from .record import CROSS, SELF

TEMPLATES = Path(__file__).parent / "templates"
SCRIPT = (TEMPLATES / "inspect.js").read_text(encoding="utf-8")


def write(file: Path, name: str, seen: Inspection, tokenizer: Tokenizer, by_words: bool = False) -> Path:
    """Writes the page.

    Args:
        name: what the model is called.
        by_words: show the alignment of words before that of tokens.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    return write_text(file, render(name, seen, tokenizer, by_words))


def render(name: str, seen: Inspection, tokenizer: Tokenizer, by_words: bool = False) -> str:
    """The page as text."""
    own = environment()
    assert own.loader is not None
    own = own.overlay(loader=ChoiceLoader([FileSystemLoader(TEMPLATES), own.loader]))
    page = own.get_template("inspect.jinja").render(context(name, seen, tokenizer, by_words))
    return page.encode("utf-8", "replace").decode("utf-8")


def alignments(seen: Inspection, tokenizer: Tokenizer, by_words: bool) -> list[tuple[str, Alignment]]:
    """The alignments of tokens and, where they differ, of words, with their names; the first is to be shown."""
    tokens = alignment(seen)
    if tokens is None:
        return []
    written = seen.target[1 : seen.read + 1]
    names = tuple(
        [word_label(side, group, tokenizer) for group in word_groups(side)] for side in (written, seen.source)
    )
    joined = of_words(seen, tokens, names)
    found = [("tokens", tokens)] + ([] if joined is None else [("words", joined)])
    return found[::-1] if by_words else found


def context(name: str, seen: Inspection, tokenizer: Tokenizer, by_words: bool) -> dict[str, Any]:
    """Everything that the template needs."""
    notes = list(seen.notes)
    aligned = [
        views.of_alignment(one, number, label)
        for number, (label, one) in enumerate(alignments(seen, tokenizer, by_words))
    ]
    groups = views.groups(seen, notes)
    if seen.gradient:
        groups = [group for group in groups if group.view.id != f"view-{CROSS}"]
    predicted = sections.next_tokens(seen, tokenizer)
    lens = sections.lens_table(seen, tokenizer)
    token_rows = [
        {"title": title, "boxes": sections.boxes(listed, seen, target)}
        for title, listed, target in (
            ("Source", seen.source, False), ("Target" if seen.source else "", seen.target, True)
        )
        if listed
    ]  # fmt: skip
    return {
        "name": name,
        "summary": summary(seen),
        "notes": notes,
        "numbers": numbers(seen),
        "parts_of_page": [
            (anchor, label)
            for anchor, label, there in (
                ("alignment", "Alignment", aligned), ("tokens", "Tokens", True),
                ("next", texts(seen)["table_title"], predicted), ("attention", groups_word(seen), groups),
                ("lens", "Logit lens", lens), ("shapes", "Shapes", True),
            )
            if there
        ],
        "alignments": aligned,
        "token_rows": token_rows,
        "predicted": predicted,
        "heat_bits": f"{sections.blind_bits(seen):.1f}",
        "groups": groups,
        "lens": lens,
        "calls": sections.shape_rows(seen.calls),
        "totals": sections.totals(seen),
        "script": Markup(SCRIPT),
        "script_digest": b64encode(sha256(SCRIPT.encode()).digest()).decode(),
        **texts(seen),
    }  # fmt: skip


def groups_word(seen: Inspection) -> str:
    """What the section of the grids is called."""
    return "Influence" if seen.gradient else "Attention"


def summary(seen: Inspection) -> str:
    """One sentence: what was looked at."""
    what = f"A model of kind {seen.kind} with {words.short(seen.parameters)} parameters"
    if seen.source:
        return (
            f"{what}, reading {words.plural(len(seen.source), 'token')} and writing {len(seen.target) - 1}."
        )
    return f"{what}, reading {words.plural(seen.read, 'token')}."


def numbers(seen: Inspection) -> list[tuple[str, str, str]]:
    """The numbers at the top."""
    found = []
    whole = seen.target_total if seen.given > 1 else seen.total
    if whole.mean is not None:
        of = f"over {words.plural(whole.tokens, 'token')}" + (" of the target" if seen.given > 1 else "")
        found += [
            ("loss", f"{words.nats(whole.mean)} nats", of),
            ("in bits", f"{whole.mean / 0.6931471805599453:.3f}", "per token"),
            ("perplexity", words.perplexity(whole.mean), "masked one at a time" if seen.masked else ""),
        ]
    if whole.mean is not None and not seen.written:
        listed = [one for one in seen.predictions or [] if one.rank is not None]
        hits = sum(one.rank == 1 for one in listed)
        found.append(("likeliest was right", words.share(hits, len(listed)), f"{hits} of {len(listed)}"))
    if not seen.gradient and seen.maps:
        sides = [len(rows_of(seen.maps, side)) for side in {one.side for one in seen.maps}]
        heads = sum(len(one.weights_HTM) for one in seen.maps)
        found.append(("attention", words.plural(heads, "head"), f"in {words.plural(sum(sides), 'layer')}"))
    return found


def texts(seen: Inspection) -> dict[str, str]:
    """The sentences that depend on what kind of model it is."""
    return {
        "alignment_title": "Alignment",
        "alignment_text": (
            "A row for each token that was written, a column for each that was read; the stronger the colour, the "
            "larger the weight. The weights of a row sum to 1: what the model looked at when it predicted that token."
        ),
        "tokens_text": tokens_text(seen),
        "table_title": "Masked tokens" if seen.masked else "Next tokens",
        "table_text": (
            "Each token was masked in turn; the likeliest tokens for its place, and what stood there."
            if seen.masked
            else "After each token the model has a probability for every next one. The rank tells how many were "
            "likelier than the token that came (1: none); the loss is −log of its probability."
        ),
        "read_head": "masked" if seen.masked else "after",
        "came_head": "token" if seen.masked else "came",
        "attention_title": groups_word(seen),
        "attention_text": attention_text(seen),
        "lens_text": (
            "What the model would say if it stopped after each block: the hidden vectors there, through the last norm "
            "and the head. Colour is probability; an outlined cell is the token that came. The top row is the model's "
            "own answer."
        ),
        "shapes_text": (
            "Every module in the order in which it ran, with the shape of what it returned: rows × positions × width. "
            "Equal blocks are told once."
        ),
    }  # fmt: skip


def tokens_text(seen: Inspection) -> str:
    """What the boxes and their colours mean."""
    text = "Each box is a token with its id."
    if seen.predictions is not None:
        text += " The stronger its colour, the less the model expected it; the strongest is a blind guess among all."
    if seen.given > 1 and not seen.source:
        text += " Tokens with a dotted line are the context before the target."
    return text


def attention_text(seen: Inspection) -> str:
    """What the grids show."""
    if seen.gradient:
        return (
            "Nothing in this model attends, so gradients tell what each prediction depends on: a row for each "
            "predicted token, a column for each token read; the length of the gradient of its log-probability, "
            "scaled to sum 1."
        )
    text = "A row for each token that looks, a column for each that is looked at. "
    if any(one.side == CROSS for one in seen.maps) and any(one.side == SELF for one in seen.maps):
        text += "In cross-attention a row is named by the token that it predicts. "
    return (
        text
        + "Colour is the square root of the weight, so that small ones can be seen. Choose a head to enlarge it."
    )
