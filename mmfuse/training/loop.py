"""In which order does a run do things?

    step ─ log (one step late, so that the device never waits) ─ checkpoint ─ evaluate

A run that is stopped at any moment goes on from its last checkpoint, and its record is that of a run that was never
stopped: an evaluation that was not finished is made up for. SIGTERM and SIGINT save first: nothing is done again.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from input_pipeline.collate import Loaded
from input_pipeline.loader import load
from input_pipeline.rejections import Rejections
from mmfuse.objectives.cost import model_flops_utilization
from mmfuse.training.alarm import CollapseAlarm
from mmfuse.training.checkpoint import Checkpointer
from mmfuse.training.metrics import MetricWriter, format_progress
from mmfuse.training.processes import StopSignals, first_decides
from mmfuse.training.sharding import place
from mmfuse.training.state import TrainState
from mmfuse.types import DataError, MmfuseError

LOGGER = logging.getLogger(__name__)
MOST_SKIPPED = 10  # updates in a row that may be left out before a run stops


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


class Program(NamedTuple):
    """A compiled step, (state, batches) → (state, metrics), and its FLOPs on all devices."""

    step: Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Any]]]
    flops: float


class Run(NamedTuple):
    """What a run is made of.

    Attributes:
      program: number of a step → its program.
      streams: name → what gives step n's batch at index n.
      evaluate: state → named numbers.
      rows: examples of one step on all devices.
    """

    program: Callable[[int], Program]
    streams: Mapping[str, Sequence[Loaded]]
    evaluate: Callable[[TrainState], dict[str, float]]
    mesh: Mesh
    checkpointer: Checkpointer
    writer: MetricWriter
    rows: int


def train(
    run: Run,
    state: TrainState,
    tally: Counter,
    *,
    steps: int,
    log_every: int,
    evaluate_every: int,
    workers: int,
    rejected_share: float,
) -> tuple[TrainState, Counter]:
    """Trains from the state's step up to `steps`.

    Args:
      run: its parts.
      state: to start from; its buffers are given up.
      tally: of records read so far.
      steps: updates in all.
      log_every: steps between progress lines; every step is in `metrics.jsonl`.
      evaluate_every: steps between evaluations; the last step is always evaluated.
      workers: threads that prepare data.
      rejected_share: the most of a source's records that may be rejected.

    Returns:
      The state after the last step and the tally.

    Raises:
      Stopped: a signal came, and the state has been saved.
      MmfuseError: too many updates in a row were not finite.
      DataError: too many records of a source were rejected.
    """
    first = int(state.step)

    def evaluates(step):
        return step == steps or step % evaluate_every == 0

    if first and evaluates(first) and not first_decides(run.writer.is_evaluated(first)):
        run.writer.write_evaluation(first, run.evaluate(state))
    clock = _Clock(run, first, steps)
    logged, rejections, failure, alarm = None, Rejections(rejected_share), None, CollapseAlarm()
    with StopSignals() as signals:
        for step, loaded in zip(
            range(first + 1, steps + 1), clock.wait(load(run.streams, range(first, steps), workers=workers))
        ):
            batches = {name: place(ready.batch, run.mesh) for name, ready in loaded.items()}
            tally = sum((ready.tally for ready in loaded.values()), tally)
            failure = failure or _check(rejections, loaded.values(), tally, signals)
            state, metrics = run.program(step).step(state, batches)
            clock.running = metrics["skipped"]
            if logged is not None:
                _log(run, clock, alarm, *logged, log_every)
            logged = step, metrics, tally
            stops = signals.received(step)
            saves = stops or evaluates(step) or run.checkpointer.due(step)
            if saves:
                _log(run, clock, alarm, *logged, log_every)
                logged = None
                run.writer.flush()
                run.checkpointer.save(step, state, {"step": step, "tally": dict(tally)})
            if stops and step < steps:
                run.checkpointer.wait()
                raise failure or Stopped(f"stopped at step {step} of {steps}; the same command goes on from there")
            if evaluates(step):
                run.writer.write_evaluation(step, run.evaluate(state))
                clock.restart()
    run.checkpointer.wait()
    return state, tally


def _check(rejections, loaded, tally, signals) -> DataError | None:
    """Raises what is wrong; one of several processes has all of them stop at the same step, and returns it."""
    try:
        rejections.check(loaded, tally)
    except DataError as error:
        if jax.process_count() == 1:
            raise
        signals.pass_on()
        return error
    return None


def _log(run, clock, alarm, step, metrics, tally, log_every):
    metrics = jax.device_get(metrics)
    if metrics["skipped"] >= MOST_SKIPPED:
        raise MmfuseError(
            f"step {step}: the loss or the gradient was not finite {MOST_SKIPPED} times in a row; the last state that "
            "was is in the checkpoints. Look at the data of these steps, or begin anew with a lower learning rate."
        )
    run.writer.write_step(step, {**metrics, **{f"data/{name}": count for name, count in sorted(tally.items())}})
    alarm.watch(step, metrics)
    timing = clock.tick(step)
    run.writer.write_timing(step, timing)
    if step % log_every == 0:
        numbers = {name: timing[name] for name in ("examples_per_second", "mfu", "wait_share", "seconds_left")}
        LOGGER.info(format_progress(step, clock.steps, float(metrics["loss"]), **numbers))


class _Clock:
    """Measures steps, and how much of them was waiting for data.

    Attributes:
      running: a number that the step before computes. While it is not there the device has work, and does not wait.
    """

    running: Any = None  # an array; the type lacks `is_ready`

    def __init__(self, run: Run, step: int, steps: int):
        self.run, self.steps, self.step = run, steps, step
        self.last, self.waited, self.rate = time.perf_counter(), 0.0, None

    def wait(self, batches: Iterator) -> Iterator:
        """Passes batches on, and counts the time that each took to come where the device was done before it came."""
        while True:
            start = time.perf_counter()
            try:
                ready = next(batches)
            except StopIteration:
                return
            if self.running is None or self.running.is_ready():
                self.waited += time.perf_counter() - start
            yield ready

    def restart(self) -> None:
        """Leaves out what came since the last tick: it was no training."""
        self.last, self.waited = time.perf_counter(), 0.0

    def tick(self, step: int) -> dict[str, float]:
        """The numbers of the steps since the last tick."""
        now, number = time.perf_counter(), step - self.step
        seconds = (now - self.last) / number
        # a running mean over about 20 steps tells the time that is left
        self.rate = seconds if self.rate is None else self.rate + 0.05 * (seconds - self.rate)
        timing = {
            "seconds": seconds,
            "examples_per_second": self.run.rows / seconds,
            "mfu": model_flops_utilization(self.run.program(step).flops, seconds, self.run.mesh.devices.flatten()),
            "wait_share": min(1.0, self.waited / (now - self.last)),
            "seconds_left": self.rate * (self.steps - step),
        }
        self.last, self.step, self.waited = now, step, 0.0
        return timing
