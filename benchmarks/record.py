"""How does a measurement become a result?

One JSON line in `results/`: the command, the git hash, the seed, the machine, the numbers. `benchmarks/tables.py` makes
the tables in `docs/` of them.
"""

import json
from collections.abc import Mapping
from typing import Any

from mmfuse.results import RESULTS, append_line, read_lines
from mmfuse.training.workdir import provenance


def append(name: str, *, command: str, seed: int | None, numbers: Mapping[str, Any]) -> None:
    """Adds a line to `results/{name}.jsonl` and prints it."""
    line = {"command": command, "seed": seed, **provenance(), **numbers}
    append_line(RESULTS / f"{name}.jsonl", line)
    print(json.dumps(line, indent=2))


def read(name: str) -> list[dict[str, Any]]:
    """All lines of `results/{name}.jsonl`."""
    return read_lines(RESULTS / f"{name}.jsonl")
