"""Two network namespaces are two hosts: they train one model, one is lost, and the job ends as if it had not been."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lmcraft.data import synthetic
from lmcraft.train import checkpoint

STEPS, PATIENCE_S = 60, 240
SETTINGS = [
    "model=nano", "model.width=32", "model.context=64", "model.dropout=0.1", "tokenizer.vocab=300",
    "train.batch_size=8", "train.save_every=5", "train.keep=100", "train.precision=fp32", "train.eval_every=7",
    f"train.steps={STEPS}", "sample.max_new_tokens=4", "seed=5",
]  # fmt: skip
# No other test, nor another run of this one, has hosts of these names.
HOSTS = {f"lmcraft-{os.getpid()}-a": "10.77.0.1", f"lmcraft-{os.getpid()}-b": "10.77.0.2"}
FIRST, SECOND = HOSTS
INTERFACE, PORT = "lm0", 29477


def _ip(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)


def _can_make_hosts() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    probe = f"lmcraft-{os.getpid()}-probe"
    made = _ip("netns", "add", probe).returncode == 0
    return made and _ip("netns", "delete", probe).returncode == 0


def plug_in(host: str, end: str) -> list[list[str]]:
    """The commands that give a host its end of the cable."""
    return [
        ["link", "set", end, "netns", host, "name", INTERFACE],
        ["-n", host, "address", "add", f"{HOSTS[host]}/24", "dev", INTERFACE],
        ["-n", host, "link", "set", INTERFACE, "up"],
        ["-n", host, "link", "set", "lo", "up"],
    ]


def carry_out(commands: list[list[str]]) -> None:
    for command in commands:
        done = _ip(*command)
        assert done.returncode == 0, (command, done.stderr)


def kill_all_of(host: str) -> None:
    for process in _ip("netns", "pids", host).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces with a cable between them."""
    ends = [f"lm{os.getpid()}-{number}" for number in range(2)]
    try:
        carry_out([["netns", "add", host] for host in HOSTS])
        carry_out([["link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]])
        for host, end in zip(HOSTS, ends, strict=True):
            carry_out(plug_in(host, end))
        yield
    finally:
        for host in HOSTS:
            kill_all_of(host)
            _ip("netns", "delete", host)


def lose_power() -> None:
    """The second host goes without a word to the first one, and comes back knowing of no connection."""
    carry_out([["-n", FIRST, "link", "set", INTERFACE, "down"]])
    kill_all_of(SECOND)
    end = f"lm{os.getpid()}-1"
    carry_out([
        ["-n", FIRST, "link", "delete", INTERFACE], ["netns", "delete", SECOND], ["netns", "add", SECOND],
        ["link", "add", "lm-new", "netns", FIRST, "type", "veth", "peer", "name", end],
    ])  # fmt: skip
    carry_out([["-n", FIRST, "link", "set", "lm-new", "name", INTERFACE]])
    carry_out(plug_in(FIRST, "")[1:] + plug_in(SECOND, end))


def launch(host: str, job: str, log: Path, data: Path, place: Path, kind: str) -> subprocess.Popen:
    """torchrun on one host; the agents meet at the first one."""
    command = [
        "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run",
        "--nnodes=2", "--nproc-per-node=1", "--max-restarts=5", "--rdzv-backend=c10d", f"--rdzv-id={job}",
        f"--rdzv-endpoint={HOSTS[FIRST]}:{PORT}", f"--rdzv-conf=is_host={int(host == FIRST)}",
        f"--local-addr={HOSTS[host]}",
        "-m", "lmcraft", "train", "pretrain", f"data={data}", *SETTINGS, f"train.parallel={kind}", "--out", str(place),
    ]  # fmt: skip
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACE, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"
    }  # fmt: skip
    with log.open("a") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file)


def reach(place: Path, step: int, agents: list[subprocess.Popen], logs: list[Path]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while int(Path(checkpoint.find(place / "checkpoints")[0] or "step-0").name[5:]) < step:
        said = "\n".join(log.read_text()[-3000:] for log in logs)
        assert all(agent.poll() is None for agent in agents), said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def facts(place: Path) -> tuple[checkpoint.Checkpoint, list]:
    found, faults = checkpoint.newest(place / "checkpoints")
    assert found is not None and found.step == STEPS and not faults
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    names = ("step", "loss", "grad_norm", "targets", "eval_loss")
    return found, [[row.get(name) for name in names] for row in rows]


@pytest.mark.long
@pytest.mark.skipif(not _can_make_hosts(), reason="network namespaces need root and iproute2")
@pytest.mark.parametrize("kind,lost", [("ddp", "agent"), ("ddp", "power"), ("fsdp", "processes")])
def test_a_job_on_two_hosts_survives_the_loss_of_one(tmp_path, hosts, kind, lost):
    """A failure would mean that a machine that is lost takes the work of the others with it, or changes the result."""
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": r.text}) + "\n" for r in synthetic.texts(40, seed=0)))
    logs = [tmp_path / f"{host}.log" for host in "ab"]

    def start(number: int, job: str, place: Path) -> subprocess.Popen:
        return launch([FIRST, SECOND][number], job, logs[number], data, place, kind)

    job, place = uuid.uuid4().hex, tmp_path / "run"
    agents = [start(0, job, place), start(1, job, place)]
    reach(place, 10, agents, logs)
    {"agent": agents[1].kill, "processes": lambda: kill_all_of(SECOND), "power": lose_power}[lost]()
    agents[1].wait(timeout=60)
    assert int(Path(checkpoint.find(place / "checkpoints")[0]).name[5:]) < STEPS, (
        "it was over before the loss"
    )
    agents[1] = start(1, job, place)
    codes = [agent.wait(timeout=PATIENCE_S) for agent in agents]
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    said = logs[0].read_text()
    assert "resumed after step" in said and "no plan to compare" not in said

    job, whole = uuid.uuid4().hex, tmp_path / "whole"
    agents = [start(0, job, whole), start(1, job, whole)]
    assert [agent.wait(timeout=PATIENCE_S) for agent in agents] == [0, 0]
    (found, rows), (expected, expected_rows) = facts(place), facts(whole)
    assert rows == expected_rows and found.state == expected.state
    for part, tensors in expected.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[part][name], tensor), f"{part} {name}"
