"""Training with weights and averages on disk: the same numbers, and less memory, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TRAINING = """
import json, sys
from collections import Counter
import torch
from pathlib import Path
from lmcraft.data.loader import Loader
from lmcraft.data.records import Where
from lmcraft.data.tokens import Document, write
from lmcraft.models import decoder, model
from lmcraft.train import loop, optim
from lmcraft.train.loss import summed_cross_entropy

torch.set_num_threads(1)
kind, folder = sys.argv[1], Path(sys.argv[2])

class Stage:
    def loss(self, net, batch):
        return summed_cross_entropy(net, net(batch.tokens_BT, batch.segments_BT), batch.targets_BT)

def peak():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) * 1024

torch.manual_seed(0)
net = model.build(decoder.Config(vocab=40, context=8, layers=4, width=512, heads=4, mlp_width=2048))
if sys.argv[3] == "frozen":
    net.requires_grad_(False)
    net.blocks[0].attn_norm.requires_grad_(True)
    net.norm.requires_grad_(True)
shard = write(folder / "shard", [Document(list(range(9)), None, Where("x", 1))] * 4, 40, {}, Counter())
config = loop.Config(
    steps=3, batch_size=2, lr=1e-2, precision="fp32", offload=kind, optim=optim.Config(kind="adamw")
)
losses, resident = [], 0
for step in loop.train(Stage(), net, Loader(shard, 8, 2, seed=0), config, folder / "c", print):
    losses.append(step.loss)
    if step.number == 1:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
        resident = 0
    if step.number == 3:
        resident = peak()
weights = sum(p.nbytes for p in net.parameters())
total = sum(float(p.double().abs().sum()) for p in net.parameters())
print(json.dumps({"losses": losses, "peak": resident, "weights": weights, "total": total}))
"""


def trained(kind: str, which: str, folder: Path) -> dict:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, kind, str(folder), which],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind,which,share", [("optimizer", "all", 1.2), ("parameters", "frozen", 0.5)])
def test_peak_memory_falls_and_no_number_changes(kind, which, share, tmp_path):
    """A failure would mean that offload costs time and saves nothing, or trains another model."""
    inside, outside = (trained(k, which, tmp_path / k) for k in ("none", kind))
    assert outside["losses"] == inside["losses"] and outside["total"] == inside["total"]
    assert inside["peak"] - outside["peak"] > share * inside["weights"]
