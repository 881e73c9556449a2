"""What does a run write down, so that a killed and resumed run leaves the same record?

`metrics.jsonl` holds one JSON line per step, 1, 2, 3, …, and `evaluation.jsonl` one per evaluation. Both are functions
of the run alone: no clock, no host name. What depends on the clock goes to `timing.jsonl`. All three are mirrored to
TensorBoard. Process 0 alone writes.

The promise of a byte-identical record rests on two calls. `flush` makes the lines durable before a checkpoint is
started, so a checkpoint of step n implies the lines up to n. `rewind(n)` drops what was written after n. A `kill -9`
at any moment then leaves the lines of the last checkpoint, further whole lines, and at most one half line.

What is measured, and when it is written, is decided by the loop.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tensorboardX import SummaryWriter

from mmfuse.types import CheckpointError

METRICS, EVALUATION, TIMING = "metrics", "evaluation", "timing"


class MetricWriter:
    """Writes numbers by step to JSON lines and to TensorBoard.

    Numbers are read back exactly: a float is the shortest decimal that names it. JSON has no words for the others, so
    they are the strings "nan", "inf" and "-inf", which Python's `float` reads.
    """

    def __init__(self, workdir: str | Path) -> None:
        self.workdir = Path(workdir)
        self.step = 0  # the last one in metrics.jsonl
        self._first = 1  # the first one that this process writes
        self._primary = jax.process_index() == 0
        self._files: dict[str, TextIO] = {}
        if self._primary:
            self.workdir.mkdir(parents=True, exist_ok=True)

    def rewind(self, step: int) -> None:
        """Drops all that was written after `step`. A run that resumes calls it first; a fresh one is at step 0.

        Raises:
          CheckpointError: if the lines of `metrics.jsonl` up to `step` are not 1, 2, …, `step`; nothing is dropped.
        """
        self.close()
        self.step, self._first = step, step + 1
        if not self._primary:
            return
        kept = {name: [line for at, line in _lines(self._path(name)) if at <= step] for name in self._written()}
        self._check_complete([at for at, _ in _lines(self._path(METRICS)) if at <= step])
        for name, lines in kept.items():
            _replace(self._path(name), "".join(lines))

    def steps_recorded(self) -> int:
        """The last step of which there is a line, 0 where there is none."""
        return max((at for at, _ in _lines(self._path(METRICS))), default=0)

    def is_evaluated(self, step: int) -> bool:
        """Whether there are results of the state after `step`."""
        return any(at == step for at, _ in _lines(self._path(EVALUATION)))

    def write_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the metrics (name → number) of one step, which must be the one after the last."""
        if step != self.step + 1:
            raise ValueError(
                f"Step {step} cannot follow step {self.step} in {self._path(METRICS)}: call `rewind` first."
            )
        self.step = step
        self._write(METRICS, step, values)

    def write_evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the results (name → number) of evaluators on the state after `step`."""
        self._write(EVALUATION, step, values)

    def write_timing(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes numbers that depend on the clock or the machine (name → number)."""
        self._write(TIMING, step, values)

    def flush(self) -> None:
        """Returns when every line so far is on the disk: to be called before a checkpoint is started."""
        for file in self._files.values():
            os.fsync(file.fileno())
        if self._files:
            self._tensorboard.flush()
            _sync_folder(self.workdir)

    def close(self) -> None:
        """Flushes and closes the files. A later write opens them again."""
        self.flush()
        for file in self._files.values():
            file.close()
        self._files.clear()
        if "_tensorboard" in self.__dict__:
            self._tensorboard.close()
            del self._tensorboard

    def _path(self, name: str) -> Path:
        return self.workdir / f"{name}.jsonl"

    def _written(self) -> list[str]:
        return [name for name in (METRICS, EVALUATION, TIMING) if self._path(name).exists()]

    @cached_property
    def _tensorboard(self) -> SummaryWriter:
        # TensorBoard hides what an earlier process wrote from `purge_step` on. The name holds the step because
        # tensorboardX alone names files by the second, and a second writer would truncate the first one's file.
        folder, suffix = str(self.workdir / "tensorboard"), f".{self._first}"
        return SummaryWriter(folder, purge_step=self._first, filename_suffix=suffix)

    def _write(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        if not self._primary:
            return
        numbers = {key: np.asarray(value).item() for key, value in values.items()}
        if name not in self._files:
            # Line-buffered: a line is with the kernel, and outlives this process, once it has been written.
            self._files[name] = self._path(name).open("a", buffering=1, encoding="utf-8")
        encoded = {key: _encode(number) for key, number in numbers.items()}
        self._files[name].write(json.dumps({"step": step} | encoded, allow_nan=False) + "\n")
        for key, number in numbers.items():
            self._tensorboard.add_scalar(f"{name}/{key}", number, step)

    def _check_complete(self, steps: list[int]) -> None:
        if steps == list(range(1, self.step + 1)):
            return
        wrong = next((i for i, at in enumerate(steps, 1) if at != i), len(steps) + 1)
        raise CheckpointError(
            f"{self._path(METRICS)} does not hold every step up to {self.step}, where the run would resume: "
            f"line {wrong} should be step {wrong}. Put the file back, or start in a fresh workdir."
        )


def format_progress(
    step: int, steps: int, loss: float, examples_per_second: float, mfu: float, wait_share: float, seconds_left: float
) -> str:
    """Returns one readable line about a running run.

    Args:
      step, steps: updates done and updates in all.
      loss: of the last step.
      examples_per_second: over all devices.
      mfu: model FLOPs utilization, 0 to 1.
      wait_share: share of the time in which the step waited for data, 0 to 1.
      seconds_left: estimate of the time until the last step.
    """
    minutes, seconds = divmod(round(seconds_left), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"step {step}/{steps}  loss {loss:.4f}  {examples_per_second:,.1f} examples/s  MFU {mfu:.1%}  "
        f"waiting for data {wait_share:.1%}  {hours}:{minutes:02}:{seconds:02} left"
    )


def _encode(number: int | float) -> int | float | str:
    return number if math.isfinite(number) else str(number)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (step, line) for every whole line; a last line without its end was cut by a kill and is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{path}, line {number}, is no record of a step: {line[:80]!r}. "
                    "Put the file back, or start in a fresh workdir."
                ) from error
            yield step, line


def _replace(path: Path, text: str) -> None:
    """Gives the file a new content: after a crash at any moment it has the old one or the new one, whole."""
    fresh = path.with_suffix(".tmp")
    with fresh.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable; a file's own fsync covers its content alone."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
