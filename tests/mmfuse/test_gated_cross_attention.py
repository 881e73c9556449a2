"""A gated block starts as the identity, can learn to open, and each text reads the memory of its own example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.fusion.gated_cross_attention import GatedCrossBlock
from mmfuse.nn.attention import Attention
from mmfuse.nn.masks import Mask
from mmfuse.nn.mlp import Mlp
from mmfuse.stack.block import Context

B, TEXTS, T, S, D = 3, 2, 5, 7, 12
random = np.random.default_rng(0)
VALUES, MEMORY = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((B * TEXTS, T, D), (B, S, D)))
SEGMENT = jnp.asarray(np.arange(S)[None] < [[4], [7], [0]], jnp.int32)


@nnx.jit
def make_block():
    rngs = nnx.Rngs(0)
    norms = nnx.LayerNorm(D, rngs=rngs), nnx.LayerNorm(D, rngs=rngs)
    return GatedCrossBlock(Attention(D, 3, rngs=rngs), Mlp(D, 8, rngs=rngs), *norms)


def context(memory=MEMORY, segment=SEGMENT):
    return Context(Mask(), jnp.zeros((len(VALUES), T, 1)), memory, Mask(key_segment=segment))


@pytest.fixture(scope="module")
def opened(shake):
    return shake(make_block())


def test_shut_gates_are_exactly_the_identity_but_feel_a_gradient():
    graph, state = nnx.split(make_block())

    @jax.jit
    def differentiate(state):
        def loss(state):
            values = nnx.merge(graph, state)(VALUES, context()).values
            return jnp.sin(values).sum(), values

        return jax.grad(loss, has_aux=True)(state)

    gradient, values = differentiate(state)
    np.testing.assert_array_equal(values, VALUES)
    for path, leaf in nnx.to_flat_state(gradient):
        assert (path[-1] in ("attention_gate", "mlp_gate")) == bool((np.asarray(leaf[...]) != 0).any()), path


def test_gates_are_tanh_of_their_parameters(opened):
    read, _ = opened.attention(
        opened.attention_norm(VALUES),
        opened.attention.keys_values(jnp.repeat(MEMORY, TEXTS, axis=0)),
        Mask(key_segment=jnp.repeat(SEGMENT, TEXTS, axis=0)),
    )
    values = VALUES + np.tanh(opened.attention_gate[...]) * read
    values = values + np.tanh(opened.mlp_gate[...]) * opened.mlp(opened.mlp_norm(values))[0]
    np.testing.assert_allclose(opened(VALUES, context()).values, values, atol=1e-5)


def test_row_r_reads_memory_r_over_c_and_no_other(opened):
    @jax.jit
    @jax.grad
    def gradient(memory, r):
        return opened(VALUES, context(memory, jnp.ones((B, S), jnp.int32))).values[r].sum()

    for r in range(B * TEXTS):
        felt = (np.asarray(gradient(MEMORY, r)) != 0).any(axis=(1, 2))
        np.testing.assert_array_equal(felt, np.arange(B) == r // TEXTS)


def test_keys_that_are_padding_are_not_read(opened):
    gradient = jax.jit(jax.grad(lambda memory: opened(VALUES, context(memory)).values.sum()))(MEMORY)
    np.testing.assert_array_equal((np.asarray(gradient) != 0).all(axis=2), np.asarray(SEGMENT) > 0)
    assert np.isfinite(gradient).all()


def test_cached_memory_gives_the_same(opened):
    cache = opened.empty_cache(context(), rows=B * TEXTS, length=11)
    np.testing.assert_array_equal(
        opened(VALUES, context()._replace(memory=None), cache).values, opened(VALUES, context()).values
    )
