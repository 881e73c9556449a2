"""Cross-entropy in chunks is cross-entropy, forth and back, and never holds all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmfuse.nn.losses.cross_entropy import chunked_cross_entropy, cross_entropy

B, T, D, V = 2, 7, 5, 11
random = np.random.default_rng(0)
HIDDEN, TABLE = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((B, T, D), (D, V)))
LIKELIEST = (HIDDEN @ TABLE).argmax(axis=-1)
TARGETS = jnp.where(jnp.arange(T)[None] % 3 == 0, LIKELIEST, jnp.asarray(random.integers(0, V, (B, T)), jnp.int32))
WEIGHT = jnp.asarray(random.random((B, T)), jnp.float32)


def test_cross_entropy_is_optax_s():
    logits = HIDDEN @ TABLE
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS)
    np.testing.assert_allclose(cross_entropy(logits, TARGETS), expected, rtol=1e-5)
    assert cross_entropy(logits.astype(jnp.bfloat16), TARGETS).dtype == jnp.float32


@pytest.mark.parametrize("chunk", [1, 3, 7, 10])
def test_chunks_change_neither_values_nor_gradients(chunk):
    def chunked(hidden, table):
        loss, right = chunked_cross_entropy(hidden, TARGETS, lambda h: h @ table, chunk=chunk)
        return (loss * WEIGHT).sum(), (loss, right)

    def plain(hidden, table):
        logits = hidden @ table
        loss = cross_entropy(logits, TARGETS)
        return (loss * WEIGHT).sum(), (loss, logits.argmax(axis=-1) == TARGETS)

    got, expected = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(HIDDEN, TABLE) for f in (chunked, plain)
    )
    np.testing.assert_array_equal(got[0][1][1], expected[0][1][1])
    assert 0 < expected[0][1][1].sum() < B * T
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_logits_are_never_there_at_once():
    def loss(hidden):
        return chunked_cross_entropy(hidden, TARGETS, lambda h: h @ TABLE, chunk=2)[0].sum()

    program = jax.jit(jax.value_and_grad(loss)).lower(HIDDEN).as_text()
    assert f"tensor<{B}x2x{V}xf32>" in program
    for whole in (f"{B}x{T}x{V}", f"4x{B}x2x{V}", f"{B}x8x{V}"):
        assert f"tensor<{whole}xf32>" not in program
