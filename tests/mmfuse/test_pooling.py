"""Which token a pool takes, by hand; the contract that all pools share is in tests/contracts."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.nn.attention import Attention
from mmfuse.nn.mlp import Mlp
from mmfuse.towers.pooling import (
    AttentionPool,
    EndPool,
    EosPool,
    FinalPool,
    FirstPool,
    FlatPool,
    LastPool,
    MaxPool,
    MeanPool,
)
from mmfuse.types import EOS, Tokens

B, S, D = 5, 7, 12
random = np.random.default_rng(0)
VALUES = jnp.asarray(random.standard_normal((B, S, D)), jnp.float32)
LENGTHS = np.array([7, 3, 0, 5, 4])
SEGMENT = jnp.asarray(np.arange(S)[None] < LENGTHS[:, None], jnp.int32)
# EOS at place 4; at 2; nowhere, and nothing is there; twice; only in the padding, for the text was cut
IDS = jnp.asarray(
    [[9, 8, 7, 6, EOS, 5, 4], [9, 8, EOS, 0, 0, 0, 0], [0] * 7, [9, EOS, 8, EOS, 7, 0, 0], [9, 8, 7, 6, 0, EOS, 0]]
)
TOKENS = Tokens(VALUES, SEGMENT, jnp.zeros((B, S, 1)), jnp.zeros_like(SEGMENT), jnp.zeros_like(SEGMENT))


@pytest.mark.parametrize(
    "pool, places",
    [
        (FirstPool(), [0, 0, None, 0, 0]),
        (LastPool(), [6, 2, None, 4, 3]),
        (EosPool(EOS), [4, 2, None, 1, 3]),
        (EndPool(EOS), [4, 2, None, 1, 5]),  # in the padding, too
        (EndPool(None), [0, 0, None, 0, 0]),  # the highest id is 9
        (EndPool(8), [1, 1, None, 2, 1]),
        (EndPool(4), [6, 0, None, 0, 0]),  # the first place where there is none
        (FinalPool(), [6, 6, None, 6, 6]),
    ],
)
def test_pools_that_take_one_token(pool, places):
    expected = [np.zeros(D) if place is None else VALUES[row, place] for row, place in enumerate(places)]
    np.testing.assert_array_equal(pool(TOKENS, IDS), expected)


@pytest.mark.parametrize("pool", [EosPool(EOS), EndPool(None)])
def test_a_pool_that_looks_for_an_id_wants_ids(pool):
    with pytest.raises(ValueError, match="take another pool"):
        pool(TOKENS)


def test_the_highest_id_is_found_wherever_it_stands():
    rising = jnp.where(jnp.arange(S)[None] == 3, 50, IDS)
    np.testing.assert_array_equal(EndPool(None)(TOKENS, rising)[0], VALUES[0, 3])


def test_the_mean_is_over_what_is_not_padding():
    expected = [VALUES[row, :length].mean(axis=0) if length else np.zeros(D) for row, length in enumerate(LENGTHS)]
    np.testing.assert_allclose(MeanPool()(TOKENS), expected, atol=1e-6)


def test_the_mean_is_summed_in_float32():
    ones = TOKENS._replace(values=jnp.ones((1, 1025, 1), jnp.bfloat16), segment=jnp.ones((1, 1025), jnp.int32))
    assert MeanPool()(ones) == 1.0  # a bfloat16 sum stops at 256


def test_the_maximum_is_over_what_is_not_padding_for_each_channel():
    below = TOKENS._replace(values=VALUES - 100)  # padding is 0, and would be the highest
    expected = [below.values[row, :length].max(axis=0) if length else np.zeros(D) for row, length in enumerate(LENGTHS)]
    np.testing.assert_array_equal(MaxPool()(below), expected)


def test_flat_pool_by_hand(shake):
    pool = shake(FlatPool(S, D, rngs=nnx.Rngs(0)))
    by_position = np.asarray(pool.project.kernel[...]).reshape(S, D, D)
    expected = [
        sum((VALUES[row, s] @ by_position[s] for s in range(length)), np.zeros(D)) for row, length in enumerate(LENGTHS)
    ]
    np.testing.assert_allclose(pool(TOKENS), expected, atol=1e-5)


def test_the_flat_pool_wants_the_positions_it_was_made_for():
    with pytest.raises(ValueError, match="made for 5 tokens, not 7"):
        FlatPool(5, D, rngs=nnx.Rngs(0))(TOKENS)


def test_attention_pool_by_hand(shake):
    rngs = nnx.Rngs(0)
    pool = shake(
        AttentionPool(D, Attention(D, 3, rngs=rngs), Mlp(D, 8, rngs=rngs), nnx.LayerNorm(D, rngs=rngs), rngs=rngs)
    )
    pooled = pool(TOKENS)

    def linear(layer, x):
        return np.asarray(x) @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    for row, length in enumerate(LENGTHS):
        if length == 0:
            np.testing.assert_array_equal(pooled[row], np.zeros(D))
            continue
        query = linear(pool.attention.query, pool.query[...][0]).reshape(3, 4)
        key, value = (
            linear(layer, VALUES[row, :length]).reshape(length, 3, 4)
            for layer in (pool.attention.key, pool.attention.value)
        )
        weights = np.exp(np.einsum("nh,snh->ns", query, key) / 2)
        read = np.einsum("ns,snh->nh", weights / weights.sum(axis=1, keepdims=True), value)
        h = jnp.asarray(linear(pool.attention.out, read.reshape(1, D)), jnp.float32)
        np.testing.assert_allclose(pooled[row], (h + pool.mlp(pool.norm(h)[None])[0][0])[0], atol=1e-5)
