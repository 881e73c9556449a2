"""Integrated gradients against closed forms; on a model, their parts add up to what they explain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.analysis.attribution import attribute, integrated_gradients

X, BASELINE = np.array([[1.5, -2.0, 0.5], [0.2, 3.0, -1.0]], np.float32), np.zeros((2, 3), np.float32)


def test_a_product_is_shared_evenly_and_a_linear_part_goes_to_its_own():
    def f(x):
        return 3 * x[:, 0] * x[:, 1] + 5 * x[:, 2]

    parts, gap = integrated_gradients(f, jnp.asarray(X), jnp.asarray(BASELINE), steps=2)
    product = 3 * X[:, 0] * X[:, 1]
    np.testing.assert_allclose(parts, np.stack([product / 2, product / 2, 5 * X[:, 2]], axis=1), rtol=1e-5)
    np.testing.assert_allclose(gap, 0, atol=1e-5)


def test_the_way_begins_at_the_baseline():
    """∫ 3(b + α(x − b))² dα (x − b) = x³ − b³ for each value."""
    baseline = np.full_like(X, 0.7)
    parts, gap = integrated_gradients(lambda x: (x**3).sum(axis=1), jnp.asarray(X), jnp.asarray(baseline), steps=3)
    np.testing.assert_allclose(parts, X**3 - baseline**3, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gap, 0, atol=1e-4)


def test_too_few_steps_are_seen_in_the_gap():
    def f(x):
        return jnp.tanh(4 * x).sum(axis=1)

    gaps = [
        float(jnp.abs(integrated_gradients(f, jnp.asarray(X), jnp.asarray(BASELINE), steps=steps)[1]).max())
        for steps in (2, 4, 8, 32)
    ]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 0.1 and gaps[-1] < 1e-3


@pytest.mark.parametrize(("name", "baseline", "steps"), [("image", 127.5, 24), ("audio", 0.0, 64)])
def test_on_a_model_they_are_complete(model, batch, name, baseline, steps):
    graph, state = nnx.split(model)
    text = batch.text["target"]
    neutral = jnp.full((1,) * batch.signals[name].values.ndim, baseline)

    @jax.jit
    def run(batch):
        return attribute(nnx.merge(graph, state), batch, text, name, baseline=neutral, steps=steps)

    parts, gap = run(batch)
    whole = np.asarray(parts).reshape(3, -1).sum(axis=1) - np.asarray(gap)  # f(x) − f(x′)
    there = np.asarray(batch.signals[name].present)
    assert (np.abs(whole[there]) > 0.02).all()
    np.testing.assert_allclose(gap, 0, atol=0.02 * np.abs(whole).max())
    np.testing.assert_array_equal(np.asarray(parts)[~np.asarray(batch.signals[name].item_mask)], 0)
