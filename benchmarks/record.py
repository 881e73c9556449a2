"""How does a measurement become a result?

One JSON line in `results/`: the command, the git hash, the seed, the machine, the numbers. `benchmarks/tables.py` makes
the tables in `docs/` of them.
"""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mmfuse.training.workdir import provenance

RESULTS = Path(__file__).parent.parent / "results"


def append(name: str, *, command: str, seed: int | None, numbers: Mapping[str, Any]) -> None:
    """Adds a line to `results/{name}.jsonl` and prints it."""
    line = {"command": command, "seed": seed, **provenance(), "machine": machine(), **numbers}
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=2))


def read(name: str) -> list[dict[str, Any]]:
    """All lines of `results/{name}.jsonl`."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def machine() -> str:
    """Devices, cores and processor, in words."""
    return f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {_processor()}"


def _processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
