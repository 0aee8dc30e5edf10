"""Three rounds of feedback against one, with the same number of votes and at the same distance from the base.

Votes are VADER's, drawn with a temperature. Three rounds vote on what each policy says; the one round has as many
votes, all on what the base says. Every policy is trained from the base. The one round's policy is trained with the same
penalty first, then with others, until its KL is within a tenth of the three rounds' (at most TRIES times); the one that
comes nearest is compared. The KL is the one in training.

The win rate against the base is by VADER itself, without noise: the share of pairs of answers to held-out prompts in
which the policy's is more upbeat, and half of those that are equal; each side gives DRAWS answers, and every pair
counts. ± is twice the standard error over these prompts of how much more often three rounds win. What is finished in
`--out` is not trained again.

    python benchmarks/iterated.py runs/demo/sft chats.jsonl [--seeds 0 1 2 3 4] [--prompts 250] [--steps 80]
        [--beta 0.1] [--out DIR]
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import tempfile
from collections import deque
from pathlib import Path

import numpy as np

from lmcraft.core.run import Run
from lmcraft.data.dataset import Config as Data
from lmcraft.data.load import load
from lmcraft.feedback.opening import open_store
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.sampling import Sampling
from lmcraft.rewards.vader import compound
from lmcraft.rl.prompts import messages
from lmcraft.rounds import rounds
from lmcraft.rounds.settings import Config

HELD_OUT, NEW, DRAWS = 320, 64, 8
LAST = 8  # rounds of answers whose KL is averaged: one alone says little
NEAR, TRIES = 0.1, 5  # distances that count as equal; how many penalties are tried for it
REWARD = ("train.batch_size=16", "train.lr=1e-4", "train.epochs=1")


def config(asked: argparse.Namespace, seed: int, prompts: int, beta: float) -> Config:
    """Rounds with so many prompts each, and this penalty."""
    ppo = (
        f"stage.kl.coef={beta}", "stage.decay=1", "stage.rollout.episodes=64", "train.batch_size=64",
        "train.micro_batch_size=16", "train.lr=1e-4", f"train.steps={asked.steps}", "train.save_every=1000",
    )  # fmt: skip
    return Config(
        base=asked.base, data=Data(files=(asked.data,), holdout=0.15), rater="vader", manner={"temperature": 0.2},
        seed=seed, prompts=prompts, held_out=HELD_OUT, max_new_tokens=NEW, reward=REWARD, ppo=ppo,
    )  # fmt: skip


def performed(found: Config, count: int, place: Path) -> list[dict]:
    """What came out of each of so many rounds."""
    with open_store(f"sqlite:///{place}.db") as store:
        finished, _ = rounds.perform(found, place, count, store, lambda steps, _: deque(steps, maxlen=0))
    return [one | {"kl": distance(one["lineage"]["policy"])} for one in finished]


def distance(policy: str) -> float:
    """The KL at the end of its training."""
    kls = [row["kl"] for row in Run.open(Path(policy)).metrics() if "kl" in row]
    return statistics.fmean(kls[-LAST:])


def with_its_votes(done: Path, place: Path) -> Path:
    """A place where a round has its votes already: those of one that is done."""
    if not place.exists():
        mine = shutil.ignore_patterns(
            "rounds.json", "reward", "policy", "compared.json", "round.json", "report.html"
        )
        shutil.copytree(done, place, ignore=mine)
    return place


def as_far(asked: argparse.Namespace, seed: int, place: Path, kl: float) -> tuple[float, dict]:
    """The penalty and the outcome of the one round whose KL comes nearest to this one."""
    first, tried = place / f"one-{seed}", {}
    beta = asked.beta
    for attempt in range(TRIES):
        here = with_its_votes(first, place / f"one-{seed}-{attempt}") if attempt else first
        (tried[beta],) = performed(config(asked, seed, 3 * asked.prompts, beta), 1, here)
        nearest = min(tried, key=lambda beta: abs(math.log(tried[beta]["kl"] / kl)))
        if abs(tried[nearest]["kl"] / kl - 1) <= NEAR:
            break
        beta = round(next_penalty({b: found["kl"] for b, found in tried.items()}, kl), 4)
    return nearest, tried[nearest]


def next_penalty(kls: dict[float, float], wanted: float) -> float:
    """From the KL of each penalty tried: between two with the wanted KL between theirs, or beyond all.

    Between them log KL is taken as linear in log β, beyond them as falling like 1 / β.
    """
    farther = [beta for beta, kl in kls.items() if kl > wanted]
    nearer = [beta for beta, kl in kls.items() if kl <= wanted]
    if not (farther and nearer):
        last = max(farther) if farther else min(nearer)
        return last * kls[last] / wanted
    low, high = max(farther), min(nearer)
    share = math.log(kls[low] / wanted) / math.log(kls[low] / kls[high])
    return low ** (1 - share) * high**share


def upbeat(model: str, asked: list) -> np.ndarray:
    """What DRAWS answers to each prompt are worth, prompts x draws."""
    lm, found = LanguageModel.load(model), []
    ids = [lm.asked(talk) for talk in asked]
    for draw in range(1, DRAWS + 1):
        drawn = [Sampling(max_new_tokens=NEW, seed=(draw << 20) + place) for place in range(len(ids))]
        found.append(compound([one.text for one in lm.engine.generate(ids, drawn, 64)]))
    return np.array(found).T


def wins(policy_PD: np.ndarray, base_PD: np.ndarray) -> np.ndarray:
    """Of each prompt: the share of pairs in which the policy's answer is worth more, with half of the equal ones."""
    gaps_PDD = policy_PD[:, :, None] - base_PD[:, None, :]
    return ((gaps_PDD > 0) + 0.5 * (gaps_PDD == 0)).mean(axis=(1, 2))


