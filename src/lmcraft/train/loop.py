"""The one loop that trains every stage; a generator, so that its user prints, evaluates or stops with `break`.

    for each step:  batch → count targets → for each micro-batch: summed loss / count → backward
                    → finite? → clip → update → yield → checkpoint when due

1. The number of trained targets of the whole step is known before the first backward, and only this file divides. So
   16 rows at once and 16 times one row give the same update.
2. A loss or gradient that is not finite stops training before it touches a weight, and names step and rows; weights
   that are not finite are never saved. Under fp16 an overflow first lowers the scale (scaling.py).
3. With several processes each has a share of the step's rows; `parallel` sums counts and gradients over them.
4. A checkpoint holds weights, optimizer state, random states and the data position; the schedule is a function of the
   step. Training that was killed and started again ends with the same bits as training that was not.
5. SIGINT and SIGTERM are answered after the step at hand: save, then stop. Leaving the loop with `break` saves too.

Proved by tests/unit/train/test_loop.py, tests/contract/test_stages.py, tests/invariance/test_accumulation.py,
tests/invariance/test_settings.py, tests/faults/test_kill.py,
tests/faults/test_nonfinite.py, tests/faults/test_signals.py and tests/parallel/.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from ..adapt.adapter import is_quantized
from ..core.config import Strict
from ..core.device import peak_memory_bytes
from ..core.disk import free_space
from ..core.errors import UserError
from ..data.batch import Batch
from ..data.loader import Loader
from ..models.model import fingerprint
from . import checkpoint, optim, randomness, shards
from .interrupt import Interrupted, listening
from .offload import Offload, outside
from .optim import Config as OptimConfig
from .parallel import ALONE, PATIENCE_S, Parallel, Ranks
from .precision import Precision, computing
from .recompute import recomputing
from .scaling import Scaler

LEFT = (
    1 << 10
)  # in the place of a signal's number: this process leaves the loop, or has an error outside of it


class Config(Strict):
    """How long, how much at once, how fast, and how often to save."""

    steps: int | None = Field(None, gt=0, description="optimizer steps; default: from epochs")
    epochs: float = Field(1.0, gt=0, description="passes over the data when steps is not given")
    batch_size: int = Field(16, gt=0, description="rows per optimizer step, over all processes")
    micro_batch_size: int | None = Field(None, gt=0, description="rows per forward; default: batch_size")
    lr: float | None = Field(None, gt=0, description="peak learning rate; default: the stage's own")
    precision: Precision = "auto"
    parallel: Parallel = Field(
        "auto", description="with torchrun: ddp (what auto means) or fsdp, which shards the model"
    )
    patience_s: int = Field(
        PATIENCE_S,
        gt=0,
        description="with torchrun: seconds to wait for other processes before they count as lost",
    )
    sharded: bool = Field(False, description="each process saves its own part of a checkpoint")
    checkpointing: bool = Field(
        False,
        description="make activations again in the backward instead of keeping them: less memory, more time",
    )
    offload: Offload = Field(
        "none", description="what lies on disk: optimizer (averages), parameters (frozen weights), both"
    )
    save_every: int = Field(200, gt=0, description="steps between checkpoints")
    keep: int = Field(2, gt=0, description="checkpoints to keep")
    eval_every: int = Field(100, gt=0, description="steps between held-out losses")
    eval_rows: int = Field(64, gt=0, description="rows of held-out data per such loss")
    optim: OptimConfig = OptimConfig()


@dataclass(frozen=True)
class Step:
    """What one optimizer step did; `loss` is the mean over its targets, in nats.

    A step is `skipped` when its gradients overflow float16 at this `loss_scale`; then no weight has moved.
    """

    number: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    targets: int
    tokens: int
    seconds: float
    memory_bytes: int
    epoch: float
    loss_scale: float = 1.0
    skipped: bool = False

    @property
    def tokens_per_s(self) -> float:
        """Real tokens read per second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class Trains(Protocol):
    """The part of a stage that the loop uses."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The summed loss of a batch."""
        ...


