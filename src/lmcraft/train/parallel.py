"""Several processes that train one model, started by torchrun: how they agree, and how gradients are summed.

    ddp    every process holds the whole model; gradients are summed once a step, after the last micro-batch
    fsdp   every process holds a share of every tensor (FSDP2); a block is put together when it computes, gradients are
           summed as its backward ends, and each process updates its share

1. Losses are sums and only the loop divides, by the targets of the whole step over all processes. So gradients are
   summed, never averaged, and N processes give the update of one however unevenly targets are spread.
2. The processes agree before they act: on a problem, on a signal, on the checkpoint to go on from. If one of them
   stops alone, the others stop with a message; after its end the same command goes on from the last checkpoint.
3. Small things (counts, messages, random states) go through gloo as tensors; there is no pickle among them.
4. A process whose torchrun is killed gets SIGTERM, so nobody trains on unseen.

Zhao et al. 2023, arXiv 2304.11277 (FSDP); Li et al. 2020, arXiv 2006.15704 (DDP).
Proved by tests/parallel/.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.log import say
from ..models.model import fingerprint
from . import shards

Parallel = Literal["auto", "none", "ddp", "fsdp"]
PATIENCE_S = 1800  # of a collective; reading data is waited for without a limit
PREPARING = timedelta(days=7)
BUCKET_ELEMENTS = 1 << 23
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # torchrun reads it
OF_THE_NETWORK = ("gloo", "NCCL", "caused pair closure")  # words in errors of the libraries that send
_PR_SET_PDEATHSIG = 1


class Ranks:
    """The processes of a run, seen from one of them; alone, it is the only one and nothing is sent.

    Args:
        rank: which process this is; the first one (0) writes the run and speaks.
        world: how many there are.
        kind: "none", "ddp" or "fsdp".
    """

    def __init__(self, rank: int = 0, world: int = 1, kind: str = "none") -> None:
        self.rank, self.world, self.kind = rank, world, kind
        self._empty: nn.Module | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    @property
    def together(self) -> bool:
        """Whether there is a process group, be it of one process."""
        return self.kind != "none"

    def sum(self, *numbers: float) -> tuple[float, ...]:
        """Each number summed over all processes; whole numbers stay exact up to 2⁵³."""
        return self._reduced(numbers, dist.ReduceOp.SUM) if self.together else numbers

    def most(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return int(self._reduced((number,), dist.ReduceOp.MAX)[0]) if self.together else number

    def _reduced(self, numbers: tuple[float, ...], how: Any) -> tuple[float, ...]:
        box = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(box, op=how)
        return tuple(box.tolist())

    def agree(self, problem: UserError | None) -> None:
        """Raises in every process if any of them has a problem; the first one that has tells its own."""
        if not self.together:
            if problem is not None:
                raise problem
            return
        if not self.most(problem is not None):
            return
        parts = (
            {}
            if problem is None
            else {name: getattr(problem, name) for name in ("what", "where", "why", "fix")}
        )
        told = next(json.loads(each) for each in self.exchange(json.dumps(parts).encode()) if each != b"{}")
        error = UserError(told.pop("what"), **told)
        error.everywhere = True
        raise error from problem

    def exchange(self, content: bytes) -> list[bytes]:
        """The bytes that each process gives, in the order of ranks."""
        if not self.together:
            return [content]
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(lengths, torch.tensor([len(content)]))
        room = max(1, *(int(length) for length in lengths))
        own = torch.zeros(room, dtype=torch.uint8)
        own[: len(content)] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)]
        boxes = [torch.zeros(room, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(boxes, own)
        return [box[: int(n)].numpy().tobytes() for box, n in zip(boxes, lengths, strict=True)]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes (a JSON value), told to all; its UserError is raised in all."""
        if not self.together:
            return make()
        value, problem = None, None
        if self.first:
            try:
                value = make()
            except UserError as error:
                problem = error
        self.agree(problem)
        return json.loads(self.exchange(json.dumps(value).encode())[0])

    @contextlib.contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Runs its body in the first process, then in the others, who find what it has left on the disk.

        Unlike a collective, this has no limit of time: data can be read for hours.
        """
        if not self.together:
            yield
            return
        store = dist.PrefixStore(f"lmcraft/{next(_turns)}", dist.distributed_c10d._get_default_store())
        if not self.first:
            store.wait(["first"], PREPARING)
            if store.get("first") == b"failed":
                error = UserError(
                    f"process {self.rank} of {self.world} was not needed: the first one has stopped"
                )
                error.everywhere = True
                raise error
            yield
            return
        try:
            yield
        except BaseException:
            store.set("first", "failed")
            raise
        store.set("first", "done")

    def ready(self, model: nn.Module, products: torch.dtype = torch.float32) -> None:
        """Sees that all processes start from the same weights, and under fsdp leaves each its share of them.

        Args:
            products: in which numbers matrices are multiplied.

        Raises:
            UserError: the weights differ, as from bases of one name on two machines.
        """
        if not self.together:
            return
        for parameter in model.parameters():
            if parameter.requires_grad:  # fresh ones are drawn a little differently by different processors
                dist.broadcast(parameter.data, src=0)
        if len(set(self.exchange(_fingerprint(model)))) > 1:
            raise UserError(
                "the processes do not start from the same weights", where=f"process {self.rank} of {self.world}",
                why="a base is not the same on all machines, or their versions of lmcraft or torch differ",
                fix="copy the base from one machine to the others",
            )  # fmt: skip
        if self.kind == "fsdp":
            self._empty = shards.split(model, products)

    def reduce(self, model: nn.Module) -> None:
        """Sums the gradients over all processes, where that has not happened in the backward."""
        if not self.together:
            return
        own = [p for p in model.parameters() if p.requires_grad and not shards.is_share(p)]
        if not own:
            return
        there = torch.tensor([p.grad is not None for p in own], dtype=torch.uint8)
        dist.all_reduce(there, op=dist.ReduceOp.MAX)
        bucket: list[Tensor] = []
        for parameter, anywhere in zip(own, there.tolist(), strict=True):
            if (
                not anywhere
            ):  # without a gradient in every process: the optimizer leaves it alone, as it does alone
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            full = sum(g.numel() for g in bucket) + parameter.numel() > BUCKET_ELEMENTS
            if bucket and (full or bucket[0].dtype != parameter.grad.dtype):
                _sum_together(bucket)
                bucket = []
            bucket.append(parameter.grad)
        if bucket:
            _sum_together(bucket)

    def norm(self, model: nn.Module) -> float:
        """The Euclidean norm of all gradients, each number counted once."""
        whole = [p.grad for p in model.parameters() if p.grad is not None and not shards.is_share(p)]
        norm = float(torch.nn.utils.get_total_norm(whole)) if whole else 0.0
        shares = [shards.own(p.grad) for p in model.parameters() if p.grad is not None and shards.is_share(p)]
        if self.kind != "fsdp":
            return norm
        square = float(torch.nn.utils.get_total_norm(shares)) ** 2 if shares else 0.0
        return (norm**2 + self.sum(square)[0]) ** 0.5

    def whole(self, model: nn.Module) -> nn.Module | None:
        """The model with all of its weights, in the main memory of the first process; None in the others."""
        if self._empty is None:
            return model if self.first else None
        return shards.joined(model, self._empty, self.first)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Turns what a library says when another process has gone into a message."""
        try:
            yield
        except UserError:
            raise
        except RuntimeError as error:
            broken = isinstance(error, dist.DistError) or any(word in str(error) for word in OF_THE_NETWORK)
            if not self.together or not broken:
                raise
            if (own := _before(error)) is not None:
                raise own from error
            raise UserError(
                f"process {self.rank} of {self.world} has lost the others",
                why=f"one of them has stopped, or cannot be reached: {str(error).splitlines()[0][:200]}",
                fix="read what the first one that stopped says; the same command goes on from the last checkpoint",
            ) from error


