"""What every block owes, so that a stack can scan it: a new kind of block joins by one row of `ROWS`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.fusion.gated_cross_attention import GatedCrossBlock
from mmfuse.nn.attention import Attention
from mmfuse.nn.masks import Mask
from mmfuse.nn.mlp import Mlp
from mmfuse.nn.norms import LayerNorm
from mmfuse.routing.blocks import BlockPlan, BlockSparseAttention
from mmfuse.stack.block import Block, Context, SelfBlock

B, T, S, D, N = 3, 5, 7, 12, 3
random = np.random.default_rng(0)
VALUES, MEMORY = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((B, T, D), (B, S, D)))
SEGMENT = jnp.asarray(np.arange(T)[None] < [[5], [3], [0]], jnp.int32)
MEMORY_SEGMENT = jnp.asarray(np.arange(S)[None] < [[4], [0], [7]], jnp.int32)


def attentive(kind, attention=Attention):
    """Blocks of one attention and one MLP; the gates of those that have some are opened."""
    rngs = nnx.Rngs(0)
    block = kind(attention(D, N, key_heads=1, rngs=rngs), Mlp(D, 8, rngs=rngs), LayerNorm(D), LayerNorm(D))
    for path, parameter in nnx.to_flat_state(nnx.state(block, nnx.Param)):
        if path[-1].endswith("gate"):
            parameter[...] = jnp.full((), 0.5)
    return block


SPARSE = functools.partial(BlockSparseAttention, plan=BlockPlan(query_block=1, key_block=2, keep=2), rank=2)

# name → (block, keys that it looks at)
ROWS = {
    "self": (lambda: attentive(SelfBlock), T),
    "cross": (lambda: attentive(GatedCrossBlock), S),
    "sparse": (lambda: attentive(GatedCrossBlock, SPARSE), S),
}


@pytest.fixture(scope="module", params=ROWS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def block(name) -> Block:
    return ROWS[name][0]()


def context(rows=slice(None)):
    position = jnp.broadcast_to(jnp.arange(T, dtype=jnp.float32)[None, :, None], (B, T, 1))
    mask = Mask(query_segment=SEGMENT[rows], key_segment=SEGMENT[rows], causal=True)
    return Context(mask, position[rows], MEMORY[rows], Mask(key_segment=MEMORY_SEGMENT[rows]))


def test_the_form(block):
    assert isinstance(block, Block)
    out = block(VALUES, context())
    assert out.values.shape == VALUES.shape and out.values.dtype == VALUES.dtype
    assert out.cache is None and out.trace is None and all(scalar.shape == () for scalar in out.aux.values())
    assert np.isfinite(out.values).all() and np.abs(out.values - VALUES).max() > 1e-2


def test_a_probe_returns_the_weights_and_zero_changes_nothing(name, block):
    out = block(VALUES, context(), None, jnp.float32(0))
    assert out.trace.shape == (B, N, T, ROWS[name][1])
    total = np.asarray(out.trace.sum(axis=-1))
    np.testing.assert_allclose(total, np.round(total), atol=1e-6)
    np.testing.assert_allclose(out.values, block(VALUES, context()).values, atol=1e-5)
    moved = block(VALUES, context(), None, jnp.full((1, 1, T, ROWS[name][1]), 0.1)).values
    assert np.abs(moved - out.values).max() > 1e-3


def test_a_cache_changes_nothing(block):
    """A whole text that is written into an empty cache, and then its last token again, alone."""
    free = context()._replace(mask=Mask(causal=True), length=jnp.zeros(B, jnp.int32))
    cache = block.empty_cache(free, B, T)
    expected = block(VALUES, free).values
    index = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    out = block(VALUES, free._replace(mask=Mask(query_index=index, causal=True)), cache)
    np.testing.assert_allclose(out.values, expected, atol=1e-5)
    assert jax.tree.map(jnp.shape, out.cache) == jax.tree.map(jnp.shape, cache)
    last = free._replace(
        mask=Mask(query_index=index[:, -1:], causal=True), position=free.position[:, -1:], length=jnp.full(B, T - 1)
    )
    np.testing.assert_allclose(block(VALUES[:, -1:], last, out.cache).values, expected[:, -1:], atol=1e-5)


def test_rows_do_not_see_one_another(block):
    expected = block(VALUES, context()).values
    for row in range(B):
        rows = slice(row, row + 1)
        np.testing.assert_allclose(block(VALUES[rows], context(rows)).values, expected[rows], atol=1e-5)


def test_gradients_are_finite_even_where_nothing_is_seen(block):
    graph, state = nnx.split(block, nnx.Param)

    def loss(state, values):
        return jnp.sin(nnx.merge(graph, state)(values, context()).values).sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(state, VALUES)):
        assert np.isfinite(leaf).all()
