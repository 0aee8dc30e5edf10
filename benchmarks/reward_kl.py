"""Reward against distance: PPO, RLOO, DPO and the best of n on one plane, from the same base, prompts and reward.

The reward is VADER's compound, −1 for an answer that does not end. Each policy is trained by lmcraft; score and KL to
the base are then measured on held-out prompts, from answers drawn at temperature 1: the mean score, and the mean over
answers of Σ log π − log base. Of the best of n both are known from samples of the base (lmcraft.rl.best_of_n), with the
upper bound as its KL. PPO is repeated with other seeds; p is that of a sign-flip test against the base.

    python benchmarks/reward_kl.py runs/demo/sft chats.jsonl [--steps 120] [--seeds 5] [--figure FILE.png]
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

import lmcraft
from lmcraft.data.dataset import Config as DataConfig
from lmcraft.data.dataset import prepare
from lmcraft.data.records import Message
from lmcraft.generate.language_model import LanguageModel
from lmcraft.generate.sampling import Sampling
from lmcraft.rewards.vader import compound
from lmcraft.rl.best_of_n import expected_score, kl_bound
from lmcraft.rl.prompts import messages
from lmcraft.rounds.judged import sign_flip

NEW, PROMPTS, SAMPLES, PAIRS = 40, 128, 64, 600
COMMON = [
    "train.batch_size=64", "train.micro_batch_size=16", "train.lr=1e-4", "train.save_every=1000",
    "sample.max_new_tokens=1", "data.holdout=0",
]  # fmt: skip
ROLLOUT = ["stage.reward=vader", f"stage.rollout.max_new_tokens={NEW}", "stage.rollout.episodes=64"]


def talks(base: LanguageModel, data: str) -> tuple[list, list]:
    """Prompts to train on and held out, that leave room for an answer."""
    found = prepare(DataConfig(files=(data,)), 0)
    longest = (base.model.max_length or 1 << 30) - NEW

    def kept(records: list) -> list[tuple[Message, ...]]:
        asked = dict.fromkeys(messages(record) for record in records)
        return [talk for talk in asked if len(base.asked(talk)) <= longest]

    return kept(found.train), kept(found.held)[:PROMPTS]


def answers(lm: LanguageModel, asked: list, seed: int) -> tuple[list, list[float]]:
    """One answer to each prompt at temperature 1, and what each is worth."""
    ids = [lm.asked(talk) for talk in asked]
    drawn = [Sampling(max_new_tokens=NEW, seed=(seed << 20) + place) for place in range(len(ids))]
    said = lm.engine.generate(ids, drawn, 64)
    worth = compound([one.text for one in said])
    ended = [one.finish_reason == "stop" for one in said]
    return list(zip(ids, said, strict=True)), [w if e else -1.0 for w, e in zip(worth, ended, strict=True)]


def measured(
    policy: LanguageModel, base: LanguageModel, asked: list, before: list[float]
) -> dict[str, float]:
    """Score, KL and p of a policy."""
    said, scores = answers(policy, asked, seed=1)
    pairs = [(ids, one.tokens) for ids, one in said]
    there = [score.logprob for score in policy.engine.score(pairs)]
    here = [score.logprob for score in base.engine.score(pairs)]
    kl = sum(a - b for a, b in zip(there, here, strict=True)) / len(pairs)
    p = sign_flip([new - old for new, old in zip(scores, before, strict=True)])
    stopped = sum(one.finish_reason == "stop" for _, one in said) / len(said)
    return {"score": sum(scores) / len(scores), "kl": kl, "p": p, "stopped": stopped}


def preferences(base: LanguageModel, asked: list, file: Path) -> None:
    """Pairs of the base's answers, the more upbeat one preferred."""
    sides = [answers(base, asked[:PAIRS], seed) for seed in (2, 3)]
    with file.open("w", encoding="utf-8") as out:
        for place, talk in enumerate(asked[:PAIRS]):
            judged = sorted((scores[place], said[place][1].text) for said, scores in sides)
            (low, worse), (high, better) = judged
            if low < high and worse.strip() and better.strip() and worse != better:
                prompt = [{"role": m.role, "content": m.content} for m in talk]
                out.write(json.dumps({"prompt": prompt, "chosen": better, "rejected": worse}) + "\n")