def train(
    stage: Trains, model: nn.Module, loader: Loader, config: Config, checkpoints: Path | None,
    report: Callable[[str], None], ranks: Ranks = ALONE,
) -> Iterator[Step]:  # fmt: skip
    """Trains to the end, from the newest valid checkpoint if there is one.

    Args:
        config: complete: steps, lr and precision are set.
        checkpoints: folder of this run's checkpoints; the run must be locked. None: nothing is kept (a rehearsal).
        report: is told what the user should know (resumed from where, which checkpoint was bad).
        ranks: the processes that train this model together; each calls this with the loader of its own rows.

    Raises:
        UserError: a step without a target, a loss or gradient that is not finite, a full disk.
        Interrupted: after SIGINT or SIGTERM, everything saved.
    """
    assert config.steps and config.lr and config.precision != "auto"
    ranks.ready(model, _products(config))
    name = f"rank-{ranks.rank}"
    with (
        outside(model, config.offload, checkpoints, ranks.kind == "fsdp", name) as averages,
        recomputing(model, config.checkpointing),
    ):
        yield from _steps(stage, model, loader, config, checkpoints, report, ranks, averages)


def _steps(
    stage: Trains, model: nn.Module, loader: Loader, config: Config, checkpoints: Path | None,
    report: Callable[[str], None], ranks: Ranks, averages: Path | None,
) -> Iterator[Step]:  # fmt: skip
    """The loop itself; `averages`: where the optimizer's lie, if not in memory."""
    assert config.steps and config.lr
    device = next(model.parameters()).device
    optimizers = optim.build(config.optim, config.lr, model, _products(config), averages)
    scaler = Scaler(config.precision)
    done = _resume(model, optimizers, scaler, loader, checkpoints, report, ranks)
    if done < config.steps and checkpoints is not None:
        ranks.from_first(lambda: free_space(checkpoints, _checkpoint_bytes(model)))

    def save(step: int) -> None:
        if checkpoints is None:
            return
        broken = _not_finite(model, of="data")
        ranks.agree(
            _problem(f"made weights that are not finite in {broken}", step, batch.rows) if broken else None
        )
        drawn, others = randomness.everywhere(ranks)
        read, place = loader.state()
        tensors = {"model": _weights(model), "optimizer": optimizers.state(), "random": drawn}
        tensors |= {"data": read} if read else {}
        state = {**place, "random": others, "scaling": scaler.state(), "frozen": _frozen(model)}
        checkpoint.save(
            checkpoints, checkpoint.Checkpoint(step, tensors, state), config.keep, ranks, config.sharded
        )

    model.train()
    with listening() as request:
        while done < config.steps:
            started = time.perf_counter()
            batch = loader.next()
            count, read = map(int, ranks.sum(batch.count, batch.tokens))
            if count == 0:
                ranks.agree(_problem("has nothing to train: every target is masked", done + 1, batch.rows))
            total = 0.0
            for micro in batch.split(config.micro_batch_size or config.batch_size):
                with computing(config.precision, device):
                    loss = stage.loss(model, micro.to(device))
                value = float(loss.detach())
                finite = math.isfinite(value)
                ranks.agree(None if finite else _problem(f"has a loss of {value}", done + 1, micro.rows))
                (scaler.scaled(loss) / count).backward()
                del loss  # its graph, though empty now, would lie between the blocks of the next forward
                total += value
            ranks.reduce(model)
            norm = ranks.norm(model) / scaler.scale
            skipped = scaler.skips(norm)
            if not (skipped or math.isfinite(norm)):
                place = _not_finite(model, of="grad") or "its norm"
                ranks.agree(_problem(f"has a gradient that is not finite in {place}", done + 1, batch.rows))
            share = optim.factor(config.optim, done, config.steps)
            if not skipped:
                _scale_gradients(model, scaler.factor(norm, config.optim.clip))
                optimizers.step(share)
            optimizers.zero_grad()
            done, scale = done + 1, scaler.scale
            scaler.update(skipped)
            if skipped:
                report(
                    f"step {done} overflows float16 and is skipped; the loss scale is {scaler.scale:g} now"
                )
            (total,) = ranks.sum(total)
            try:
                yield Step(
                    number=done, steps=config.steps, loss=total / count, lr=config.lr * share, grad_norm=norm,
                    targets=count, tokens=read, seconds=time.perf_counter() - started,
                    memory_bytes=peak_memory_bytes(), epoch=loader.epoch, loss_scale=scale, skipped=skipped,
                )  # fmt: skip
            except GeneratorExit:
                ranks.most(LEFT)
                save(done)
                raise
            stop = ranks.most(request.number or 0)
            if stop or done % config.save_every == 0 or done == config.steps:
                save(done)
            if stop == LEFT and done < config.steps:
                raise UserError(
                    f"another process has left training after step {done}; everything is saved",
                    where=_run_of(checkpoints), fix="read what it says; the same command goes on",
                )  # fmt: skip
            if stop and done < config.steps:
                raise Interrupted(stop, done, _run_of(checkpoints))


