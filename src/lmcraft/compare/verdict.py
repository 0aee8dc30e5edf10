"""Which of the compared settings to take, and why: the one that costs least among those that nothing shows to be worse.

    m, s, n    mean, standard deviation and number of a setting's held-out losses, one for each seed
    as good    m − m_best ≤ 2·√(s²/n + s_best²/n_best);  with one seed, s is taken as 1 % of m

1. Among those as good as the best the least peak memory wins; where two differ by less than TIE, the shorter time.
2. The front holds every setting that no other beats in loss and in peak memory at once.

Proved by tests/unit/compare/test_verdict.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from .trials import Outcome

TIE = 0.03
UNKNOWN_SPREAD = 0.01


@dataclass(frozen=True)
class Group:
    """The runs that differ in their seeds alone; costs are means, peak memory the largest."""

    label: str
    losses: tuple[float, ...]
    trained: int
    peak_memory_bytes: int
    seconds: float
    file_bytes: int

    @property
    def loss(self) -> float:
        """Mean held-out loss."""
        return fmean(self.losses)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None with one seed."""
        return stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def variance_of_mean(self) -> float:
        """How uncertain the mean is, squared."""
        spread = UNKNOWN_SPREAD * abs(self.loss) if self.spread is None else self.spread
        return spread**2 / len(self.losses)


@dataclass(frozen=True)
class Verdict:
    """The settings from best to worst loss, those on the front, and the one that is recommended, with the reason."""

    groups: list[Group]
    front: list[str]
    chosen: Group
    reason: str


def judge(outcomes: Sequence[Outcome]) -> Verdict:
    """What to take of what was measured; runs that failed do not count."""
    groups = sorted(_groups(outcomes), key=lambda group: group.loss)
    best = groups[0]
    good = [group for group in groups if not worse(group, best)]
    least = min(group.peak_memory_bytes for group in good)
    cheap = [group for group in good if group.peak_memory_bytes <= (1 + TIE) * least]
    chosen = min(cheap, key=lambda group: group.seconds)
    front = [
        group.label
        for group in groups
        if not any(
            other.loss <= group.loss and other.peak_memory_bytes < group.peak_memory_bytes for other in groups
        )
    ]
    return Verdict(groups, front, chosen, _reason(chosen, best, len(good), len(groups)))


def worse(group: Group, best: Group) -> bool:
    """Whether the difference to the best is more than chance between seeds explains."""
    if group is best:
        return False
    return group.loss - best.loss > 2 * (group.variance_of_mean + best.variance_of_mean) ** 0.5


def _groups(outcomes: Sequence[Outcome]) -> list[Group]:
    together: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if not outcome.failure:
            together.setdefault(outcome.trial.label, []).append(outcome)
    return [
        Group(
            label, tuple(run.loss for run in runs), runs[0].trained, max(run.peak_memory_bytes for run in runs),
            fmean(run.seconds for run in runs), round(fmean(run.file_bytes for run in runs)),
        )
        for label, runs in together.items()
    ]  # fmt: skip


def _reason(chosen: Group, best: Group, good: int, among: int) -> str:
    of = f"of {among} settings"
    if chosen is best and good == 1:
        return f"its held-out loss is the lowest {of}, by more than chance between seeds explains"
    memory = 1 - chosen.peak_memory_bytes / best.peak_memory_bytes
    if chosen is best:
        return f"its held-out loss is the lowest {of}, and of the {good} that are as good it costs least"
    saved = (
        f"{memory:.0%} less peak memory"
        if memory >= TIE
        else f"{1 - chosen.seconds / best.seconds:.0%} less time"
    )
    return f"its held-out loss cannot be told from the lowest ({best.label}), at {saved}"
