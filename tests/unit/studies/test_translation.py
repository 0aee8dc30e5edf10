"""The models of the translation study are of one size, and are scored as the page says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lmcraft.core import config as configs
from lmcraft.data.records import Parallel
from lmcraft.models import model as models
from lmcraft.models.model import count_parameters
from lmcraft.studies import pairs, translation

pytest.importorskip("num2words")
pytest.importorskip("sacrebleu")


def test_the_models_are_of_one_size() -> None:
    """If this failed, one of them would translate better because it is larger."""
    config = translation.Config()
    task = SimpleNamespace(name="copy", tokenizer=pairs.parts_tokenizer())
    shapes = translation.shapes(config, task)
    with torch.device("meta"):
        sizes = {name: count_parameters(models.build(shape)) for name, shape in shapes.items()}
    assert list(sizes) == ["lstm", "attention", "transformer", "unplaced"]
    assert max(sizes.values()) < 1.03 * min(sizes.values())
    assert shapes["unplaced"].positions == "none" and shapes["attention"].attention == "additive"


def test_letters_have_lengths_of_their_own() -> None:
    """If this failed, `task=reverse` would ask for lines of sixty letters in a minute of training."""
    read = [configs.validate(translation.Config, configs.read(None, given)) for given in (
        [], ["task=reverse"], ["task=copy", "lengths=[3]"]
    )]  # fmt: skip
    assert [each.lengths for each in read] == [(15, 30, 45, 60), (5, 10, 15, 20), (3,)]


def test_made_lines_are_scored_by_their_tokens() -> None:
    """If this failed, a German number with one wrong part would count as if nothing in it were right."""
    task = SimpleNamespace(tokenizer=pairs.parts_tokenizer(), by_tokens=True)
    row = Parallel("one", "dreihundertfünfundvierzigtausendsechshundertsiebenundachtzig")
    assert translation.judged(task, [row], [row.target]) == (pytest.approx(100), 1)
    score, exact = translation.judged(task, [row], [row.target.replace("vierzig", "fünfzig")])
    assert 50 < score < 95 and exact == 0
    whole = translation.judged(
        SimpleNamespace(by_tokens=False), [row], [row.target.replace("vierzig", "fünfzig")]
    )
    assert whole[0] < 50


@pytest.mark.long
@pytest.mark.parametrize(("task", "positions", "least", "most"), [
    ("copy", True, 0.999, 1.0), ("reverse", True, 0.999, 1.0), ("reverse", False, 0.0, 0.05),
])  # fmt: skip
def test_the_transformer_copies_and_reverses_and_needs_positions_to(task, positions, least, most) -> None:
    """If this failed, attention between source and target, or the positions, would not work."""
    config = translation.Config(task=task, steps=4000, lines=400_000, test_lines=1000, batch_size=128)
    made = translation.task_of(config)
    shape = translation.shapes(config, made)["transformer" if positions else "unplaced"]
    lm = translation.corpus.fresh(shape, 0, made.tokenizer)
    translation._train(config, made, lm, shape, task)
    rows = [row for group in made.groups.values() for row in group]
    texts = translation.translate(lm, rows)
    right = [text == row.target for text, row in zip(texts, rows, strict=True) if pairs.words(row) > 5]
    assert least <= sum(right) / len(right) <= most