def _before(error: BaseException) -> UserError | None:
    """The problem of this process on which it left the others, before they were gone."""
    earlier = error.__context__
    while earlier is not None and not isinstance(earlier, UserError):
        earlier = earlier.__context__
    return earlier


ALONE = Ranks()
_turns = itertools.count()


def begin(kind: Parallel, named: bool = True, patience_s: int = PATIENCE_S) -> Ranks:
    """Joins the other processes, if torchrun started this one; may be called again.

    Args:
        kind: train.parallel.
        named: whether the run's directory was given.
        patience_s: how long one of them waits for the others before it takes them for lost.

    Raises:
        UserError: fsdp without torchrun, `none` with it, or restarts of a run without a name.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if not launched:
        if kind == "fsdp":
            raise UserError(
                "train.parallel=fsdp needs torchrun", where="train.parallel=fsdp",
                why="a model is sharded over processes, and there is only this one",
                fix=f"{_command()}; or train.parallel=none to go on with one process",
            )  # fmt: skip
        return ALONE
    if kind == "none" and world > 1:
        raise UserError(
            f"torchrun has started {world} processes, and train.parallel=none says there is one",
            where="train.parallel=none", fix="leave train.parallel out, or choose ddp or fsdp",
        )  # fmt: skip
    if not named and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise UserError(
            "a run that torchrun may restart needs a name", where="--max-restarts",
            why="without one, every restart would begin a new run", fix="add --out DIRECTORY",
        )  # fmt: skip
    if kind == "none":
        return ALONE
    if not dist.is_initialized():
        _join(timedelta(seconds=patience_s))
        if kind == "auto":
            say(f"{world} processes: each holds the whole model (train.parallel=ddp)")
        warn_of_shared_store()
    return Ranks(dist.get_rank(), dist.get_world_size(), "ddp" if kind == "auto" else kind)


def _join(patience: timedelta) -> None:
    _end_with_parent()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=patience)


def warn_of_shared_store() -> None:
    """Says so where torchrun will not let another machine take the place of a lost one.

    Its agents share one store by default, and tell its address in the first round of restarts only: a machine that
    joins later waits for it in vain, and after a minute all agents end.
    """
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    if several and restarts and os.environ.get(OWN_STORE) != "1":
        say(
            f"a lost machine cannot be replaced in this job: start torchrun with {OWN_STORE}=1 on all machines"
        )


def _fingerprint(model: nn.Module) -> bytes:
    """Tells apart models of other weights, and those of which other weights are trained."""
    return fingerprint((f"{name} {p.requires_grad}", p) for name, p in model.named_parameters()).encode()


def _end_with_parent() -> None:
    """Asks Linux for SIGTERM when torchrun dies: killed, it cannot tell its processes to stop."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _command() -> str:
    """The command line of this process, under torchrun."""
    count = torch.cuda.device_count() or 2
    return f"torchrun --standalone --nproc-per-node={count} -m lmcraft {shlex.join(sys.argv[1:])}".rstrip()


def _sum_together(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
