"""Group-relative policy optimization of SmolLM2-135M with LoRA: lmcraft against TRL's GRPOTrainer, episodes per second.

The same base, prompts, rank, modules, group, longest answer, temperature and reward (by the answer's length); no
reference on either side (β = 0). Both compute in float32, or, with `--default`, in what each chooses by itself. Both
are processes of their own and take turns; the first step of each is left out.

    lmcraft pull smollm2 && python benchmarks/rl_step.py instructions.jsonl [--rounds 2] [--steps 4] [--default]

The file has `instruction`. Needs `transformers`, `trl`, `peft`, `datasets`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANK, GROUP, EPISODES, NEW, LR, PROMPTS = 8, 8, 16, 48, 1e-5, 64
BASE = "smollm2"
SIDES = ("lmcraft", "TRL")


def prompts(data: Path) -> list[list[dict[str, str]]]:
    """The shortest instructions, as conversations."""
    rows = [json.loads(line)["instruction"] for line in data.read_text(encoding="utf-8").splitlines()]
    return [[{"role": "user", "content": text}] for text in sorted(rows, key=len)[:PROMPTS]]


def ours(base: Path, data: Path, steps: int, default: bool) -> list[dict[str, float]]:
    """Seconds and answer tokens of each step of `lmcraft train grpo`."""
    import lmcraft

    place = Path(tempfile.mkdtemp())
    asked = place / "prompts.jsonl"
    asked.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts(data)))
    lora = f"[{{kind: lora, rank: {RANK}, alpha: {2 * RANK}, targets: [attn.q, attn.k, attn.v, attn.out]}}]"
    settings = [
        f"base={base}", f"data={asked}", "data.holdout=0", "data.context=512", f"adapter={lora}",
        "stage.reward={kind: length, target: 64}", f"stage.group={GROUP}", "stage.kl_coef=0",
        f"stage.rollout.max_new_tokens={NEW}", "stage.rollout.missing_eos=null", f"train.batch_size={EPISODES}",
        f"train.steps={steps}", f"train.lr={LR}", f"train.precision={'auto' if default else 'fp32'}",
        "train.optim.kind=adamw", "sample.max_new_tokens=1",
    ]  # fmt: skip
    run = place / "run"
    seconds = [step.seconds for step in lmcraft.train("grpo", settings, out=run)]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {"seconds": taken, "tokens": row["answer_tokens"], "generate": row["generate_seconds"]}
        for taken, row in zip(seconds, rows, strict=True)
    ]


def theirs(base: Path, data: Path, steps: int, default: bool) -> list[dict[str, float]]:
    """The same of GRPOTrainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    found: list[dict[str, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            found.append({"seconds": time.perf_counter() - self.started, "tokens": 0.0, "generate": 0.0})

        def on_log(
            self, _: object, __: object, ___: object, logs: dict | None = None, **____: object
        ) -> None:
            if found and logs and "completions/mean_length" in logs:
                found[-1]["tokens"] = logs["completions/mean_length"]

    def length(completions: list, **_: object) -> list[float]:
        return [-abs(len(one[0]["content"]) - 200) / 200 for one in completions]

    GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), reward_funcs=length,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts(data)]),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                               task_type="CAUSAL_LM"),
        args=GRPOConfig(output_dir=tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=EPISODES,
                        num_generations=GROUP, max_completion_length=NEW, temperature=1.0, beta=0.0,
                        learning_rate=LR, report_to=[], save_strategy="no", logging_steps=1,
                        bf16=None if default else False, gradient_checkpointing=False, use_cpu=True, disable_tqdm=True),
        callbacks=[Clock()],
    ).train()  # fmt: skip
    return found


def one(asked: argparse.Namespace) -> None:
    """Measures a side in this process and prints what it found as the last line."""
    measure = ours if asked.one == "lmcraft" else theirs
    steps = measure(asked.base, asked.data, asked.steps, asked.default)[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    means = {name: statistics.fmean(step[name] for step in steps) for name in steps[0]}
    print(json.dumps({"rate": EPISODES / means["seconds"], "peak": peak, **means}))


def main() -> None:
    """Lets both sides take turns and writes the table."""
    from results import append, arguments

    parser = arguments(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "--default", action="store_true", help="each side computes in what it chooses by itself"
    )
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument(
        "--base", type=Path, help="a model directory; default: smollm2 from the store, made float32"
    )
    asked = parser.parse_args()
    if asked.one:
        one(asked)
        return
    import lmcraft

    base = asked.base
    if base is None:
        base = Path(tempfile.mkdtemp()) / "base"
        lmcraft.load(BASE).save(base)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(asked.rounds):
        for side in SIDES:
            command = [sys.executable, __file__, str(asked.data), "--one", side, "--base", str(base)]
            command += ["--steps", str(asked.steps), *(["--default"] if asked.default else [])]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    rate = {side: statistics.median(run["rate"] for run in runs) for side, runs in found.items()}
    peak = {side: max(run["peak"] for run in runs) for side, runs in found.items()}
    rows = [
        [
            side, f"{rate[side]:.2f}", f"{rate[side] / rate['TRL']:.2f}",
            f"{(max(r['rate'] for r in found[side]) - min(r['rate'] for r in found[side])) / rate[side]:.2f}",
            f"{statistics.fmean(r['tokens'] for r in found[side]):.0f}", f"{peak[side] / 1e9:.2f}",
        ] for side in SIDES
    ]  # fmt: skip
    append(
        "A step of GRPO", ["side", "episodes/s", "× TRL", "spread", "tokens an answer", "peak GB"], rows,
        f"SmolLM2-135M, LoRA of rank {RANK}, {'precision by default' if asked.default else 'float32'}; "
        f"{EPISODES} answers a step in groups of {GROUP}, at most {NEW} tokens each; {asked.steps - 1} steps counted, "
        f"{asked.rounds} rounds.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
