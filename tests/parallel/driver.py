"""Runs small trainings with several processes each, forked from this one, which has imported torch once.

    python driver.py JOBS.json FOLDER    writes FOLDER/NAME.json and FOLDER/NAME.safetensors for every job

A job has "name", "world", "kind"; as settings "model", "adapter" (entries of a recipe), "optimizer", "micro",
"steps", "sharded", "save_every", "precision", "double" (weights of float64), "checkpointing", "offload", "chunks" (of
the loss), "patience"; "until" where to leave the loop; "from" the job whose checkpoints it goes on from; steps after
which process 0 "fails" or "leaves" the others in a held-out loss, or process 1 "dies", "asks" (to stop, by SIGTERM)
or has a loss of "nan"; "codes" of their ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lmcraft.adapt import adapter, directory, entries
from lmcraft.core import find
from lmcraft.core.errors import UserError
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, Tokens, write
from lmcraft.models import decoder, encdec, model, rnn
from lmcraft.stages import embed, pretrain, translate
from lmcraft.train import loop, optim, parallel, randomness
from lmcraft.train import loss as chunked_loss
from lmcraft.train.heldout import held_out_loss

VOCAB, WIDTH, ROWS = 41, 24, 8


def texts(folder: Path) -> Tokens:
    """Documents of uneven length, many with a single trained token: no two processes have as many targets."""
    draw = np.random.default_rng(0)
    documents = []
    for number in range(60):
        ids = draw.integers(1, VOCAB, draw.integers(5, WIDTH + 1)).tolist()
        trained = [False] * len(ids)
        trained[-1] = True
        if number % 3:
            trained[1:] = (draw.random(len(ids) - 1) < 0.8).tolist()
            trained[-1] = True
        source = draw.integers(1, VOCAB, draw.integers(3, 9)).tolist()
        documents.append(Document(ids, trained, Where("made.jsonl", number + 1), None, source))
    return write(folder / "texts", iter(documents), VOCAB, {}, Counter())


def fresh(kind: str) -> torch.nn.Module:
    randomness.seed(3)
    size = {"vocab": VOCAB, "context": WIDTH, "layers": 2, "width": 32}
    if kind == "lstm":
        return model.build(rnn.Config(cell="lstm", **size))
    if kind == "encdec":
        return model.build(
            encdec.Config(vocab=VOCAB, context=WIDTH, layers=2, width=32, heads=4, dropout=0.0)
        )
    dropout = 0.1 if kind == "dropout" else 0.0
    net = model.build(decoder.Config(heads=4, kv_heads=2, dropout=dropout, tied=kind != "head", **size))
    if kind == "head":
        net.requires_grad_(False).output.requires_grad_(True)
    if kind == "frozen":  # as under an adapter: most of the base is frozen, some of it is trained
        for name, parameter in net.named_parameters():
            parameter.requires_grad_("attn.q" in name or "attn_norm" in name)
    if kind == "embed":
        net = embed.build(embed.Config(group=4)).ready(net, [], None)
    return net


def adapted(net: torch.nn.Module, asked: list[dict]) -> torch.nn.Module:
    """The model with adapters, as a recipe would put them beside its frozen base."""
    if not asked:
        return net
    adapter.freeze(net)
    configs = [find.module("adapt", entry["kind"]).Config(**entry) for entry in asked]
    return entries.apply(net, configs, entries.Base("base", "its fingerprint"), None)


def stage_of(kind: str):
    if kind == "embed":
        return embed.build(embed.Config(group=4))
    if kind == "encdec":
        return translate.build(translate.Config(smoothing=0.0))
    return pretrain.build(pretrain.Config())


class Spoiled:
    """A stage whose loss is not a number from some step on."""

    spoiled = False

    def __init__(self, stage) -> None:
        self.stage = stage

    def loss(self, net, batch):
        return self.stage.loss(net, batch) * (float("nan") if self.spoiled else 1.0)


def work(job: dict, tokens: Tokens, folder: Path) -> None:
    kind, precision = job.get("model", "decoder"), job.get("precision", "fp32")
    ranks = parallel.begin(job["kind"], patience_s=job.get("patience", parallel.PATIENCE_S))
    stage = stage_of(kind)
    group = 4 if kind == "embed" else 1
    finish = stage.finish if kind == "embed" else None
    loader = Loader(tokens, WIDTH, ROWS, 1, False, ranks.rank, ranks.world, finish, group)
    held = Loader(tokens, WIDTH, ROWS, 1, False, finish=finish)
    net, stage = adapted(fresh(kind), job.get("adapter", [])), Spoiled(stage)
    if job.get("double"):
        net = net.double()
    if job.get("chunks"):
        chunked_loss.HEAD_ELEMENTS = 4 * VOCAB
    config = loop.Config(
        steps=job.get("steps", 20), batch_size=ROWS, micro_batch_size=job.get("micro"), lr=1e-3, precision=precision,
        save_every=job.get("save_every", 1000), sharded=job.get("sharded", False),
        checkpointing=job.get("checkpointing", False), offload=job.get("offload", "none"),
        optim=optim.Config(kind=job.get("optimizer", "adamw"), warmup=0, schedule="constant", eps=1e-4),
    )  # fmt: skip
    rows, said = [], []
    place = folder / job["name"] / "checkpoints"
    steps = loop.train(stage, net, loader, config, place, said.append, ranks)
    with ranks.watching(), contextlib.closing(steps):
        for step in steps:
            if job.get("dies") == step.number and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if job.get("nan") == step.number and ranks.rank == 1:
                stage.spoiled = True
            if job.get("asks") == step.number and ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            row = [step.number, step.loss, step.grad_norm, step.targets, step.tokens]
            if job.get("leaves") == step.number and ranks.rank == 0:
                raise UserError("the first process has no memory for this")
            if step.number % 5 == 0:
                row.append(held_out_loss(stage, net, held, 20, ROWS, precision, 3, ranks))
            rows.append(row)
            if (
                job.get("fails") == step.number and ranks.rank == 0
            ):  # as api.train: it writes after all have measured
                raise UserError("the first process cannot write", where="metrics.jsonl")
            if step.number == job.get("until"):
                break
    with ranks.watching():
        whole = ranks.whole(net)
    if ranks.first:
        assert whole is not None
        if entries.kept_apart(net):
            directory.save(whole, folder / f"{job['name']}-adapter")
        save_file(
            {n: p.detach().clone() for n, p in whole.named_parameters()},
            folder / f"{job['name']}.safetensors",
        )
        trained = {n: p.requires_grad for n, p in whole.named_parameters()}
        (folder / f"{job['name']}.json").write_text(
            json.dumps({"rows": rows, "said": said, "trained": trained})
        )


def run(job: dict, tokens: Tokens, folder: Path) -> list[int]:
    """The exit codes of a job's processes; what they say of errors is in NAME.RANK.txt."""
    if "from" in job:
        shutil.copytree(folder / job["from"], folder / job["name"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(job["world"]):
        child = os.fork()
        if child == 0:
            code = 0
            if job["kind"] != "none":
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(job["world"]), "MASTER_ADDR": "127.0.0.1",
                               "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}  # fmt: skip
            try:
                work(job, tokens, folder)
            except UserError as error:
                (folder / f"{job['name']}.{rank}.txt").write_text(f"{error.everywhere} {error}")
                code = error.exit_code
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    # Each of the forked processes would import these, which takes longer than most of the trainings.
    import torch._dynamo
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    jobs, where = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    made = texts(where)
    for job in jobs:
        codes = run(job, made, where)
        (where / f"{job['name']}.codes.json").write_text(json.dumps(codes))
        if codes != job.get("codes", [0] * job["world"]):
            sys.exit(f"{job['name']}: {codes}")
