"""What did finished runs reach, and how much of it is the seed's doing?

A finished run becomes one line of `results/{name}.jsonl`, of which the tables in `docs/` are made: its command, seed,
git hash, versions and machine, how long its steps took, and its summary. All of this is read from the run's folder;
nothing is measured here.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmfuse.analysis.record import read_record, time_spent

RESULTS = Path(__file__).parent.parent / "results"
NOT_FINITE = ("nan", "inf", "-inf")  # as `MetricWriter` writes them
SEED = re.compile(r"--config\.seed[= ]\S+")


class Spread(NamedTuple):
    """A number over seeds: its mean, its standard deviation (with n − 1; of one seed 0), and the n seeds that have it.
    Where one of them is not finite, neither is the spread: both are nan.

    Formatted it is `mean ± deviation`, and the number alone where there is one seed.
    """

    mean: float
    deviation: float
    seeds: int

    def __format__(self, form: str) -> str:
        return " ± ".join(format(part, form) for part in self[: min(self.seeds, 2)])


def over_seeds(runs: Iterable[Mapping[str, Any]]) -> dict[str, Spread]:
    """Number → what it is over those that have it of summaries, or lines, one of each seed."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.items():
            if isinstance(value, int | float) or value in NOT_FINITE:
                found.setdefault(name, []).append(float(value))
    return {name: _spread(values) for name, values in found.items()}


def _spread(values: Sequence[float]) -> Spread:
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, len(values))
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def newest_of_each_seed(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest line of each seed, of those whose command is that of the last line but for the seed; by seed."""
    commands = [without_seed(line["command"]) for line in lines]
    newest = {line["seed"]: line for line, command in zip(lines, commands) if command == commands[-1]}
    return [newest[seed] for seed in sorted(newest)]


def without_seed(command: str) -> str:
    """A command without the flag that says its seed."""
    return " ".join(SEED.sub("", command).split())


def runs_in_words(runs: Sequence[Mapping[str, Any]]) -> str:
    """What was run over which seeds, where, and how long it took; runs of one experiment, see `newest_of_each_seed`."""
    took, seeds = over_seeds(runs), ", ".join(str(run["seed"]) for run in runs)
    machines = " and ".join(dict.fromkeys(run["machine"] for run in runs))
    whose = f"seed {seeds} alone" if len(runs) == 1 else f"seeds {seeds}, mean ± standard deviation"
    what = f"`{without_seed(runs[0]['command'])}`, {machines}, {whose}"
    return f"{what}: {took['steps']:,.0f} steps in {took['minutes']:.1f} minutes."


def run_line(workdir: str | Path) -> dict[str, Any]:
    """The line of a finished run.

    Raises:
      CheckpointError: it has no summary.
    """
    record = read_record(workdir)
    return {
        "command": " ".join(["python main.py", *record.provenance["flags"]]),
        "seed": record.config["config"]["seed"],
        **record.provenance,
        "steps": len(record.timing),
        "minutes": time_spent(workdir)["time/wall_seconds"] / 60,
        "summary": record.summary,
    }


def add_run(path: Path, line: Mapping[str, Any]) -> bool:
    """Appends a run's line to a file of results, and says so; a run that is there is not added again."""

    def identity(line):
        # no two runs take the same time to the last bit; a summary may be made again
        return {name: value for name, value in line.items() if name != "summary"}

    if any(identity(line) == identity(there) for there in read_lines(path)):
        return False
    append_line(path, line)
    return True


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Appends a line to a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a file of results, the oldest first; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