def _run_of(checkpoints: Path | None) -> str:
    return "" if checkpoints is None else str(checkpoints.parent)


def _products(config: Config) -> torch.dtype:
    """In which numbers matrices are multiplied outside of autocast."""
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def _checkpoint_bytes(model: nn.Module) -> int:
    """Room that the next checkpoint needs, beside those that are there: weights and at most two averages of each."""
    return sum(3 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _resume(
    model: nn.Module,
    optimizers: optim.Optimizers,
    scaler: Scaler,
    loader: Loader,
    folder: Path | None,
    report: Callable[[str], None],
    ranks: Ranks,
) -> int:
    if folder is None:
        return 0
    path, faults = ranks.from_first(lambda: checkpoint.find(folder))
    for fault in faults:
        report(f"passed over a damaged checkpoint: {fault}")
    if path is None:
        if not ranks.first:  # the first process has its random state from the model's making, as it has alone
            randomness.seed(loader.seed + ranks.rank)
        return 0
    found = checkpoint.read(Path(path))
    frozen, begun = _frozen(model), found.state.get("frozen")
    if frozen and begun and frozen != begun:
        raise UserError(
            "the frozen weights are others than when this run began", where=str(path),
            why="a checkpoint holds what is trained; the rest comes from the base, which has changed",
            fix="put the old base back, or start anew with another --out",
        )  # fmt: skip
    model.load_state_dict(_with_tied(model, found.tensors["model"]), strict=False)
    optimizers.restore(found.tensors.get("optimizer", {}))
    scaler.restore(found.state.get("scaling", scaler.state()))
    loader.restore(found.tensors.get("data", {}), found.state)
    if not randomness.restore(found.tensors["random"], found.state["random"], ranks.rank):
        randomness.seed(loader.seed + found.step * ranks.world + ranks.rank)
    report(f"resumed after step {found.step}")
    return found.step


def _storages(model: nn.Module) -> dict[str, int]:
    """For every name what it is tied by: two names of one tensor have the same number."""
    shares = {n: id(p) for n, p in model.named_parameters(remove_duplicate=False) if shards.is_share(p)}
    return {name: shares.get(name) or tensor.data_ptr() for name, tensor in model.state_dict().items()}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight that is not frozen, once: tied names share storage, which safetensors refuses."""
    storages = _storages(model)
    owner = {storage: name for name, storage in reversed(storages.items())}
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    packed = [f"{path}." for path, module in model.named_modules() if is_quantized(module)]
    frozen |= {name for name, _ in model.named_buffers() if name.startswith(tuple(packed))}
    weights = ((name, tensor) for name, tensor in model.state_dict().items() if name not in frozen)
    return {name: tensor for name, tensor in weights if owner[storages[name]] == name}


def _frozen(model: nn.Module) -> str:
    """Of the frozen weights, to tell that the base is another one; empty for shares."""
    if any(shards.is_share(parameter) for parameter in model.parameters()):
        return ""
    return fingerprint((name, p) for name, p in model.named_parameters() if not p.requires_grad)


def _with_tied(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` with the names that were left out because they are tied to another, cut as the model's are."""
    storages = _storages(model)
    owner = {storage: name for name, storage in storages.items() if name in weights}
    return {
        name: shards.cut_like(weights[owner[storages[name]]], tensor)
        for name, tensor in model.state_dict().items()
        if storages[name] in owner
    }


def _gradients(model: nn.Module) -> list[Tensor]:
    return [shards.own(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]


def _scale_gradients(model: nn.Module, scale: float) -> None:
    if scale < 1.0:
        torch._foreach_mul_(_gradients(model), scale)


def _not_finite(model: nn.Module, of: str) -> str:
    """Names of the trained parameters whose `data` or `grad` holds a NaN or an infinity; empty if none."""
    trained = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    found = ((name, getattr(parameter, of)) for name, parameter in trained)
    own = ((name, shards.own(tensor)) for name, tensor in found if tensor is not None)
    names = [name for name, tensor in own if not bool(tensor.isfinite().all())]
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _problem(what: str, step: int, rows: list[str]) -> UserError:
    shown = "; ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    return UserError(
        f"step {step} {what}",
        where=shown,
        why="training on would write it into every weight; the last checkpoint is good",
        fix="look at these rows; for a loss that is not finite also lower train.lr or use train.precision=fp32",
    )
