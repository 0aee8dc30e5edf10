"""The store: nothing twice, nothing lost, nothing deleted; on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lmcraft.core.errors import UserError
from lmcraft.data.records import Message
from lmcraft.feedback.guidelines import Guidelines
from lmcraft.feedback.judgement import Answer, Item, Judgement
from lmcraft.feedback.store import Project, Store

Asked = Callable[..., Item]
HOSTILE = [
    "<script>alert(1)</script>", "nul \0 inside", "\u202eright to left", "'; DROP TABLE items; --", "=cmd|'/c calc'!A1",
    "%s %(a)s :name ?", "🐈\u200d⬛", "\\ud800 as letters", "a" * 100_000, "\r\n\t",
]  # fmt: skip


def test_what_was_said_comes_back(store: Store, asked: Asked) -> None:
    """If this failed, a rating would be kept otherwise than it was given."""
    project = store.create("p", Guidelines.model_validate({"criteria": [{"name": "safety"}]}))
    item = asked("one?")
    assert project.add([item], {"file": "a.jsonl"}).new == 1
    ann = store.rater("ann")
    kept = project.next(ann)
    assert kept is not None and (kept.prompt, kept.answers, kept.key) == (
        item.prompt, item.answers, item.fingerprint(),
    )  # fmt: skip
    said = Judgement({0: {"safety": 5}, 1: {"safety": 1}}, 0, (), "fine", (1, 0), 2.5)
    rating = project.rate(ann, kept, said, key="k")
    assert (rating.judgement, rating.rater, rating.item, rating.guidelines) == (said, "ann", kept.key, 1)
    assert project.snapshot().ratings == [rating]
    assert project.next(ann) is None


def test_hostile_texts_come_back_byte_for_byte(store: Store) -> None:
    """If this failed, a text could break the store, or be changed by it."""
    project = store.create("p", Guidelines())
    items = [Item((Message("user", text),), (Answer(text, text), Answer("x"))) for text in HOSTILE]
    project.add(items, {"file": HOSTILE[1]})
    ann = store.rater("ann")
    for number, item in enumerate(project.open_items(ann)):
        comment = item.prompt[0].content[:9000]
        project.rate(ann, item, Judgement(choice=1, comment=comment), key=str(number))
    found = project.snapshot()
    assert [(item.prompt, item.answers) for item in found.items.values()] == [
        (item.prompt, item.answers) for item in items
    ]
    for rating in found.ratings:
        assert rating.judgement.comment == found.items[rating.item].prompt[0].content[:9000]


def test_the_same_key_is_the_same_row(store: Store, asked: Asked) -> None:
    """If this failed, a retry after a lost reply would count twice."""
    project = store.create("p", Guidelines())
    project.add([asked("1"), asked("2")], {})
    project.add([asked("1"), asked("2")], {})
    assert project.add([asked("2"), asked("3"), asked("3")], {}).new == 1
    ann = store.rater("ann")
    assert store.rater("ann") == ann
    first, second, _ = project.open_items(ann)
    kept = [project.rate(ann, first, Judgement(choice=0), key="k") for _ in range(5)]
    assert len(set(map(str, kept))) == 1 and len(project.snapshot(history=True).ratings) == 1
    for other in (Judgement(choice=1), Judgement(choice="tie")):
        with pytest.raises(UserError, match="belongs to another rating"):
            project.rate(ann, first, other, key="k")
    with pytest.raises(UserError, match="belongs to another rating"):
        project.rate(ann, second, Judgement(choice=0), key="k")
    assert len(project.snapshot(history=True).ratings) == 1


def test_nobody_votes_twice_on_one_item(store: Store, asked: Asked) -> None:
    """If this failed, one rater could outweigh the others by repeating."""
    project = store.create("p", Guidelines())
    project.add([asked()], {})
    ann = store.rater("ann")
    item = project.next(ann)
    project.rate(ann, item, Judgement(choice=0), key="1")
    with pytest.raises(UserError, match="already"):
        project.rate(ann, item, Judgement(choice=1), key="2")
    with pytest.raises(UserError, match="already"):
        project.rate(ann, item, Judgement(), key="3", action="skip")


def test_undoing_supersedes_and_deletes_nothing(store: Store, asked: Asked) -> None:
    """If this failed, a mistake could not be taken back, or would leave no trace."""
    project = store.create("p", Guidelines())
    project.add([asked("1"), asked("2")], {})
    ann = store.rater("ann")
    assert project.undo(ann, key="nothing") is None
    item = project.next(ann)
    project.rate(ann, item, Judgement(choice=0), key="1")
    assert project.undo(ann, key="u") == item
    assert project.undo(ann, key="u") == item, "the retry of an undo must undo nothing more"
    assert project.snapshot().ratings == []
    assert project.next(ann) == item
    project.rate(ann, item, Judgement(choice=1), key="2")
    assert [(r.key, r.action, r.revision, r.supersedes) for r in project.snapshot(history=True).ratings] == [
        ("1", "rate", 0, None), ("u", "undo", 1, "1"), ("2", "rate", 2, "u"),
    ]  # fmt: skip
    assert [r.key for r in project.snapshot().ratings] == ["2"]


def test_skipping_and_flagging_close_an_item_for_one_rater(project: Project, light: Store) -> None:
    """If this failed, a rater would be asked again what they would not judge, or others would not be asked."""
    ann, bob = light.rater("ann"), light.rater("bob")
    items = project.open_items(ann)
    project.rate(ann, items[0], Judgement(comment="unclear"), key="1", action="skip")
    project.rate(ann, items[1], Judgement(comment="a home address"), key="2", action="flag")
    assert project.open_items(ann) == items[2:]
    assert len(project.open_items(bob)) == 5
    counts = project.progress()
    assert counts["raters"] == [
        {"rater": "ann", "simulated": False, "rate": 0, "skip": 1, "flag": 1,
         "last": counts["raters"][0]["last"]},
    ]  # fmt: skip
    assert counts["flags"] == [{"item": items[1].key, "rater": "ann", "comment": "a home address"}]
    assert counts["rated_items"] == 0 and counts["items"] == 5 and counts["answers"] == 10


def test_guidelines_have_versions(project: Project, light: Store) -> None:
    """If this failed, it would be unknown under which words a rating was made."""
    ann = light.rater("ann")
    first, second, *_ = project.open_items(ann)
    project.rate(ann, first, Judgement(choice=0), key="1")
    assert project.set_guidelines(project.guidelines()[1]) == 1
    assert project.set_guidelines(Guidelines(text="Other words.")) == 2
    project.rate(ann, second, Judgement(choice=0), key="2")
    assert [rating.guidelines for rating in project.snapshot().ratings] == [1, 2]


def test_people_and_programs_are_kept_apart(light: Store, project: Project) -> None:
    """If this failed, simulated ratings could pass for those of people."""
    robot = light.rater("robot", simulated=True, settings={"rule": "length"})
    light.rater("ann")
    for name, simulated, settings in (
        ("robot", False, {}),
        ("ann", True, {}),
        ("robot", True, {"rule": "vader"}),
    ):
        with pytest.raises(UserError, match="settings of its own"):
            light.rater(name, simulated, settings)
    project.rate(robot, project.next(robot), Judgement(choice=0), key="1")
    assert project.snapshot().simulated == ["robot"]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda s: s.create("helpful", Guidelines()), "already"),
        (lambda s: s.create("", Guidelines()), "no name"),
        (lambda s: s.create("a\nb", Guidelines()), "no name"),
        (lambda s: s.project("helpfull"), "did you mean 'helpful'"),
        (lambda s: s.rater("x" * 81), "no name"),
        (lambda s: s.project("helpful").add([Item((), (Answer("x"),))], {}), "needs a prompt"),
        (lambda s: s.project("helpful").add([Item((Message("user", "x"),), ())], {}), "1 to 26 answers"),
        (lambda s: s.project("helpful").add([Item((Message("user", "\ud800"),), (Answer(""),))], {}), "UTF-8"),
        (lambda s: s.project("helpful").add(
            [Item((Message("user", q),), (Answer(""),), "same") for q in "ab"], {}), "same key"),
    ],
)  # fmt: skip
def test_mistakes_are_told(
    project: Project, light: Store, call: Callable[[Store], object], what: str
) -> None:
    """If this failed, a mistake would be kept, or shown as a traceback."""
    with pytest.raises(UserError, match=what):
        call(light)
    assert project.progress()["items"] == 5
