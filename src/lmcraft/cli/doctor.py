"""Looks at this machine: what is here, how fast it is, and what each missing thing costs.

Proved by tests/cli/test_doctor.py.
"""

from __future__ import annotations

import platform
import shutil
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.device import home, memory_bytes, threads
from ..core.log import say
from ..core.run import free_bytes
from .output import emit, table

GIB = 1 << 30
MEASURE_S = 0.4
OPTIONAL_PACKAGES = {
    "pyarrow": ("data", "Parquet files cannot be read"),
    "datasketch": ("data", "near-duplicates are not found; exact ones are"),
    "sqlalchemy": ("feedback", "`lmcraft feedback` keeps no ratings"),
    "psycopg": ("postgres", "ratings are kept in SQLite only"),
    "transformers": ("dev", "parity tests against the reference are skipped"),
    "hypothesis": ("dev", "property tests are skipped"),
}
OPTIONAL_PROGRAMS = {
    "strace": "tests that fail or kill at every system call are skipped",
    "git": "the repository cannot be updated; training does not need it",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: its name, what was found, and what it costs if that is not good (else None)."""

    name: str
    found: str
    cost: str | None = None


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Looks at this machine: what is here, how fast it is, and what each missing thing costs."""
    say("looking at this machine, about 2 s")
    findings = [*_machine(), *_torch(), *_packages(), *_programs()]
    emit(
        {"findings": [asdict(finding) for finding in findings]},
        as_json,
        table(
            ("", "found", "what it costs"), [(item.name, item.found, item.cost or "") for item in findings]
        ),
    )


def _machine() -> list[Finding]:
    memory, disk, store = memory_bytes(), free_bytes(Path.cwd()), free_bytes(home())
    small = "models of more than about 100 million parameters will not train" if memory < 4 * GIB else None
    full = "checkpoints may not fit; training says so before it starts" if disk < 2 * GIB else None
    return [
        Finding("python", platform.python_version()),
        Finding("system", platform.platform()),
        Finding("cores", str(threads()), "one core: everything is slow" if threads() == 1 else None),
        Finding("memory", f"{memory / GIB:.1f} GiB", small),
        Finding("disk here", f"{disk / GIB:.1f} GiB free", full),
        Finding("disk of the store", f"{store / GIB:.1f} GiB free in {home()}"),
    ]


def _torch() -> list[Finding]:
    import torch

    findings = [Finding("torch", torch.__version__)]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            findings.append(Finding(f"cuda:{index}", f"{about.name}, {about.total_memory / GIB:.0f} GiB"))
    else:
        findings.append(Finding("gpu", "none", "only small models train in reasonable time"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    single, half = (_gflops(device, dtype) for dtype in (torch.float32, torch.bfloat16))
    slow = "bf16 is slower than fp32 here; use precision fp32" if half < single else None
    return [
        *findings,
        Finding("fp32", f"{single:,.0f} GFLOP/s on {device}"),
        Finding("bf16", f"{half:,.0f} GFLOP/s on {device}", slow),
    ]


def _gflops(device: Any, dtype: Any) -> float:
    """Speed of a matrix product as large as those of a small model's layers, in 10^9 operations a second."""
    import torch

    size = 512 if device.type == "cpu" else 4096
    a_NN = torch.ones(size, size, device=device, dtype=dtype)
    products, began = 0, 0.0
    while products == 0 or time.perf_counter() - began < MEASURE_S:
        result_NN = a_NN @ a_NN
        result_NN[0, 0].item()  # waits for the device
        if began == 0.0:
            began = time.perf_counter()  # the first product is not counted: it sets up threads and kernels
        else:
            products += 1
    return products * 2 * size**3 / (time.perf_counter() - began) / 1e9


def _packages() -> list[Finding]:
    findings = []
    for package, (extra, cost) in OPTIONAL_PACKAGES.items():
        if find_spec(package) is None:
            findings.append(Finding(package, "missing", f"{cost}; pip install 'lmcraft[{extra}]'"))
        else:
            findings.append(Finding(package, metadata.version(package)))
    return findings


def _programs() -> list[Finding]:
    return [
        Finding(program, "here") if shutil.which(program) else Finding(program, "missing", cost)
        for program, cost in OPTIONAL_PROGRAMS.items()
    ]
