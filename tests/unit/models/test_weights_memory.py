"""Loading and saving keep a model's weights in memory once, measured from outside in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lmcraft.models import decoder, model, weights

KINDS = {
    "llama": {"tied": False},
    "gpt2": {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": "all"},
}
MEASURE = """
import sys
from pathlib import Path
import torch
from lmcraft.models import decoder, model, weights

def memory(which):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))

torch.set_num_threads(1)
here = Path(sys.argv[1])
weights.save(model.build(decoder.Config(vocab=5, layers=1, width=8, heads=1)), here / "small")  # loads what is lazy
weights.load(here / "small")
before = memory("VmRSS")
net = weights.load(here / "model")
loaded = memory("VmHWM") - before
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
weights.save(net, here / "again")
saved = memory("VmHWM") - before
print(sum(p.numel() * 4 for p in net.parameters()), loaded, saved)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=["F32", "BF16"])
def test_weights_are_in_memory_once(kind, stored, tmp_path):
    """A second copy would mean that a model fits into memory but cannot be loaded, or be trained but not saved."""
    config = decoder.Config(vocab=12000, context=64, layers=5, width=512, heads=8, **KINDS[kind])
    weights.save(model.build(config).to(stored), tmp_path / "model")
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], check=True, capture_output=True, text=True
    )
    size, loaded, saved = map(int, output.stdout.split())
    assert size > 80_000_000
    assert 0.9 * size < loaded < 1.25 * size
    assert saved < 0.25 * size
