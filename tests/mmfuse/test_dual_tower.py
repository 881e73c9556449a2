"""Projections onto the unit sphere, a temperature that can come back from its clip, a bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.models.dual_tower import DualTower

WIDTHS, E = {"image": 5, "text": 3}, 7
random = np.random.default_rng(0)


def make_head(temperature=0.07, dtype=jnp.float32):
    return DualTower(WIDTHS, E, temperature=temperature, bias=-10.0, dtype=dtype, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("tower", WIDTHS)
def test_embeddings_are_projected_and_normalised(tower):
    head = make_head()
    pooled = jnp.asarray(random.standard_normal((4, 2, WIDTHS[tower])), jnp.float32)
    projected = np.asarray(pooled) @ np.asarray(head.projections[tower].kernel[...])
    expected = projected / np.linalg.norm(projected, axis=-1, keepdims=True)
    np.testing.assert_allclose(head.embed(tower, pooled), expected, rtol=1e-5, atol=1e-6)


def test_a_projection_may_have_a_bias_or_not_be():
    kinds = {"image": "none", "text": "affine"}
    head = DualTower({"image": 5, "text": 3}, 5, temperature=1.0, bias=None, projection=kinds, rngs=nnx.Rngs(0))
    pooled = jnp.asarray(random.standard_normal((4, 5)), jnp.float32)
    np.testing.assert_allclose(head.embed("image", pooled), pooled / np.linalg.norm(pooled, axis=1)[:, None], rtol=1e-6)
    head.projections["text"].bias[...] = jnp.arange(5.0)
    projected = np.asarray(pooled[:, :3]) @ np.asarray(head.projections["text"].kernel[...]) + np.arange(5)
    expected = projected / np.linalg.norm(projected, axis=1)[:, None]
    np.testing.assert_allclose(head.embed("text", pooled[:, :3]), expected, rtol=1e-5)
    assert head.logit_bias is None and head.bias == 0.0


def test_logits_are_scaled_cosines_and_a_bias():
    head = make_head(temperature=0.5)
    rows, columns = (jnp.asarray(random.standard_normal((number, E)), jnp.float32) for number in (2, 3))
    expected = 2 * np.asarray(rows, np.float64) @ np.asarray(columns, np.float64).T - 10
    np.testing.assert_allclose(head.logits(rows, columns), expected, rtol=1e-5)


def test_the_embedding_of_nothing_is_zero_with_a_finite_gradient():
    head, nothing = make_head(), jnp.zeros((2, 5))
    np.testing.assert_array_equal(head.embed("image", nothing), np.zeros((2, E)))
    assert np.isfinite(jax.grad(lambda pooled: head.embed("image", pooled).sum())(nothing)).all()


def test_in_bfloat16_embeddings_are_float32_and_of_unit_length():
    head = make_head(dtype=jnp.bfloat16)
    pooled = jnp.asarray(random.standard_normal((4, 5)), jnp.bfloat16)
    embedding = head.embed("image", pooled)
    assert embedding.dtype == head.projections["image"].kernel[...].dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(embedding, make_head().embed("image", pooled.astype(jnp.float32)), atol=1e-2)


@pytest.mark.parametrize("temperature, scale", [(0.07, 1 / 0.07), (0.5, 2.0), (0.001, 100.0)])
def test_the_scale_is_clipped_and_still_feels_a_gradient(temperature, scale):
    graph, state = nnx.split(make_head(temperature))
    value, gradient = jax.value_and_grad(lambda state: nnx.merge(graph, state).scale)(state)
    np.testing.assert_allclose(value, scale, rtol=1e-5)
    np.testing.assert_allclose(gradient["log_scale"][...], scale, rtol=1e-5)  # d exp(s) / ds
    assert make_head().bias == -10.0


@pytest.mark.parametrize("beyond", [-0.1, 0.0, 0.1])
def test_the_scale_does_not_move_on_behind_its_clip(beyond):
    """However long a loss wants a larger one, a few steps of another loss bring it down."""
    graph, state = nnx.split(make_head(np.exp(-beyond) / 100))

    def descend(state, sign, steps):
        for _ in range(steps):
            gradient = jax.grad(lambda state: sign * nnx.merge(graph, state).scale)(state)
            state = jax.tree.map(lambda value, g: value - 1e-3 * g, state, gradient)
        return state, float(nnx.merge(graph, state).scale)

    state, scale = descend(state, -1.0, 5)
    assert scale == pytest.approx(100.0)
    assert float(state["log_scale"][...]) <= np.log(100) + 0.2  # a step beyond the bound, or where it was
    assert descend(state, 1.0, 3)[1] < 100
