"""What is cached is what would have been computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.fusion.gated_cross_attention import GatedCrossBlock
from mmfuse.nn.attention import Attention
from mmfuse.nn.cache import KeyValue, write
from mmfuse.nn.masks import Mask
from mmfuse.nn.mlp import Mlp
from mmfuse.stack.block import Context, SelfBlock
from mmfuse.stack.stack import Segment, Stack

random = np.random.default_rng(0)
B, TEXTS, T, S, D = 3, 2, 7, 5, 12
ROWS = B * TEXTS


def test_write_puts_each_row_at_its_own_place():
    cache = KeyValue(*(jnp.asarray(random.standard_normal((3, 7, 2, 5)), jnp.float32) for _ in range(2)))
    new = KeyValue(*(jnp.asarray(random.standard_normal((3, 2, 2, 5)), jnp.bfloat16) for _ in range(2)))
    written = write(cache, new, jnp.array([0, 3, 5]))
    for before, block, after in zip(cache, new, written):
        expected = np.array(before)
        for row, place in enumerate((0, 3, 5)):
            expected[row, place : place + 2] = block[row].astype(jnp.float32)
        np.testing.assert_array_equal(after, expected)
        assert after.dtype == jnp.float32


@nnx.jit
def make_stack():
    def block(kind, rngs):
        rotary = 1e4 if kind is SelfBlock else None
        attention = Attention(D, 6, key_heads=2, rotary_base=rotary, rngs=rngs)
        return kind(attention, Mlp(D, 8, rngs=rngs), nnx.RMSNorm(D, rngs=rngs), nnx.RMSNorm(D, rngs=rngs))

    def unit(rngs):
        return {"self": block(SelfBlock, rngs), "cross": block(GatedCrossBlock, rngs)}

    rngs = nnx.Rngs(0)
    return Stack([Segment(unit, 2, rngs=rngs), Segment(unit, 1, rngs=rngs)], nnx.RMSNorm(D, rngs=rngs))


@pytest.fixture(scope="module")
def stack(shake):
    return shake(make_stack())


def test_decoding_in_pieces_is_decoding_at_once(stack):
    """Six rows share three memories; a piece of three tokens, then two, then one by one."""
    values = jnp.asarray(random.standard_normal((ROWS, T, D)), jnp.float32)
    memory = jnp.asarray(random.standard_normal((B, S, D)), jnp.float32)
    segment = jnp.asarray(np.arange(S)[None] < [[2], [5], [0]], jnp.int32)

    def context(first, last, mask):
        index = jnp.broadcast_to(jnp.arange(first, last)[None], (ROWS, last - first))
        length = jnp.full(ROWS, first, jnp.int32)
        return Context(mask(index), index[..., None].astype(jnp.float32), memory, Mask(key_segment=segment), length)

    @jax.jit
    def run(values, context, cache):
        return stack(values, context, cache=cache)

    whole = run(values, context(0, T, lambda index: Mask(causal=True)), None).values
    cache = stack.empty_cache(context(0, 1, lambda index: Mask()), ROWS, T)
    for first, last in ((0, 3), (3, 5), (5, 6), (6, 7)):
        here = context(first, last, lambda index: Mask(query_index=index, causal=True))
        out = run(values[:, first:last], here._replace(memory=None), cache)
        cache = out.cache
        np.testing.assert_allclose(out.values, whole[:, first:last], atol=2e-5)


def test_a_cache_has_the_key_heads_and_the_layers(stack):
    memory = jnp.zeros((B, S, D))
    shapes = jax.eval_shape(lambda: stack.empty_cache(Context(Mask(), jnp.zeros((ROWS, 1, 1)), memory), ROWS, T))
    for layers, segment in zip((2, 1), shapes):
        assert {name: entry.key.shape for name, entry in segment.items()} == {
            "self": (layers, ROWS, T, 2, 2),
            "cross": (layers, B, S, 2, 2),
        }