def compared(asked: argparse.Namespace, seed: int, place: Path) -> tuple[list[list[str]], bool]:
    """Three rows of the table, and whether three rounds won more often than each of the others."""
    here = place / f"three-{seed}"
    first, _, three = performed(config(asked, seed, asked.prompts, asked.beta), 3, here)
    beta, one = as_far(asked, seed, place, three["kl"])
    talks = [messages(record) for record in load([str(here / "held-out.jsonl")], "prompt").require().records]
    base_PD, three_P = upbeat(asked.base, talks), np.zeros(0)
    rows, better = [], True
    for name, found in (("three", three), (f"one, β {beta:.3f}", one), ("first of three", first)):
        policy_PD = upbeat(found["lineage"]["policy"], talks)
        wins_P, more = wins(policy_PD, base_PD), ""
        if found is three:
            three_P = wins_P
        else:
            more_P = 100 * (three_P - wins_P)
            more = f"{more_P.mean():.1f} ± {2 * more_P.std() / len(more_P) ** 0.5:.1f}"
            better &= bool(more_P.mean() > 0)
        rows.append([
            str(seed), name, str(found["preferences"]), f"{found['kl']:.2f}", f"{base_PD.mean():.3f}",
            f"{policy_PD.mean():.3f}", f"{wins_P.mean():.1%}", more, f"{found['reward_model']['accuracy']:.1%}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    return rows, better


def main() -> None:
    """Performs all rounds and writes the table."""
    from results import append, arguments

    parser = arguments(__doc__)
    parser.add_argument("base")
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--prompts", type=int, default=250)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--out", type=Path, help="where the rounds are kept; default: nowhere")
    asked = parser.parse_args()
    place = asked.out or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    found = [compared(asked, seed, place) for seed in asked.seeds]
    columns = [
        "seed", "rounds", "preferences", "KL", "upbeat, base", "upbeat, policy", "win rate",
        "three win more often by, points", "accuracy",
    ]  # fmt: skip
    notes = (
        f"On {sum(better for _, better in found)} of {len(found)} seeds the third of three rounds of {asked.prompts} "
        f"prompts won more often than one round of {3 * asked.prompts}, and than the first of the three; {asked.steps} "
        f"steps of PPO each, β {asked.beta} where nothing else is said, {HELD_OUT} held-out prompts, {DRAWS} answers "
        "to each."
    )
    append("Three rounds of feedback against one", columns, [row for rows, _ in found for row in rows], notes)


if __name__ == "__main__":
    main()