def runs(steps: int, seeds: int) -> dict[str, tuple[str, list[str]]]:
    """Every training by its name: the stage and its settings."""
    found = {
        f"PPO, β {beta}": ("ppo", [*ROLLOUT, f"stage.kl.coef={beta}", f"train.steps={steps}"]) for beta in (0.2, 0.05)
    }  # fmt: skip
    for seed in range(1, seeds):
        found[f"PPO, β 0.05, seed {seed}"] = (
            *found["PPO, β 0.05"][:1],
            [*found["PPO, β 0.05"][1], f"seed={seed}"],
        )
    rloo = [
        *ROLLOUT,
        "stage.algorithm=rloo",
        "stage.group=8",
        "stage.rollout.epochs=2",
        f"train.steps={steps // 2}",
    ]
    for beta in (0.2, 0.05):
        found[f"RLOO, β {beta}"] = ("grpo", [*rloo, f"stage.kl_coef={beta}"])
    for beta in (0.3, 0.1):
        found[f"DPO, β {beta}"] = ("dpo", [f"stage.beta={beta}", "train.optim.kind=adamw", "train.steps=40"])
    return found


def main() -> None:
    """Trains, measures, and writes the table."""
    from results import append, arguments

    parser = arguments(__doc__)
    parser.add_argument("base")
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    base, place = lmcraft.load(asked.base), Path(tempfile.mkdtemp())
    train, held = talks(base, asked.data)
    rows_of = [{"prompt": [{"role": m.role, "content": m.content} for m in talk]} for talk in train]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of), encoding="utf-8")
    preferences(base, train, place / "pairs.jsonl")
    _, before = answers(base, held, seed=0)
    found = {"base": {"score": sum(before) / len(before), "kl": 0.0, "p": None, "stopped": None}}
    scores_PK = torch.tensor([answers(base, held, seed=10 + k)[1] for k in range(SAMPLES)]).T
    for n in (2, 4, 8, 16, 64):
        found[f"best of {n}"] = {
            "score": expected_score(scores_PK, n), "kl": kl_bound(n), "p": None, "stopped": None
        }  # fmt: skip
    for name, (stage, settings) in runs(asked.steps, asked.seeds).items():
        data = place / ("pairs.jsonl" if stage == "dpo" else "prompts.jsonl")
        out = place / name.replace(" ", "-").replace(",", "")
        for _ in lmcraft.train(stage, [f"base={asked.base}", f"data={data}", *COMMON, *settings], out=out):
            pass
        found[name] = measured(lmcraft.load(out), base, held, before)
        print(name, found[name], flush=True)
    cells = [
        [
            name, f"{one['kl']:.2f}", f"{one['score']:.3f}", "–" if one["p"] is None else f"{one['p']:.2g}",
            "–" if one["stopped"] is None else f"{one['stopped']:.0%}",
        ] for name, one in found.items()
    ]  # fmt: skip
    notes = f"{len(held)} held-out prompts, answers of at most {NEW} tokens; {asked.steps} steps of 64 answers for PPO."
    append(
        "Reward against KL", ["policy", "KL, nats", "score", "p against the base", "stopped"], cells, notes
    )
    if asked.figure:
        draw(found, asked.figure)


def draw(found: dict[str, dict], file: Path) -> None:
    """The plane."""
    from matplotlib import pyplot

    for kind, marker in (("best of", "o-"), ("PPO", "s"), ("RLOO", "^"), ("DPO", "D")):
        points = sorted((one["kl"], one["score"]) for name, one in found.items() if name.startswith(kind))
        pyplot.plot(*zip(*points, strict=True), marker, label=kind)
    pyplot.xlabel("KL to the base, nats an answer")
    pyplot.ylabel("mean score")
    pyplot.legend()
    pyplot.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
