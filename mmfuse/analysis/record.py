"""What does a run's folder say of the run?

Reads the files that training and evaluation write, and orders their numbers. A control is a number beside which another
one stands: `vqa/accuracy_blind` is the control `blind` of `vqa/accuracy`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmfuse.types import CheckpointError

CONTROLS = ("chance", "majority", "blind", "question_only", "no_evidence")
EXAMPLES = "examples"
# What people ask for first, by the ends of names, in this order.
HEADLINES = ("accuracy", "recall_at_1", "attribute_f1", "cider", "digits")


class Record(NamedTuple):
    """A run: its folder's name, numbers, lines by step, config, provenance, and examples that were looked at."""

    name: str
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    config: dict[str, Any]
    provenance: dict[str, Any]
    examples: dict[str, Any]


def read_record(workdir: str | Path, evaluation: str = "") -> Record:
    """Reads a workdir.

    Args:
      workdir: of a run that was evaluated.
      evaluation: the name of the evaluation, see `config.eval.name`.

    Raises:
      CheckpointError: there is no summary: nothing was evaluated there.
    """
    folder = Path(workdir)
    summary = folder / named("summary", evaluation, ".json")
    if not summary.exists():
        raise CheckpointError(f"{summary} is missing: train the run to its end, or evaluate it with --mode=evaluate.")
    metrics, timing, steps = (_lines(folder / f"{name}.jsonl") for name in ("metrics", "timing", "evaluation"))
    config, provenance = (_object(folder / f"{name}.json") for name in ("config", "provenance"))
    examples = _object(folder / named(EXAMPLES, evaluation, ".json"))
    numbers = json.loads(summary.read_text())
    name = folder.resolve().name + (f", evaluated as {evaluation}" if evaluation else "")
    return Record(name, numbers, metrics, timing, steps, config, provenance, examples)


def time_spent(workdir: str | Path) -> dict[str, float]:
    """What `timing.jsonl` says of all steps: `time/wall_seconds`, and `data/wait_share` of them, 0 … 1."""
    steps = _lines(Path(workdir) / "timing.jsonl")
    seconds = float(sum(step["seconds"] for step in steps))
    waited = sum(step["seconds"] * step["wait_share"] for step in steps)
    return {"time/wall_seconds": seconds, "data/wait_share": waited / seconds if seconds else 0.0}


def named(what: str, evaluation: str, ending: str = "") -> str:
    """The name of what an evaluation writes: `report.html`, or `report-{evaluation}.html`; folders have no ending."""
    return f"{what}-{evaluation}{ending}" if evaluation else f"{what}{ending}"


def write_examples(workdir: str | Path, examples: dict[str, Any], evaluation: str = "") -> None:
    """Writes examples that were looked at where `read_record` finds them."""
    path = Path(workdir) / named(EXAMPLES, evaluation, ".json")
    path.write_text(json.dumps(examples, allow_nan=False) + "\n")


def split_control(name: str) -> tuple[str, str]:
    """`vqa/accuracy_blind/colour` → (`vqa/accuracy/colour`, `blind`); the control is '' of a number that is none.

    What comes first is an evaluator, whatever it is called.
    """
    parts = name.split("/")
    for index, part in enumerate(parts[1:], 1):
        for control in CONTROLS:
            if part.endswith(f"_{control}"):
                return "/".join([*parts[:index], part.removesuffix(f"_{control}"), *parts[index + 1 :]]), control
    return name, ""


def with_controls(summary: Mapping[str, Any]) -> dict[str, dict[str, int | float]]:
    """Number → {"": its value, control → that of the control}, in the order of the summary."""
    found: dict[str, dict[str, int | float]] = {}
    for name, value in summary.items():
        if isinstance(value, int | float):
            number, control = split_control(name)
            found.setdefault(number, {})[control] = value
    return {number: values for number, values in found.items() if "" in values}


def headlines(summary: Mapping[str, Any], most: int = 6) -> list[str]:
    """The numbers that people ask for first."""
    ranked = [
        (rank, name)
        for name in with_controls(summary)
        for rank, end in enumerate(HEADLINES)
        if name.split("/")[-1] == end
    ]
    return [name for _, name in sorted(ranked, key=lambda pair: pair[0])][:most]


def curves(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Number → (step, value) of every line that has it; counts of records are no curve."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and not name.startswith("data/"):
                found.setdefault(name, []).append((line["step"], float(value)))
    return found


def _lines(path) -> list[dict[str, Any]]:
    """Of every whole line; a last line without its end was cut by a kill and is passed over."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _object(path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
