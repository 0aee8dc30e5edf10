"""The coloured mask shows exactly which tokens are trained, and nothing in them reaches the browser as markup."""

from __future__ import annotations

import pytest

from lmcraft.report import tokens


def row(*pairs: tuple[str, bool]) -> tokens.Row:
    (found,) = tokens.rows([{"where": "f:1", "tokens": [list(pair) for pair in pairs]}])
    return found


def test_trained_tokens_are_marked_and_others_are_not() -> None:
    """If this failed, a reader would believe that prompts are trained, or answers not."""
    found = row(("user", False), ("Hi", False), ("I", True), ("'m", True), ("end", False))
    assert "<mark>" in found.markup and found.markup.count("<mark>") == 1
    inside = found.markup.split("<mark>")[1].split("</mark>")[0]
    assert inside == '<span class="t">I</span><span class="t">\'m</span>'.replace("'", "&#39;")
    assert (found.tokens, found.trained) == (5, 2)


def test_the_first_token_is_never_a_target() -> None:
    """If this failed, the page would show one target more than the loss counts."""
    found = row(("a", True), ("b", True))
    assert found.trained == 1 and found.markup.startswith('<span><span class="t">a</span></span><mark>')


def test_blanks_and_boundaries_can_be_seen() -> None:
    """If this failed, a token that begins with a space would look like one that does not."""
    markup = row(("a", False), (" b", False), ("\n\n", False), ("\t", False), ("", False)).markup
    assert markup.count('class="t"') == 5
    assert '<i class="space"> </i>b' in markup and "<i>↵</i><i>↵</i></span><br>" in markup
    assert "⇥" in markup and "∅" in markup


def test_special_tokens_look_special() -> None:
    """If this failed, the edge of a turn would look like words of it."""
    assert 'class="t special">&lt;|im_end|&gt;' in row(("<|im_end|>", False)).markup


@pytest.mark.parametrize("text", ["<script>", '"onload=x', "<!--", "</span>", "&lt;", "<img src=x>"])
def test_text_is_never_markup(parsed, text: str) -> None:
    """If this failed, a training example could run code in the browser of whoever reads the report."""
    found = parsed(str(row(("a", False), (text, True)).markup))
    assert found.wrong == [] and found.text == f"a{text}"
    assert {tag for tag, _ in found.elements} <= {"span", "mark", "i"}


@pytest.mark.parametrize(
    ("character", "name"), [("\u202e", "U+202E"), ("\x00", "U+0000"), ("\x1b", "U+001B")]
)
def test_characters_that_cannot_be_seen_are_named(character: str, name: str) -> None:
    """If this failed, text from data could turn the writing direction of the page or hide in it."""
    assert name in row((character, False)).markup and character not in row((character, False)).markup
    assert tokens.plain(f"a{character}b\n\tc") == f"a{name}b\n\tc"


def test_emoji_and_other_scripts_stay_whole() -> None:
    """If this failed, families of emoji and Persian words would fall apart."""
    for text in ("👩\u200d💻", "می\u200cخواهم"):
        assert tokens.plain(text) == text


@pytest.mark.parametrize(
    "preview",
    [None, {}, "x", [None], [{"where": 1}], [{"tokens": []}], [{"tokens": [["a"]]}], [{"tokens": "ab"}]],
)
def test_a_preview_of_another_shape_is_passed_over(preview) -> None:
    """If this failed, a run of an older version could not be reported."""
    assert tokens.rows(preview) == []


def test_a_part_of_a_character_is_explained() -> None:
    """If this failed, a reader would take the replacement character for a fault in the data."""
    assert row(("\ufffd", False)).cut_characters and not row(("é", False)).cut_characters
