"""Two network namespaces are two hosts: they train one model, one is lost, and the job ends as if it had not been."""

from __future__ import annotations

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

STEPS, PATIENCE_S = 60, 900
SETTINGS = [
    "model=nano", "model.width=32", "model.context=64", "model.dropout=0.1", "tokenizer.vocab=300",
    "train.batch_size=8", "train.save_every=5", "train.keep=100", "train.precision=fp32", "train.eval_every=7",
    f"train.steps={STEPS}", "sample.max_new_tokens=4", "seed=5",
]  # fmt: skip
HOSTS = {"lmcraft-a": "10.77.0.1", "lmcraft-b": "10.77.0.2"}
INTERFACE, PORT = "lm0", 29477


def _ip(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)


def _can_make_hosts() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = _ip("netns", "add", "lmcraft-probe").returncode == 0
    return made and _ip("netns", "delete", "lmcraft-probe").returncode == 0


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces with a cable between them."""
    commands = [
        *(["netns", "add", host] for host in HOSTS),
        ["link", "add", "lmcraft-0", "type", "veth", "peer", "name", "lmcraft-1"],
    ]
    for number, (host, address) in enumerate(HOSTS.items()):
        commands += [
            ["link", "set", f"lmcraft-{number}", "netns", host, "name", INTERFACE],
            ["-n", host, "address", "add", f"{address}/24", "dev", INTERFACE],
            ["-n", host, "link", "set", INTERFACE, "up"],
            ["-n", host, "link", "set", "lo", "up"],
        ]
    try:
        for command in commands:
            done = _ip(*command)
            assert done.returncode == 0, (command, done.stderr)
        yield
    finally:
        for host in HOSTS:
            for process in _ip("netns", "pids", host).stdout.split():
                os.kill(int(process), signal.SIGKILL)
            _ip("netns", "delete", host)


def launch(host: str, job: str, log: Path, data: Path, place: Path, kind: str) -> subprocess.Popen:
    """torchrun on one host; the agents meet at the first one."""
    first = HOSTS["lmcraft-a"]
    command = [
        "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run",
        "--nnodes=2", "--nproc-per-node=1", "--max-restarts=5", "--rdzv-backend=c10d", f"--rdzv-id={job}",
        f"--rdzv-endpoint={first}:{PORT}", f"--local-addr={HOSTS[host]}",
        "-m", "lmcraft", "train", "pretrain", f"data={data}", *SETTINGS, f"train.parallel={kind}", "--out", str(place),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACE}
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
@pytest.mark.parametrize("kind,lost", [("ddp", "agent"), ("ddp", "host"), ("fsdp", "host")])
def test_a_job_on_two_hosts_survives_the_loss_of_one(tmp_path, hosts, kind, lost):
    """A failure would mean that a machine that is lost takes the work of the others with it, or changes the result."""
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": r.text}) + "\n" for r in synthetic.texts(40, seed=0)))
    logs = [tmp_path / f"{host}.log" for host in HOSTS]

    def start(number: int, job: str, place: Path) -> subprocess.Popen:
        return launch([*HOSTS][number], job, logs[number], data, place, kind)

    job, place = uuid.uuid4().hex, tmp_path / "run"
    agents = [start(0, job, place), start(1, job, place)]
    reach(place, 10, agents, logs)
    second = [int(pid) for pid in _ip("netns", "pids", "lmcraft-b").stdout.split()]
    for process in [agents[1].pid] if lost == "agent" else second:
        os.kill(process, signal.SIGKILL)
    agents[1].wait(timeout=60)
    assert int(Path(checkpoint.find(place / "checkpoints")[0]).name[5:]) < STEPS, (
        "it was over before the loss"
    )
    agents[1] = start(1, job, place)
    codes = [agent.wait(timeout=PATIENCE_S) for agent in agents]
    assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    assert "resumed after step" in logs[0].read_text()

    job, whole = uuid.uuid4().hex, tmp_path / "whole"
    agents = [start(0, job, whole), start(1, job, whole)]
    assert [agent.wait(timeout=PATIENCE_S) for agent in agents] == [0, 0]
    (found, rows), (expected, expected_rows) = facts(place), facts(whole)
    assert rows == expected_rows and found.state == expected.state
    for part, tensors in expected.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[part][name], tensor), f"{part} {name}"
