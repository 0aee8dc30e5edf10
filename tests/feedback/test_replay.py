"""A simple replay beside the store: whatever is asked in whatever order, both say the same at every moment."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lmcraft.feedback.judgement import Item, Judgement
from lmcraft.feedback.store import Project, Rater, Store


class Replay:
    """What holds after the same requests, in a dictionary: (rater, item) to action, in the order of judging."""

    def __init__(self) -> None:
        self.holds: dict[tuple[str, str], str] = {}
        self.log = 0

    def undo(self, name: str) -> str | None:
        """Takes the rater's last judgement back; its item."""
        mine = [one for one in self.holds if one[0] == name]
        if not mine:
            return None
        del self.holds[mine[-1]]
        self.log += 1
        return mine[-1][1]

    def rate(self, name: str, item: Item, action: str) -> bool:
        """Whether the judgement is taken: not where the rater has judged the item."""
        if (name, item.key) in self.holds:
            return False
        self.holds[name, item.key] = action
        self.log += 1
        return True


@pytest.mark.parametrize("seed", range(3))
def test_the_store_is_at_every_moment_what_a_replay_gives(light: Store, project: Project, seed: int) -> None:
    """If this failed, counts, queue and export would drift apart while people rate, undo and repeat themselves."""
    draw, replay = random.Random(seed), Replay()
    raters = {name: light.rater(name) for name in ("ann", "bob")}
    items = list(project.snapshot().items.values())
    for step in range(50):
        name, item = draw.choice(list(raters)), draw.choice(items)
        action = draw.choice(["rate", "rate", "skip", "flag", "undo"])
        times, key = draw.choice([1, 2]), f"step-{step}"  # every other request is sent twice
        if action == "undo":
            expected = replay.undo(name)
            for _ in range(times):
                undone = project.undo(raters[name], key=key)
                assert (undone.key if undone else None) == expected
        elif replay.rate(name, item, action):
            judgement = Judgement(choice=step % 2) if action == "rate" else Judgement()
            for _ in range(times):
                project.rate(raters[name], item, judgement, key=key, action=action)
        compare(project, replay, items, raters)


def compare(project: Project, replay: Replay, items: list[Item], raters: dict[str, Rater]) -> None:
    """Everything that the store says, against the replay."""
    state = project.snapshot()
    assert {(one.rater, one.item): one.action for one in state.ratings} == replay.holds
    assert len(project.snapshot(history=True).ratings) == replay.log
    for name, rater in raters.items():
        done = {key for owner, key in replay.holds if owner == name}
        assert {item.key for item in project.open_items(rater)} == {item.key for item in items} - done
    counted = {one["rater"]: one["rate"] + one["skip"] + one["flag"] for one in project.progress()["raters"]}
    assert counted == Counter(owner for owner, _ in replay.holds)
