"""The loop saves before it evaluates, makes up for what was not evaluated, and times training alone.

What a step computes is made up; files, checkpoints and signals are real.
"""

import json
import os
import signal
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.collate import Loaded
from mmfuse.training.checkpoint import Checkpointer
from mmfuse.training.loop import Program, Run, Stopped, train
from mmfuse.training.metrics import MetricWriter
from mmfuse.training.sharding import make_mesh, replicated
from mmfuse.training.state import TrainState

ROWS = 8


class Numbers:
    """Step n's rows are all n; they take their time."""

    seconds = 0.0

    def __getitem__(self, step):
        time.sleep(self.seconds)
        tally = Counter({"src/read": ROWS, "src/used": ROWS})
        return Loaded({"x": np.full((ROWS, 2), float(step), np.float32)}, tally, [], [], [])


@pytest.fixture
def run(tmp_path):
    """Trains in a folder from where it stands; returns the steps that were evaluated, and all lines by file."""
    mesh = make_mesh(data=1)
    begin = jax.jit(
        lambda: TrainState({"w": jnp.zeros((3,))}, {}, {}, {}, jnp.int32(0), jnp.int32(0)),
        out_shardings=replicated(mesh),
    )

    @jax.jit
    def step(state, batches):
        square = jax.lax.fori_loop(0, run.products, lambda _, x: x @ x, jnp.zeros((512, 512)))
        w = state.trainable["w"] + batches["numbers"]["x"].mean() + square[0, 0]
        return state.replace(trainable={"w": w}, step=state.step + 1), {"loss": w.sum(), "skipped": state.skipped}

    def run(evaluate, *, steps=7, evaluate_every=3):
        writer, evaluated = MetricWriter(tmp_path), []
        checkpointer = Checkpointer(tmp_path / "checkpoints", every=100, keep=2)

        def measure(state):
            evaluated.append(int(state.step))
            return evaluate(state) or {"sum": float(state.trainable["w"].sum())}

        state = begin()
        if checkpointer.latest_step() is not None:
            sharding = replicated(mesh)
            state, _ = checkpointer.restore(
                jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
            )
        writer.rewind(int(state.step))
        parts = Run(lambda _: Program(step, 1e6), {"numbers": Numbers()}, measure, mesh, checkpointer, writer, ROWS)
        settings = {"log_every": 100, "evaluate_every": evaluate_every, "workers": 0, "rejected_share": 0.1}
        try:
            train(parts, state, Counter(), steps=steps, **settings)
        finally:
            writer.close()
            checkpointer.close()
            run.saved = checkpointer.latest_step()
        return evaluated

    run.products = 0  # of matrices, in a step
    run.lines = lambda name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    return run


def fail(state):
    raise RuntimeError("an evaluator that fails")


@pytest.mark.parametrize("at", [3, 7])
def test_an_evaluation_that_fails_loses_no_step_and_is_made_up_for(run, at):
    with pytest.raises(RuntimeError, match="an evaluator that fails"):
        run(lambda state: fail(state) if state.step == at else None)
    assert run.saved == at
    assert run(lambda state: None) == [step for step in (3, 6, 7) if step >= at]
    assert [(line["step"], line["sum"]) for line in run.lines("evaluation")] == [(3, 9.0), (6, 45.0), (7, 63.0)]
    assert [line["step"] for line in run.lines("metrics")] == [*range(1, 8)]
    assert run(lambda state: None) == []  # nothing is left to do


def test_who_is_stopped_at_a_step_to_be_evaluated_goes_at_once(run):
    def stop(state):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="stopped at step 4 of 7"):
        run(stop)  # it comes in the evaluation of step 3
    assert run.saved == 4
    assert run(lambda state: None) == [6, 7]


def test_the_time_of_an_evaluation_is_none_of_a_step(run):
    assert run(lambda state: time.sleep(0.5)) == [3, 6, 7]
    seconds = [line["seconds"] for line in run.lines("timing")]
    assert len(seconds) == 7 and max(seconds[3:]) < 0.4


@pytest.mark.parametrize(("reading", "products", "least", "most"), [(0.3, 0, 0.6, 1.0), (0.001, 100, 0.0, 0.2)])
def test_who_has_something_to_compute_does_not_wait(run, monkeypatch, reading, products, least, most):
    monkeypatch.setattr(Numbers, "seconds", reading)
    run.products = products
    run(lambda state: None, steps=7, evaluate_every=7)
    waited = np.median([line["wait_share"] for line in run.lines("timing")])
    assert least <= waited <= most
