"""How long does the tiny experiment take from the command to its first step, and for all of its steps?

    python -m benchmarks.tiny

The first run fills a compilation cache of its own; the others find it warm. A clock outside of the process looks for
lines in `metrics.jsonl`: a line is written when its step is done. Medians over the warm runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import append

ROOT = Path(__file__).parent.parent
COMMAND = "main.py --config=configs/tiny.py"


def run(workdir: Path, cache: Path) -> dict[str, float]:
    """Seconds to the first step, from the first to the last step, and in all; medians of the steps' own numbers."""
    start, first = time.perf_counter(), None
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    process = subprocess.Popen([sys.executable, *COMMAND.split(), f"--workdir={workdir}"], cwd=ROOT, env=environment)
    lines = workdir / "metrics.jsonl"
    while process.poll() is None:
        if first is None and lines.exists() and lines.stat().st_size:
            first = time.perf_counter() - start
        time.sleep(0.01)
    if process.returncode or first is None:
        raise RuntimeError(f"{COMMAND} ended with {process.returncode}")
    total = time.perf_counter() - start
    steps = [json.loads(line) for line in (workdir / "timing.jsonl").read_text().splitlines()]
    return {
        "first_step_seconds": first,
        "steps_seconds": sum(step["seconds"] for step in steps[1:]),
        "total_seconds": total,
        "wait_share": statistics.median(step["wait_share"] for step in steps),
        "mfu": statistics.median(step["mfu"] for step in steps),
    }


def main() -> None:
    """Measures, and appends to results/tiny.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="warm runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cold = run(Path(folder, "cold"), Path(folder, "cache"))
        warm = [run(Path(folder, f"warm{i}"), Path(folder, "cache")) for i in range(options.runs)]
        summary = json.loads(Path(folder, "warm0", "summary.json").read_text())
    numbers = {name: statistics.median(found[name] for found in warm) for name in warm[0]}
    numbers |= {"cold_first_step_seconds": cold["first_step_seconds"], "runs": options.runs}
    append("tiny", command="python -m benchmarks.tiny", seed=0, numbers={**numbers, "summary": summary})


if __name__ == "__main__":
    main()
