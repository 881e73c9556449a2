"""What do experiments reach over several seeds?

    python -m mmfuse.sweep --out=runs/quickstart --seeds=0,1,2 configs/quickstart.py
    python -m mmfuse.sweep --out=runs/wide --seeds=0,1 configs/tiny.py configs/emoji.py -- --config.train.steps=500

One run after another on this machine, each of them `main.py` in a folder of its own, OUT/{config}-seed{k}: first one
seed of each config, then the second seed of each, and so on. What stands behind `--` goes to all of them. Each finished
run becomes a line of results/{config}.jsonl, once, and the end is a table of what was reached.

The same command goes on after a stop: runs resume, and one that is complete says so. Exit codes: 0 done, 1 a run failed
and the others were made, 2 a wrong command, 75 stopped and ready to go on.
"""

import argparse
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmfuse.results import RESULTS, add_run, over_seeds, run_line

MAIN = Path(__file__).parent.parent / "main.py"
DONE, FAILED, STOPPED = 0, 1, 75
# What the sweep says itself, to each run another thing.
OWN = re.compile(r"--?(config|config\.seed|workdir|mode)(=.*)?")


class Planned(NamedTuple):
    """A run: what its config is called, its seed, its folder, and the command that makes it, or goes on with it."""

    name: str
    seed: int
    workdir: Path
    command: list[str]


def plan(configs: Sequence[str], seeds: Sequence[int], out: Path, changes: Sequence[str]) -> list[Planned]:
    """One seed of each config first, then the second seed of each, …"""
    runs = []
    for seed in seeds:
        for config in configs:
            name = config_name(config)
            workdir = out / f"{name}-seed{seed}"
            own = [f"--config={config}", f"--workdir={workdir}", f"--config.seed={seed}"]
            runs.append(Planned(name, seed, workdir, [sys.executable, str(MAIN), *own, *changes]))
    return runs


def config_name(config: str) -> str:
    """`configs/own_data.py:base` → `own_data_base`."""
    file, _, argument = config.partition(":")
    return "_".join(re.findall(r"[\w.-]+", f"{Path(file).stem} {argument}"))


def sweep(runs: Sequence[Planned], results: Path) -> int:
    """Makes all runs and prints what they reached; returns the exit code."""
    reached: dict[str, list[Mapping[str, Any]]] = {}
    failed = []
    with _OneByOne() as one_by_one:
        for number, run in enumerate(runs, 1):
            print(f"[{number}/{len(runs)}] {' '.join(run.command)}", flush=True)
            code = one_by_one(run.command)
            if code == STOPPED:
                print("the sweep is stopped; the same command goes on from there", flush=True)
                return STOPPED
            if code:
                failed.append(f"{run.workdir}: failed with exit code {code}")
                print(failed[-1], flush=True)
                continue
            line = run_line(run.workdir)
            add_run(results / f"{run.name}.jsonl", line)
            reached.setdefault(run.name, []).append(line["summary"])
    print("\n".join([*table(reached), *failed]))
    return FAILED if failed else DONE


def table(reached: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Lines of a Markdown table of what configs reached, given the summaries of each; one for each seed."""
    lines = ["| config | number | mean ± standard deviation | seeds |", "|---|---|---:|---:|"]
    for name, summaries in reached.items():
        numbers = over_seeds(summaries)
        lines += [f"| {name} | {key} | {number:,.3f} | {number.seeds} |" for key, number in numbers.items()]
    return lines


class _OneByOne:
    """Runs programs. When it is told to stop, it tells the program that runs, and lets no other go on."""

    def __init__(self):
        self.process, self.stops = None, False

    def __enter__(self):
        self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self, command: Sequence[str]) -> int:
        """Returns the program's exit code, or STOPPED."""
        self.process = subprocess.Popen(command)
        if self.stops:  # it came before there was a program to be told
            self.process.terminate()
        code = self.process.wait()
        return STOPPED if self.stops else code

    def _receive(self, number, frame):
        self.stops = True
        if self.process is not None:
            self.process.send_signal(number)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mmfuse.sweep",
        description=(__doc__ or "").split("\n")[0],
        epilog="What stands behind -- goes to every run: -- --config.train.steps=500",
    )
    parser.add_argument("configs", nargs="+", help="files of configs/, with :argument where they take one")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs' folders")
    parser.add_argument("--seeds", type=_seeds, required=True, help="such as 0,1,2")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="where finished runs become lines; trials elsewhere"
    )
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given, changes = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    for config in given.configs:
        if not Path(config.partition(":")[0]).exists():
            parser.error(f"there is no config {config}")
    if len(set(map(config_name, given.configs))) < len(given.configs):
        parser.error("two configs have the same name: their runs would share a folder")
    for change in changes:
        if OWN.fullmatch(change):
            parser.error(f"{change}: the sweep itself says this to each run, another thing to each")
    return sweep(plan(given.configs, given.seeds, given.out, changes), given.results)


def _seeds(text):
    seeds = text.split(",")
    if not all(map(str.isdecimal, seeds)) or len(set(map(int, seeds))) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text}: write different whole numbers with commas, such as 0,1,2")
    return [int(seed) for seed in seeds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
