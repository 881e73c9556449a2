"""How many steps fit into the minutes that a person has?

The pace is measured once, on the run's own step and data, and the number of steps is written down with the config: a
run that goes on reads it, since the learning rate's schedule depends on it. The minutes hold what is spent from the
start of this measurement to the last step; evaluation comes on top.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from input_pipeline.loader import load
from mmfuse.experiment import Experiment
from mmfuse.training.sharding import place
from mmfuse.types import ConfigError

LOGGER = logging.getLogger(__name__)
WARM, TIMED = 2, 60  # steps
SHARE = 0.05  # of the minutes, for measuring


def fit_to_minutes(experiment: Experiment, saved: Mapping[str, Any]) -> Experiment:
    """The run with steps for its `train.minutes`, at most `train.steps`, and a warm-up of a tenth at most.

    Args:
      experiment: of a resolved config. What was measured with stays: its tokenizer and its streams.
      saved: the config that the workdir's run began with, whose steps stand; empty where none has begun.

    Raises:
      ConfigError: the minutes are over before the first step.
    """
    config = experiment.config
    minutes = config.train.get("minutes")
    if not minutes:
        return experiment
    steps = saved["train"]["steps"] if saved else _affordable(experiment, 60 * minutes)
    fitted = config.copy_and_resolve_references()
    fitted.train.steps = steps
    fitted.optimizer.warmup = min(config.optimizer.warmup, steps // 10)
    return experiment.with_config(fitted)


def _affordable(experiment, seconds) -> int:
    start = time.perf_counter()
    experiment.evaluation.open()
    pace, compiling = measure_pace(experiment, SHARE * seconds)
    # the step is compiled again, for its own number of steps
    before = time.perf_counter() - start + compiling
    most = experiment.config.train.steps
    steps = int(multihost_utils.broadcast_one_to_all(np.int32(min(most, (seconds - before) // pace))))
    if steps < 1:
        raise ConfigError(
            f"train.minutes={seconds / 60:g} are over before the first step: one takes {pace:.2f} s, and compiling "
            f"and measuring it, which come before, {before:.0f} s. Write more minutes."
        )
    LOGGER.info("%.3f s a step: %d steps in %g minutes", pace, steps, seconds / 60)
    return steps


def measure_pace(experiment: Experiment, seconds: float) -> tuple[float, float]:
    """Seconds of one step, waiting for data included, and of compiling it. Nothing is kept of these steps.

    Args:
      experiment: the run.
      seconds: when they are over no further step is begun, unless other processes might begin one.
    """
    start = time.perf_counter()
    step = experiment.traced_step.lower().compile()
    compiling = time.perf_counter() - start
    state, workers = experiment.maker.create(experiment.config.seed), experiment.config.loader.workers
    for number, loaded in enumerate(load(experiment.streams, range(WARM + TIMED), workers=workers)):
        if number == WARM:
            start = time.perf_counter()
        state, _ = step(state, {name: place(ready.batch, experiment.mesh) for name, ready in loaded.items()})
        jax.block_until_ready(state)
        if number >= WARM and time.perf_counter() - start > seconds and jax.process_count() == 1:
            break
    return (time.perf_counter() - start) / (number + 1 - WARM), compiling
