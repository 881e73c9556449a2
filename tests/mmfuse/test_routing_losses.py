"""Losses of routing against numpy, at their limits, and in their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mmfuse.nn.losses.routing import balance_loss, entropy_floor, expected_cost, mismatch_loss

B, M = 7, 3
random = np.random.default_rng(0)
PRESENT = random.random((B, M)) < 0.7
PRESENT[:2] = True
SOFT = jnp.asarray(np.where(PRESENT, random.random((B, M)), 0), jnp.float32)
WEIGHT = jnp.asarray([1.0, 0.0, 2.0, 0.5, 1.0, 0.0, 0.25])
COSTS = jnp.array([2.0, 7.0, 1.0])


def spread(present):
    return functools.partial(balance_loss, present=jnp.asarray(present))


def floor(present, bits=0.9):
    return functools.partial(entropy_floor, present=jnp.asarray(present), floor=bits)


def test_mismatch_by_hand():
    logits, swapped = random.standard_normal(B), random.random(B) < 0.5
    p = 1 / (1 + np.exp(-logits))
    got = mismatch_loss(jnp.asarray(logits, jnp.float32), swapped=jnp.asarray(swapped))
    np.testing.assert_allclose(got, -np.log(np.where(swapped, p, 1 - p)), rtol=1e-5)
    np.testing.assert_allclose(mismatch_loss(jnp.array([1e4, -1e4]), swapped=True), [0, 1e4])


def test_expected_cost_by_hand_and_its_gradient():
    np.testing.assert_allclose(expected_cost(SOFT, COSTS), np.asarray(SOFT) @ np.asarray(COSTS) / 10, rtol=1e-6)
    gradient = jax.grad(lambda soft: (WEIGHT * expected_cost(soft, COSTS)).sum())(SOFT)
    np.testing.assert_allclose(gradient, WEIGHT[:, None] * COSTS[None] / 10, rtol=1e-6)


def test_expected_cost_is_the_share_of_the_dense_cost_in_any_unit():
    assert (expected_cost(jnp.ones((B, M)), COSTS) == 1).all()
    np.testing.assert_allclose(expected_cost(jnp.full((B, M), 0.3), 1e9 * COSTS), 0.3, rtol=1e-6)


def open_shares(soft, present):
    return np.array([soft[present[:, m], m].mean() for m in range(soft.shape[1]) if present[:, m].any()], np.float64)


def test_balance_by_hand():
    shares = open_shares(np.asarray(SOFT), PRESENT)
    expected = stats.entropy(shares / shares.sum(), np.full(M, 1 / M))
    np.testing.assert_allclose(balance_loss(SOFT, jnp.asarray(PRESENT)), expected, rtol=1e-4)


def test_balance_at_its_limits():
    everywhere = np.ones((B, M), bool)
    np.testing.assert_allclose(spread(everywhere)(jnp.full((B, M), 0.2)), 0, atol=1e-6)
    alone = jnp.zeros((B, M)).at[:, 1].set(0.4)
    np.testing.assert_allclose(spread(everywhere)(alone), np.log(M), rtol=1e-6)
    two = everywhere & (np.arange(M) < 2)  # the third modality is in no example, and in no uniform distribution
    np.testing.assert_allclose(spread(two)(alone), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(spread(PRESENT)(jnp.asarray(0.6 * PRESENT, jnp.float32)), 0, atol=1e-6)
    assert spread(everywhere)(jnp.zeros((B, M))) == 0 and spread(~everywhere)(jnp.zeros((B, M))) == 0


@pytest.mark.parametrize("bits", [0.2, 0.9, 1.0])
def test_entropy_floor_by_hand(bits):
    soft = jnp.asarray(np.where(PRESENT, random.random((B, M)) ** np.array([0.1, 1, 9]), 0), jnp.float32)
    lacking = [max(0.0, bits - stats.entropy([p, 1 - p], base=2)) for p in open_shares(np.asarray(soft), PRESENT)]
    np.testing.assert_allclose(floor(PRESENT, bits)(soft), np.mean(lacking), rtol=1e-4, atol=1e-5)


def test_entropy_floor_at_its_limits():
    everywhere = np.ones((B, M), bool)
    assert floor(everywhere)(jnp.full((B, M), 0.5)) == 0
    for shut_or_open in (0.0, 1.0):
        np.testing.assert_allclose(floor(everywhere)(jnp.full((B, M), shut_or_open)), 0.9, atol=1e-4)
    halves = jnp.asarray(np.arange(B * M).reshape(B, M) % 2, jnp.float32)  # sure of each example, and not of all
    assert floor(everywhere)(halves) < 0.01
    one = everywhere & (np.arange(M) == 1)
    np.testing.assert_allclose(floor(one)(jnp.zeros((B, M))), 0.9, atol=1e-4)
    assert floor(~everywhere)(jnp.zeros((B, M))) == 0


def test_gradients_lead_away_from_collapse():
    everywhere = np.ones((B, M), bool)
    shut = jax.grad(floor(everywhere))(jnp.zeros((B, M)))
    opened = jax.grad(floor(everywhere))(jnp.ones((B, M)))
    assert (shut < 0).all() and (opened > 0).all() and np.isfinite([shut, opened]).all()
    lopsided = jnp.broadcast_to(jnp.array([0.9, 0.5, 0.1]), (B, M))
    uneven = jax.grad(spread(everywhere))(lopsided)
    assert (uneven[:, 0] > 0).all() and (uneven[:, 2] < 0).all()


@pytest.mark.parametrize("loss", [spread, floor])
def test_gradients_are_those_of_differences_and_zero_where_absent(loss):
    gradient = jax.grad(loss(PRESENT))(SOFT)
    assert (gradient[~PRESENT] == 0).all()
    for place in zip(*np.nonzero(PRESENT)):
        step = jnp.zeros((B, M)).at[place].set(1e-2)
        slope = (loss(PRESENT)(SOFT + step) - loss(PRESENT)(SOFT - step)) / 2e-2
        np.testing.assert_allclose(gradient[place], slope, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("loss", [spread, floor])
@pytest.mark.parametrize("present", [PRESENT, np.zeros((B, M), bool)], ids=["some", "none"])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30])
def test_gradients_are_finite_at_the_edges(loss, present, value):
    soft = jnp.asarray(np.where(present, value, 0), jnp.float32)
    assert np.isfinite(jax.grad(loss(present))(soft)).all()


def test_losses_are_float32_of_bfloat16():
    half = SOFT.astype(jnp.bfloat16)
    losses = [spread(PRESENT)(half), floor(PRESENT)(half)]
    assert all(loss.dtype == jnp.float32 and loss.shape == () for loss in losses)
    each = expected_cost(half, COSTS), mismatch_loss(half[:, 0], swapped=jnp.asarray(PRESENT[:, 0]))
    assert all(loss.dtype == jnp.float32 and loss.shape == (B,) for loss in each)
