"""What is said of gates while they learn is what numpy counts, and who has stopped deciding is named once."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.routing.gates import Gates
from mmfuse.routing.instruments import has_collapsed, watch
from mmfuse.training.alarm import PATIENCE, CollapseAlarm
from mmfuse.types import Batch, Signal

OPEN = np.array([1, 0, 1, 1, 0, 0, 1], bool)
WANTED = np.array([1, 1, 0, 1, 1, 0, 1], bool)
SOFT = np.array([0.9, 0.6, 0.3, 1.0, 0.7, 0.0, 0.5], np.float32)
THERE = np.array([1, 1, 1, 1, 1, 0, 1], bool)
VALID = np.array([1, 1, 1, 1, 1, 1, 0], bool)
SOURCE = np.array([0, 2, 0, 2, 2, 0, 0])
EXPECTED = {
    "open": OPEN,
    "wanted": WANTED,
    "overflow": WANTED & ~OPEN,
    "soft": SOFT,
    "agreement": np.where(OPEN, SOFT, 1 - SOFT),
    "varied": np.abs(SOFT - np.mean([0.9, 0.6, 0.3, 1.0, 0.7])),
    "entropy": [-sum(p * np.log2(p) for p in (soft, 1 - soft) if p > 0) for soft in SOFT.astype(float)],
}


@pytest.fixture(scope="module")
def watched():
    mask = jnp.asarray(THERE)[:, None]
    signal = Signal(jnp.zeros((7, 1, 2)), mask, jnp.zeros((7, 1), int), jnp.zeros((7, 1, 1), int))
    origin = jnp.stack([jnp.asarray(SOURCE), jnp.arange(7)], axis=1)
    batch = Batch({"audio": signal}, {}, jnp.asarray(VALID), jnp.arange(7), origin)
    gates = Gates(jnp.asarray(OPEN), jnp.asarray(OPEN, jnp.float32), jnp.asarray(SOFT), jnp.asarray(WANTED))
    return watch({"audio": gates}, batch, {"near": 0, "far": 2})


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize(("part", "rows"), [("", slice(None)), ("/near", SOURCE == 0), ("/far", SOURCE == 2)])
def test_numbers_are_of_the_examples_that_have_the_modality_and_of_their_source(watched, name, part, rows):
    value, weight = (np.asarray(array) for array in watched[f"{name}/audio{part}"])
    of = np.zeros(7, bool)
    of[rows] = True
    np.testing.assert_array_equal(weight, of & THERE & VALID)
    np.testing.assert_allclose(value[weight > 0], np.asarray(EXPECTED[name], float)[weight > 0], atol=1e-6)
    assert np.isfinite(value).all()


def test_nothing_else_is_watched(watched):
    assert len(watched) == 3 * len(EXPECTED)


@pytest.mark.parametrize(
    ("share", "varied", "collapsed"),
    [(1.0, 0.2, True), (0.001, 0.2, True), (0.5, 0.001, True), (0.5, 0.2, False), (0.99, 0.02, False)],
)
def test_who_decides_nothing_has_collapsed(share, varied, collapsed):
    assert has_collapsed(share, varied) == collapsed


def test_the_alarm_names_a_gate_once_and_again_after_it_has_recovered(caplog):
    def lines(wanted, steps):
        caplog.clear()
        for step in range(steps):
            numbers = {"varied/image": 0.3, "wanted/image": wanted, "varied/image/far": 0.0, "wanted/image/far": 0.0}
            alarm.watch(step, {"loss": 1.0} | {f"answers/gates/{name}": number for name, number in numbers.items()})
        return [record.getMessage() for record in caplog.records]

    alarm = CollapseAlarm()
    with caplog.at_level(logging.WARNING):
        assert lines(1.0, PATIENCE - 1) == []
        assert lines(0.6, 1) == []
        (line,) = lines(1.0, 2 * PATIENCE)
        assert "answers/gates/image has collapsed" in line and "100.0%" in line
        assert lines(0.6, 1) == []
        assert len(lines(0.0, PATIENCE)) == 1
