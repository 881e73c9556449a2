"""What every pool owes: a new pool joins by one row of `ROWS`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build_towers import TOWERS
from mmfuse.types import EOS, Tokens

B, S, D = 4, 7, 12
ROWS = (
    "first",
    "last",
    "mean",
    "max",
    "eos",
    "end",
    "flat",
    "attention",
)  # "final" takes padding, too: see test_pooling
random = np.random.default_rng(0)
VALUES = jnp.asarray(random.standard_normal((B, S, D)), jnp.float32)
SEGMENT = jnp.asarray(np.arange(S)[None] < [[7], [3], [0], [5]], jnp.int32)
IDS = jnp.asarray(random.integers(3, 9, (B, S)), jnp.int32).at[jnp.arange(B), jnp.array([6, 2, 0, 3])].set(EOS)


def build(name, dtype=jnp.float32):
    """The pool as the table of parts makes it for a text tower."""
    config = ConfigDict(parts.text(D, 1, 3, length=S, pool=name))
    return TOWERS["text"](config, 13, dtype, nnx.Rngs(0)).pool


@pytest.fixture(scope="module", params=ROWS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def pool(name):
    return build(name)


def run(pool, values, segment=SEGMENT):
    zero = jnp.zeros_like(segment)
    return pool(Tokens(values, segment, zero[..., None].astype(jnp.float32), zero, zero), IDS)


def test_a_pool_maps_rows_to_vectors_and_an_empty_row_to_zero(pool):
    pooled = run(pool, VALUES)
    assert pooled.shape == (B, D) and pooled.dtype == VALUES.dtype
    assert (np.asarray(pooled)[2] == 0).all() and (np.asarray(pooled)[[0, 1, 3]] != 0).any(axis=1).all()


def test_padding_is_not_felt_and_gradients_are_finite(pool):
    gradient = np.asarray(jax.grad(lambda values: jnp.sin(run(pool, values)).sum())(VALUES))
    assert np.isfinite(gradient).all()
    assert (gradient[np.asarray(SEGMENT) == 0] == 0).all()
    assert (gradient[[0, 1, 3]] != 0).any(axis=(1, 2)).all()


def test_what_stands_in_the_padding_does_not_matter(pool):
    other = jnp.where(SEGMENT[..., None] > 0, VALUES, 1e6)
    np.testing.assert_allclose(run(pool, other), run(pool, VALUES), atol=1e-6)


def test_an_empty_row_keeps_parameters_gradients_finite(pool):
    graph, state = nnx.split(pool, nnx.Param)
    empty = jnp.zeros_like(SEGMENT)
    gradient = jax.grad(lambda state: run(nnx.merge(graph, state), VALUES, empty).sum())(state)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_the_dtype_of_the_tokens_is_kept(name):
    with jax.numpy_dtype_promotion("standard"):  # the attention kernel mixes bfloat16 and float32 on purpose
        assert run(build(name, jnp.bfloat16), VALUES.astype(jnp.bfloat16)).dtype == jnp.bfloat16
