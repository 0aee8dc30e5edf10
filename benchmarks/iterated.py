"""Three rounds of feedback against one, with the same number of votes and about the same distance from the base.

Votes are VADER's, drawn with a temperature. Three rounds vote on what each policy says; the one round has as many
votes, all on what the base says. Every policy is trained from the base. The one round's policy is trained twice: with
the same penalty, and with one that is changed in proportion, so that it goes as far from the base as the other.
The win rate against the base and the mean compound are measured on held-out prompts that are nobody's votes. What is
finished in `--out` is not done again.

    python benchmarks/iterated.py runs/demo/sft chats.jsonl [--seeds 0 1 2 3 4] [--prompts 250] [--steps 80]
        [--beta 0.1] [--out DIR]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections import deque
from pathlib import Path

from lmcraft.core.run import Run
from lmcraft.data.dataset import Config as Data
from lmcraft.feedback.opening import open_store
from lmcraft.rounds import rounds
from lmcraft.rounds.settings import Config

HELD_OUT, NEW = 320, 64
LAST = 8  # rounds of answers whose KL is averaged: one alone says little
REWARD = ("train.batch_size=16", "train.lr=1e-4", "train.epochs=1")


def config(asked: argparse.Namespace, seed: int, prompts: int, beta: float) -> Config:
    """Rounds with so many prompts each, and this penalty."""
    ppo = (
        f"stage.kl.coef={round(beta, 4)}", "stage.decay=1", "stage.rollout.episodes=64", "train.batch_size=64",
        "train.micro_batch_size=16", "train.lr=1e-4", f"train.steps={asked.steps}", "train.save_every=1000",
    )  # fmt: skip
    return Config(
        base=asked.base, data=Data(files=(asked.data,), holdout=0.15), rater="vader", manner={"temperature": 0.2},
        seed=seed, prompts=prompts, held_out=HELD_OUT, max_new_tokens=NEW, reward=REWARD, ppo=ppo,
    )  # fmt: skip


def performed(found: Config, count: int, place: Path) -> dict:
    """What came out of the last of so many rounds."""
    with open_store(f"sqlite:///{place}.db") as store:
        finished, _ = rounds.perform(found, place, count, store, lambda steps, _: deque(steps, maxlen=0))
    rows = [row for row in Run.open(Path(finished[-1]["lineage"]["policy"])).metrics() if "kl" in row]
    return finished[-1] | {"kl": statistics.fmean(row["kl"] for row in rows[-LAST:])}


def with_its_votes(done: Path, place: Path) -> Path:
    """A place where a round has its votes already: those of one that is done."""
    if not place.exists():
        mine = shutil.ignore_patterns(
            "rounds.json", "reward", "policy", "compared.json", "round.json", "report.html"
        )
        shutil.copytree(done, place, ignore=mine)
    return place


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
    place, cells, better = asked.out or Path(tempfile.mkdtemp()), [], 0
    place.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        three = performed(config(asked, seed, asked.prompts, asked.beta), 3, place / f"three-{seed}")
        one = performed(config(asked, seed, 3 * asked.prompts, asked.beta), 1, place / f"one-{seed}")
        beta = asked.beta * one["kl"] / three["kl"]
        as_far = with_its_votes(place / f"one-{seed}", place / f"as-far-{seed}")
        far = performed(config(asked, seed, 3 * asked.prompts, beta), 1, as_far)
        better += three["win_rate"] > far["win_rate"]
        for name, found in (("three", three), ("one", one), (f"one, β {beta:.3f}", far)):
            cells.append([
                str(seed), name, str(found["preferences"]), f"{found['kl']:.2f}", f"{found['gold'][0]:.3f}",
                f"{found['gold'][1]:.3f}", f"{found['win_rate']:.1%}", f"{found['reward_model']['accuracy']:.1%}",
            ])  # fmt: skip
            print(cells[-1], flush=True)
    columns = [
        "seed",
        "rounds",
        "preferences",
        "KL at last",
        "gold, base",
        "gold, policy",
        "win rate",
        "accuracy",
    ]
    notes = (
        f"On {better} of {len(asked.seeds)} seeds three rounds of {asked.prompts} prompts won more often than one of "
        f"{3 * asked.prompts} that went as far; {asked.steps} steps of PPO each, β {asked.beta} where nothing else is "
        f"said, {HELD_OUT} held-out prompts."
    )
    append("Three rounds of feedback against one", columns, cells, notes)


if __name__ == "__main__":
    main()
