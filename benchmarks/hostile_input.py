"""What does the input side survive? Bad records, bombs, traps and fuzz, for every source that reads people's files.

    python -m benchmarks.hostile_input

This is the long form; `tests/input_pipeline/test_hostile_input.py` is the short one. Appends to
results/hostile_input.jsonl, of which `python -m benchmarks.tables` makes docs/hostile_input.md. Takes half an hour.
"""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks import hostile_config
from benchmarks.hostile import fuzz, records
from benchmarks.record import append
from input_pipeline.collate import Loaded
from input_pipeline.loader import load
from input_pipeline.sources.contract import Source
from input_pipeline.streams import Recipe, evaluation_stream, training_stream
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import train_tokenizer
from mmfuse.build_data import make_source

ROOT = Path(__file__).parent.parent
ALLOWED = {0.0: (0.1,), 0.001: (0.1,), 0.01: (0.1,), 0.1: (0.2, 0.05), 0.5: (0.6, 0.1)}  # share that is bad → allowed


# --- bad records ------------------------------------------------------------------------------------------------------


def write_sources(folder: Path, number: int, share: float, *, seed: int) -> dict[str, list[str | None]]:
    """Writes so many records in each format, and `sources.json`; returns the plan of each."""
    plans, configs = {}, {}
    for turn, (name, write) in enumerate(records.WRITERS.items()):
        plans[name] = records.plan_records(name, number, share, seed=seed + turn)
        place = folder / name
        place.mkdir(parents=True)
        configs[name] = write(place, records.make_records(plans[name]))
    (folder / "sources.json").write_text(json.dumps(configs))
    return plans


def open_sources(folder: Path) -> dict[str, Source]:
    """The sources that were written, in the order in which a config gives them: by name."""
    configs = json.loads((folder / "sources.json").read_text())
    return {name: make_source(ConfigDict(config), ("image", "audio")) for name, config in sorted(configs.items())}


def make_recipe() -> Recipe:
    """What the stream of `hostile_config` makes of a record, smaller."""
    specs = {role: TextSpec(**spec) for role, spec in hostile_config.captions().items()}
    return Recipe({"image": (8, 8), "audio": (800,)}, specs, train_tokenizer(["number one"] * 3, vocab_size=300))


def reasons(tally: Mapping[str, int], source: str) -> Counter[str]:
    """Reason → how many records of a source were rejected for it."""
    prefix = f"{source}/rejected/"
    return Counter({name.removeprefix(prefix): count for name, count in tally.items() if name.startswith(prefix)})


def balanced(tally: Mapping[str, int]) -> bool:
    """Whether read = used + Σ rejected, for every source."""
    sources = {name.partition("/")[0] for name in tally}
    return all(
        tally[f"{source}/read"] == tally.get(f"{source}/used", 0) + reasons(tally, source).total() for source in sources
    )


def counts_are_exact(sources: Mapping[str, Source], plans: Mapping[str, list[str | None]], recipe: Recipe) -> bool:
    """Whether each record, read once, is used or rejected for the very reason that it was written with."""
    exact = True
    for name, source in sources.items():
        tally = sum((loaded.tally for loaded in evaluation_stream(name, source, recipe, rows=50)), Counter())
        exact &= balanced(tally) and tally[f"{name}/read"] == len(plans[name])
        exact &= reasons(tally, name) == records.expected_reasons(plans[name])
    return exact


def read_steps(sources: Mapping[str, Source], recipe: Recipe, steps: range, *, workers: int) -> Iterator[Loaded]:
    """The batches that a run with seed 0 reads."""
    rows = hostile_config.ROWS
    stream: Any = training_stream(sources, dict.fromkeys(sources, 1.0), recipe, rows=rows, seed=0)
    return (ready["pairs"] for ready in load({"pairs": stream}, steps, workers=workers))


def what_was_read(batches: Iterator[Loaded]) -> list[Any]:
    """Step by step: which records, which of them could not be used, and why."""
    return [(loaded.batch.origin.tolist(), loaded.rejected, loaded.tally) for loaded in batches]


