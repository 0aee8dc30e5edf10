"""Agreement: the tables of the textbooks give the numbers of the textbooks."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean

import pytest

from lmcraft.core.errors import UserError
from lmcraft.feedback import agreement
from lmcraft.feedback.agreement import Question, alpha, cohen, fleiss, percent
from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import TIE, Item, Judgement, Rating, Snapshot

# K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): four observers, twelve units, * = missing.
CANONICAL = (
    "1 2 3 3 2 1 4 1 2 * * *",
    "1 2 3 3 2 2 4 1 2 5 * 3",
    "* 3 3 3 2 3 4 2 2 5 1 *",
    "1 2 3 3 2 4 4 1 2 5 1 *",
)
# J. L. Fleiss, Measuring nominal scale agreement among many raters (1971), as in Wikipedia: 14 raters, 10 items.
FLEISS = """0 0 0 0 14, 0 2 6 4 2, 0 0 3 5 6, 0 3 9 2 0, 2 2 8 1 1,
            7 7 0 0 0, 3 2 6 3 0, 2 5 3 2 2, 6 5 2 1 0, 0 2 2 3 7"""


def canonical() -> list[dict[str, int]]:
    columns = zip(*(row.split() for row in CANONICAL), strict=True)
    return [{f"rater-{i}": int(value) for i, value in enumerate(one) if value != "*"} for one in columns]


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_own_table(level: str, expected: float) -> None:
    """If this failed, α would be another number than the one that papers call α."""
    assert alpha(canonical(), level) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_with_gaps_is_that_of_its_library(level: str) -> None:
    """If this failed, missing ratings would be counted as something."""
    library, numpy = pytest.importorskip("krippendorff"), pytest.importorskip("numpy")
    draw = random.Random(2)
    for _ in range(30):
        table = [[draw.choice([None, 1, 2, 4, 7]) for _ in range(9)] for _ in range(4)]
        units = [{str(r): row[u] for r, row in enumerate(table) if row[u] is not None} for u in range(9)]
        data = numpy.array(table, dtype=float)
        assert alpha(units, level) == pytest.approx(library.alpha(data, level_of_measurement=level))


def test_fleiss_own_table() -> None:
    """If this failed, κ of many raters would be wrong."""
    table = [[int(n) for n in row.split()] for row in FLEISS.split(",")]
    assert fleiss(table) == pytest.approx(0.210, abs=5e-4)
    with pytest.raises(ValueError, match="same number"):
        fleiss([[1, 1], [2, 1]])


def test_cohens_table_of_fifty() -> None:
    """If this failed, κ of two raters would be wrong: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no give 0.40."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    first, second = zip(*pairs, strict=True)
    assert cohen(first, second) == pytest.approx(0.40)
    metrics = pytest.importorskip("sklearn.metrics")
    draw = random.Random(1)
    for _ in range(20):
        one, other = ([draw.randrange(4) for _ in range(30)] for _ in range(2))
        assert cohen(one, other) == pytest.approx(metrics.cohen_kappa_score(one, other))


def test_the_ends_of_the_scale() -> None:
    """If this failed, perfect agreement would not be 1, chance not near 0, and one value alone not undefined."""
    same = [{"a": i % 3, "b": i % 3, "c": i % 3} for i in range(30)]
    assert alpha(same, "nominal") == pytest.approx(1) and percent(same) == 1
    by_chance = []
    for seed in range(20):
        draw = random.Random(seed)
        by_chance.append(alpha([{name: draw.randrange(2) for name in "abc"} for _ in range(500)], "nominal"))
    error = (1 / (3 * 500)) ** 0.5  # three pairs a unit, each right by chance in half of the cases
    assert abs(fmean(by_chance)) < 2 * error / 20**0.5 and max(map(abs, by_chance)) < 4 * error
    assert alpha([{"a": 1, "b": 1}], "nominal") is None and cohen([1, 1], [1, 1]) is None
    assert alpha([{"a": 1}], "interval") is None and percent([{"a": 1}]) is None and cohen([], []) is None
    assert fleiss([[2, 0], [2, 0]]) is None


def rating(
    rater: str, item: str, judgement: Judgement, simulated: bool = False, action: str = "rate"
) -> Rating:
    return Rating(f"{rater}-{item}", item, rater, simulated, action, judgement, 1, 0, "now")


def snapshot(ratings: list[Rating], asked: Callable[..., Item]) -> Snapshot:
    guidelines = Guidelines.model_validate({"criteria": [{"name": "safety"}]})
    items = {one.item: asked(one.item) for one in ratings}
    return Snapshot("p", items, ratings, guidelines, 1)


def test_each_rater_is_held_against_the_others(asked: Callable[..., Item]) -> None:
    """If this failed, a rater who answers the opposite could not be told from the rest."""
    ratings = [
        rating(name, str(i), Judgement(choice=(i + (name == "contrary")) % 2))
        for i in range(10)
        for name in ("ann", "bob", "cem", "contrary")
    ]
    ratings += [rating("ann", "skipped", Judgement(comment="?"), action="skip")]
    found = agreement.report(snapshot(ratings, asked))
    assert {line["rater"]: line["with_majority"] for line in found["raters"]} == {
        "ann": 1.0, "bob": 1.0, "cem": 1.0, "contrary": 0.0,
    }  # fmt: skip
    assert found["questions"][0]["percent"] == pytest.approx(0.5) and found["simulated"] == []


def test_the_worst_quarrels_come_first(asked: Callable[..., Item]) -> None:
    """If this failed, the items that need a talk would be hidden among those that do not."""
    scores = {"calm": (3, 3), "near": (3, 4), "far": (1, 5)}
    ratings = [
        rating(name, item, Judgement({0: {"safety": both[i]}}))
        for item, both in scores.items()
        for i, name in enumerate(("ann", "bob"))
    ]
    quarrels = agreement.report(snapshot(ratings, asked))["quarrels"]
    assert [(line["item"], line["disagreement"]) for line in quarrels] == [("far", 1.0), ("near", 0.25)]
    assert quarrels[0]["said"] == {"ann": 1, "bob": 5} and quarrels[0]["answers"] == [0]


def test_programs_are_left_out_unless_asked_for_and_then_named(asked: Callable[..., Item]) -> None:
    """If this failed, agreement among programs would pass for agreement among people."""
    ratings = [
        rating(name, str(i), Judgement(choice=0), simulated=name == "robot")
        for name in ("ann", "robot")
        for i in "12"
    ]
    state = snapshot(ratings, asked)
    people, everyone = agreement.report(state), agreement.report(state, "all")
    assert people["questions"][0]["shared"] == 0 and people["simulated"] == []
    assert everyone["questions"][0]["shared"] == 2 and everyone["simulated"] == ["robot"]
    with pytest.raises(UserError, match="no raters called"):
        agreement.report(state, "robots")


def test_a_tie_is_an_opinion_of_its_own() -> None:
    """If this failed, a tie would count as agreement with either side."""
    question = Question("preference", "nominal", {("1", 0, 1): {"a": 0, "b": TIE}})
    assert percent(question.shared()) == 0 and question.difference(0, TIE) == 1
