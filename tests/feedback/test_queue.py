"""The queue: fewest ratings first, the same order every time, and raters who work at once meet in different places."""

from __future__ import annotations

from collections import Counter

from lmcraft.feedback.judgement import Judgement
from lmcraft.feedback.store import Project, Store


def test_every_item_is_rated_once_before_any_twice(light: Store, project: Project) -> None:
    """If this failed, work would be spent on items that have been judged while others wait."""
    raters = [light.rater(name) for name in ("ann", "bob", "cem")]
    counts: Counter[str] = Counter()
    for turn in range(15):
        rater = raters[turn % 3]
        item = project.next(rater)
        assert item is not None
        fewest = min(counts[other.key] for other in project.open_items(rater))
        assert counts[item.key] == fewest
        project.rate(rater, item, Judgement(choice=0), key=str(turn))
        counts[item.key] += 1
    assert set(counts.values()) == {3}
    assert all(project.next(rater) is None for rater in raters)


def test_the_order_is_the_same_each_time_and_differs_between_raters(light: Store, project: Project) -> None:
    """If this failed, reloading would show another item, or all raters would begin with the same one."""
    orders = {
        name: [item.key for item in project.open_items(light.rater(name))]
        for name in ("ann", "bob", "cem", "dee")
    }
    assert orders["ann"] == [item.key for item in project.open_items(light.rater("ann"))]
    assert len({tuple(order) for order in orders.values()}) > 1


def test_an_item_with_enough_ratings_is_closed(light: Store, project: Project) -> None:
    """If this failed, nobody could say how many opinions an item needs."""
    ann, bob = light.rater("ann"), light.rater("bob")
    rated = project.next(ann)
    project.rate(ann, rated, Judgement(choice=0), key="1")
    assert rated not in project.open_items(bob, enough=1) and rated in project.open_items(bob, enough=2)


def test_programs_do_not_count_as_people(light: Store, project: Project) -> None:
    """If this failed, an item that only programs have judged would be shown last to people, or not at all."""
    robot, ann = light.rater("robot", simulated=True), light.rater("ann")
    order = project.open_items(ann)
    project.rate(robot, order[0], Judgement(choice=0), key="1")
    assert project.open_items(ann) == order
    assert project.open_items(ann, enough=1) == order
