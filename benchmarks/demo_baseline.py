"""The demo's chat model against a plain baseline of equal training time on the same data.

The baseline is the loop of a first course: GPT-2 of `transformers` with as many layers and the same width, AdamW,
cosine schedule, random crops of the concatenated conversations (rendered with the same template), the loss on every
token, the same tokenizer, the same numbers (fp32 or bf16), and as many seconds as both training stages of the demo
took. Both models are measured by the same code on the same held-out conversations: bits per byte of the answers.

    lmcraft demo --out runs/demo && python benchmarks/demo_baseline.py runs/demo [--lr 1e-3]
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from results import append, arguments

from lmcraft import demo
from lmcraft.core.heap import keep_freed_memory
from lmcraft.core.run import Run
from lmcraft.data.dataset import Config, prepare
from lmcraft.evals import perplexity
from lmcraft.generate.language_model import LanguageModel
from lmcraft.models import weights
from lmcraft.text.chat import ChatTemplate
from lmcraft.text.tokenizer import Tokenizer
from lmcraft.train import precision


def train(
    stream: np.ndarray, vocab: int, seconds: float, lr: float, numbers: str
) -> transformers.GPT2LMHeadModel:
    """A GPT-2 trained for so many seconds."""
    torch.manual_seed(demo.SEED)
    draw = np.random.default_rng(demo.SEED)
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=demo.CONTEXT, n_embd=demo.MODEL["width"], n_layer=demo.MODEL["layers"],
        n_head=demo.MODEL["heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    started, step = time.perf_counter(), 0
    while (gone := time.perf_counter() - started) < seconds:
        share = gone / seconds  # the schedule follows the clock, so that it ends exactly with the time
        factor = min(1.0, (step + 1) / 50) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        places = draw.integers(0, len(stream) - demo.CONTEXT - 1, demo.BATCH_SIZE)
        ids = torch.from_numpy(np.stack([stream[p : p + demo.CONTEXT] for p in places]).astype(np.int64))
        with precision.computing(numbers, torch.device("cpu")):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 50 == 0:
            print(f"{gone:.0f}/{seconds:.0f} s  step {step}  loss {loss.item():.3f}", flush=True)
    print(f"{step} steps of {demo.BATCH_SIZE * demo.CONTEXT} tokens")
    return model.eval()


def main() -> None:
    """Trains the baseline and writes the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("demo", type=Path, help="directory of a finished demo")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--data", default="chitchat")
    options = parser.parse_args()
    keep_freed_memory()
    summary = json.loads((options.demo / "summary.json").read_text())
    stages = summary["stages"]
    seconds = sum(stages[name]["seconds"] for name in ("pretrain", "sft"))
    numbers = "bf16" if "precision: bf16" in Run.open(options.demo / "sft").config_text else "fp32"
    data = prepare(Config(files=(options.data,)), demo.SEED)
    tokenizer = Tokenizer.load(options.demo / "tokenizer")
    template = ChatTemplate.load("chatml", tokenizer)
    ids = [encoded.ids for encoded in template.encode_all([record.messages for record in data.train])]
    stream = np.concatenate([np.array([*one, tokenizer.eos]) for one in ids])
    peer = train(stream, tokenizer.size, seconds, options.lr, numbers)
    folder = Path(tempfile.mkdtemp())
    peer.save_pretrained(folder)
    theirs = LanguageModel(weights.load(folder), tokenizer, template)
    ours = LanguageModel.load(options.demo / "sft")
    settings = perplexity.Config(stride=demo.STRIDE)
    gpt2, mine = (perplexity.run(lm, data.held, settings).metrics["bits_per_byte"] for lm in (theirs, ours))
    size = sum(parameter.numel() for parameter in peer.parameters())
    append(
        "Demo against a plain baseline of equal training time",
        ["model", "parameters", "training seconds", "numbers", "bits per byte of held-out answers"],
        [
            ["GPT-2 (transformers), AdamW, cosine", f"{size:,}", round(seconds), numbers, f"{gpt2:.4f}"],
            ["lmcraft demo", f"{stages['sft']['parameters']:,}", round(seconds), numbers, f"{mine:.4f}"],
        ],
        f"lmcraft is {100 * (1 - mine / gpt2):.1f} % lower. Peak learning rate of the baseline: {options.lr:g}.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
