"""LoRA and QLoRA of SmolLM2-135M on instructions: lmcraft against TRL's SFTTrainer with PEFT.

The same base, rows, rank, modules, micro-batch and longest text; the loss on answers only. Every variant is a process
of its own, they take turns, and measured are real (not padding) tokens per second, the first step left out, and the
peak memory of the process. lmcraft packs rows, which is its default; TRL does not, which is its.

    lmcraft pull smollm2 && python benchmarks/tune.py instructions.jsonl [--rounds 2] [--steps 6]

The file has `instruction` and `output`, and `input` if it likes. Needs `transformers`, `trl`, `peft`, `bitsandbytes`.
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

RANK, ROWS, LONGEST, LR = 8, 4, 256, 2e-4
BASE = "smollm2"
VARIANTS = ("lmcraft LoRA", "TRL LoRA", "lmcraft QLoRA", "TRL QLoRA")


def measured(base: Path, data: Path, variant: str, steps: int) -> dict[str, float]:
    """Tokens per second and peak memory of one variant, in another process."""
    command = [
        sys.executable,
        __file__,
        str(data),
        "--one",
        variant,
        "--base",
        str(base),
        "--steps",
        str(steps),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(base: Path, data: Path, quantized: bool, steps: int) -> list[tuple[int, float]]:
    """Real tokens and seconds of each step of `lmcraft train sft`."""
    import lmcraft

    lora = f"{{kind: lora, rank: {RANK}, alpha: {2 * RANK}, targets: [attn.q, attn.k, attn.v, attn.out]}}"
    adapters = f"[{{kind: quantize, bits: 4}}, {lora}]" if quantized else f"[{lora}]"
    settings = [
        f"base={base}", f"data={data}", f"data.context={LONGEST}", f"adapter={adapters}", f"train.batch_size={ROWS}",
        f"train.steps={steps}", f"train.lr={LR}", "train.optim.kind=adamw", "data.holdout=0", "sample.max_new_tokens=1",
    ]  # fmt: skip
    run = Path(tempfile.mkdtemp()) / "run"
    return [(step.tokens, step.seconds) for step in lmcraft.train("sft", settings, out=run)]


def theirs(base: Path, data: Path, quantized: bool, steps: int) -> list[tuple[int, float]]:
    """Real tokens and seconds of each step of SFTTrainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = map(json.loads, data.read_text(encoding="utf-8").splitlines())
    asked = [
        {
            "prompt": [
                {"role": "user", "content": "\n\n".join(filter(None, (row["instruction"], row.get("input"))))}
            ],
            "completion": [{"role": "assistant", "content": row["output"]}],
        }
        for row in rows
    ]
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, **({"quantization_config": four} if quantized else {})
    )
    counts: list[tuple[int, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            counts.append((seen.pop(0), time.perf_counter() - self.started))

    seen: list[int] = []
    trainer = SFTTrainer(
        model, train_dataset=Dataset.from_list(asked), processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                               task_type="CAUSAL_LM"),
        args=SFTConfig(output_dir=tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=ROWS,
                       max_length=LONGEST, learning_rate=LR, report_to=[], save_strategy="no", logging_strategy="no",
                       gradient_checkpointing=False, bf16=True, use_cpu=True, disable_tqdm=True),
        callbacks=[Clock()],
    )  # fmt: skip
    collate = trainer.data_collator

    def counting(examples: list) -> dict:
        batch = collate(examples)
        seen.append(int(batch["attention_mask"].sum()))
        return batch

    trainer.data_collator = counting
    trainer.train()
    return counts


def one(asked: argparse.Namespace) -> None:
    """Measures a variant in this process and prints what it found as the last line."""
    run = ours if asked.one.startswith("lmcraft") else theirs
    steps = run(asked.base, asked.data, asked.one.endswith("QLoRA"), asked.steps)[1:]
    rate = sum(tokens for tokens, _ in steps) / sum(seconds for _, seconds in steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rate": rate, "peak": peak, "tokens": statistics.fmean(tokens for tokens, _ in steps)}))


def main() -> None:
    from results import append, arguments

    parser = arguments(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--base", type=Path, help="a model directory; default: smollm2 from the store, made float32"
    )
    asked = parser.parse_args()
    if asked.one:
        return one(asked)
    import lmcraft

    base = asked.base
    if base is None:
        base = Path(tempfile.mkdtemp()) / "base"
        lmcraft.load(BASE).save(base)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(asked.rounds):
        for variant in VARIANTS:
            found[variant].append(measured(base, asked.data, variant, asked.steps))
    rate = {variant: statistics.median(run["rate"] for run in runs) for variant, runs in found.items()}
    peak = {variant: max(run["peak"] for run in runs) for variant, runs in found.items()}
    rows = []
    for variant in VARIANTS:
        peer = variant.replace("lmcraft", "TRL")
        rates = [run["rate"] for run in found[variant]]
        spread = (max(rates) - min(rates)) / rate[variant]
        tokens = statistics.fmean(run["tokens"] for run in found[variant])
        rows.append([
            variant, f"{rate[variant]:.0f}", f"{rate[variant] / rate[peer]:.2f}", f"{spread:.2f}",
            f"{peak[variant] / 1e9:.2f}", f"{peak[variant] / peak[peer]:.2f}", f"{tokens:.0f}",
        ])  # fmt: skip
    append(
        "Tuning SmolLM2-135M by LoRA",
        ["variant", "real tokens/s", "× TRL", "spread", "peak GB", "of TRL's", "tokens a step"], rows,
        f"Rank {RANK} on q, k, v, o; {ROWS} rows a step of at most {LONGEST} tokens; {asked.steps - 1} steps counted, "
        f"{asked.rounds} rounds. TRL computes in bf16, its default; lmcraft in what `auto` chose.",
    )  # fmt: skip
    return None


if __name__ == "__main__":
    main()