def train(folder: Path, allowed: float, tallies: list[Counter], *, interrupted: bool) -> dict[str, Any]:
    """A real run, stopped once in the middle; whether its counts, step by step, are those of the stream."""
    workdir = folder / f"run-{allowed}"
    command = [sys.executable, "main.py", f"--config=benchmarks/hostile_config.py:{folder}", f"--workdir={workdir}"]
    command += [f"--config.loader.rejected_share={allowed}", f"--config.train.steps={len(tallies)}"]
    written, codes = workdir / "metrics.jsonl", []
    for turn in range(1 + interrupted):
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while turn < interrupted and process.poll() is None:
                if written.exists() and written.read_text().count("\n") > len(tallies) // 3:
                    process.send_signal(signal.SIGTERM)
                    break
                time.sleep(0.05)
            _, said = process.communicate()
        codes.append(process.returncode)
    lines = [json.loads(line) for line in written.read_text().splitlines()] if written.exists() else []
    counted = [{name[5:]: count for name, count in line.items() if name.startswith("data/")} for line in lines]
    running, expected = Counter(), []
    for tally in tallies:
        running = running + tally
        expected.append(dict(running))
    agrees = counted == expected[: len(counted)] and all(map(balanced, counted))
    named = "were rejected, more than" in said
    return {"allowed": allowed, "exit_codes": codes, "steps": len(lines), "counts_agree": agrees, "named": named}


def bad_records(number: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """For each share of bad records: what is counted, and how real runs end."""
    recipe = make_recipe()
    for share, allowances in ALLOWED.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plans = write_sources(folder, number // len(records.WRITERS), share, seed=seed)
            sources, steps = open_sources(folder), number // hostile_config.ROWS
            once = what_was_read(read_steps(sources, recipe, range(steps), workers=0))
            again = what_was_read(read_steps(sources, recipe, range(steps // 2), workers=3))
            later = what_was_read(read_steps(open_sources(folder), recipe, range(steps // 2, steps), workers=2))
            tallies = [tally for _, _, tally in once]
            total = sum(tallies, Counter())
            yield {
                "share": share,
                "read": sum(total[f"{source}/read"] for source in sources),
                "used": sum(total[f"{source}/used"] for source in sources),
                "rejected": sum(reasons(total, source).total() for source in sources),
                "balanced": balanced(total),
                "exact": counts_are_exact(sources, plans, recipe),
                "same_order": once == again + later,
                "runs": [train(folder, allowed, tallies, interrupted=allowed > share) for allowed in allowances],
            }


# --- bombs, traps and fuzz --------------------------------------------------------------------------------------------


def in_a_process(module: str) -> list[dict[str, Any]]:
    """The JSON lines that a module prints."""
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def fuzzed(cases: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Every family, in its share of the cases."""
    total = sum(share for share, _ in fuzz.FAMILIES.values())
    for family, (share, _) in fuzz.FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            yield fuzz.run(family, cases * share // total, seed=seed, folder=Path(folder))


PARTS: Mapping[str, Callable[[argparse.Namespace], Iterable[dict[str, Any]]]] = {
    "fuzz": lambda options: fuzzed(options.cases, seed=options.seed),
    "bombs": lambda options: in_a_process("benchmarks.hostile.bombs"),
    "traps": lambda options: in_a_process("benchmarks.hostile.traps"),
    "records": lambda options: bad_records(options.records, seed=options.seed),
}


def main() -> None:
    """Runs the battery, and appends to results/hostile_input.jsonl a line for each part, when it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    os.environ.setdefault("MMFUSE_CACHE", tempfile.mkdtemp())
    for part in options.parts:
        command = f"python -m benchmarks.hostile_input --parts {part}"
        append("hostile_input", command=command, seed=options.seed, numbers={part: list(PARTS[part](options))})


if __name__ == "__main__":
    main()
