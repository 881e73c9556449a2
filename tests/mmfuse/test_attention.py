"""Attention against numpy in float64, for every condition of a mask, on the kernel's path and on the probe's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.nn.attention import Attention, attend
from mmfuse.nn.masks import Mask, allowed

B, T, S, N, K, H = 2, 5, 7, 6, 3, 4
random = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(random.standard_normal(shape), jnp.float32)


QUERY, KEY, VALUE = normal(B, T, N, H), normal(B, S, K, H), normal(B, S, K, H)


def whole(*shape, high):
    return jnp.asarray(random.integers(0, high, shape))


SEGMENTS = {  # query 3 of row 0 and query 1 of row 1 find no key of their segment
    "query_segment": jnp.array([[1, 1, 2, 5, 0], [2, 3, 1, 1, 1]]),
    "key_segment": jnp.array([[1, 1, 2, 2, 0, 1, 0], [2, 1, 1, 2, 0, 0, 0]]),
}
ANCHORS = {"query_index": whole(B, T, high=9), "key_anchor": whole(B, S, high=9)}
MODALITIES = {
    "query_modality": whole(B, T, high=3),
    "key_modality": whole(B, S, high=3),
    "modalities": jnp.array([[True, False, True], [False, False, True], [True, True, False]]),
}
BIAS = normal(B, N, T, S)
MASKS = {
    "nothing": Mask(),
    "causal": Mask(causal=True),
    "window": Mask(window=2),
    "segments": Mask(**SEGMENTS),
    "padding": Mask(key_segment=SEGMENTS["key_segment"]),
    "anchors": Mask(**ANCHORS),
    "modalities": Mask(**MODALITIES),
    "bias": Mask(bias=BIAS),
    "bias of all heads": Mask(bias=BIAS[:, :1]),
    "bias of all rows": Mask(bias=BIAS[:1], causal=True),
    "all": Mask(**SEGMENTS, **ANCHORS, **MODALITIES, bias=BIAS, causal=True, window=5),
    "no key at all": Mask(key_segment=jnp.zeros((B, S), jnp.int32)),
}


def by_hand(query, key, value, mask):
    """Output (B T N H) and weights (B N T S), one query at a time, in float64."""
    query, key, value = (np.asarray(array, np.float64) for array in (query, key, value))
    dense = allowed(mask, queries=T, keys=S)
    visible = np.broadcast_to(True if dense is None else dense, (B, T, S))
    bias = np.broadcast_to(0.0 if mask.bias is None else mask.bias, (B, N, T, S))
    out, weights = np.zeros((B, T, N, H)), np.zeros((B, N, T, S))
    for b, n, t in np.ndindex(B, N, T):
        seen = np.flatnonzero(visible[b, t])
        scores = [query[b, t, n] @ key[b, s, n // (N // K)] / np.sqrt(H) + bias[b, n, t, s] for s in seen]
        for s, score in zip(seen, np.exp(scores)):
            weights[b, n, t, s] = score / np.exp(scores).sum()
            out[b, t, n] += weights[b, n, t, s] * value[b, s, n // (N // K)]
    return out, weights


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_both_paths_equal_numpy(mask):
    expected, expected_weights = by_hand(QUERY, KEY, VALUE, mask)
    out, nothing = attend(QUERY, KEY, VALUE, mask)
    seen, weights = attend(QUERY, KEY, VALUE, mask, jnp.zeros(()))
    assert nothing is None
    for got in (out, seen):
        np.testing.assert_allclose(got, expected, atol=2e-6)
        assert (np.asarray(got)[(expected_weights.sum(axis=-1) == 0).transpose(0, 2, 1)] == 0).all()
    np.testing.assert_allclose(weights, expected_weights, atol=1e-6)


def test_weights_sum_to_one_or_to_exactly_zero():
    _, weights = attend(QUERY, KEY, VALUE, MASKS["segments"], jnp.zeros(()))
    total = weights.sum(axis=-1)
    blind = np.array([[False, False, False, True, True], [False, True, False, False, False]])[:, None]
    np.testing.assert_allclose(total, np.broadcast_to(~blind, total.shape), atol=1e-6)
    assert (total[np.broadcast_to(blind, total.shape)] == 0).all()


@pytest.mark.parametrize("name", ["segments", "no key at all", "all"])
def test_gradients_of_both_paths_agree_and_blind_queries_have_none(name):
    mask = MASKS[name]
    target = jnp.asarray(np.random.default_rng(3).standard_normal((B, T, N, H)), jnp.float32)

    def gradient(probe):
        return jax.jit(jax.grad(lambda *heads: (attend(*heads, mask, probe)[0] * target).sum(), argnums=(0, 1, 2)))(
            QUERY, KEY, VALUE
        )

    kernel, probed = gradient(None), gradient(jnp.zeros(()))
    for a, b in zip(kernel, probed):
        np.testing.assert_allclose(a, b, atol=1e-5)
    dense = np.broadcast_to(allowed(mask, queries=T, keys=S), (B, T, S))
    for query, key, value in (kernel, probed):
        assert (np.asarray(query)[~dense.any(axis=2)] == 0).all()
        assert (np.asarray(key)[~dense.any(axis=1)] == 0).all()
        assert (np.asarray(value)[~dense.any(axis=1)] == 0).all()
        assert (np.asarray(value)[dense.any(axis=1)] != 0).all()


def test_gradient_with_respect_to_the_weights():
    mask, value = MASKS["all"], np.asarray(VALUE, np.float64)

    def loss(probe):
        return jnp.sin(attend(QUERY, KEY, VALUE, mask, probe)[0]).sum()

    got = jax.grad(loss)(jnp.zeros((B, N, T, S)))
    out, _ = by_hand(QUERY, KEY, VALUE, mask)
    expected = np.einsum("btnh,bsnh->bnts", np.cos(out), np.repeat(value, N // K, axis=2))
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(())), expected.sum(), rtol=1e-5)
    step = jnp.zeros((B, N, T, S)).at[1, 4, 2, 3].set(1e-2)
    np.testing.assert_allclose((loss(step) - loss(-step)) / 2e-2, expected[1, 4, 2, 3], rtol=2e-2)


def test_without_a_probe_the_program_is_the_kernel_alone():
    def lowered(program):
        program.__name__ = "program"
        return jax.jit(program).lower(QUERY, KEY, VALUE).as_text()

    def restated(query, key, value):
        queries, keys = jnp.arange(T)[None], jnp.arange(S)[None]
        dense = queries[:, :, None] - keys[:, None, :] >= 0
        out = jax.nn.dot_product_attention(query, key, value, mask=dense[:, None])
        return jnp.where(dense.any(axis=-1)[:, :, None, None], out, 0)

    def plain(query, key, value):
        return jax.nn.dot_product_attention(query, key, value)

    assert lowered(lambda *heads: attend(*heads, Mask(causal=True))[0]) == lowered(restated)
    assert lowered(lambda *heads: attend(*heads, Mask())[0]) == lowered(plain)
    assert lowered(lambda *heads: attend(*heads, Mask(), jnp.zeros(()))[0]) != lowered(plain)


def test_in_bfloat16_the_output_is_close_and_the_weights_are_float32():
    heads = [jnp.asarray(array, jnp.bfloat16) for array in (QUERY, KEY, VALUE)]
    expected, _ = by_hand(*heads, MASKS["all"])
    for probe in (None, jnp.zeros(())):
        with jax.numpy_dtype_promotion("standard"):  # the kernel mixes bfloat16 and float32 on purpose
            out, weights = attend(*heads, MASKS["all"], probe)
        assert out.dtype == jnp.bfloat16 and (weights is None or weights.dtype == jnp.float32)
        np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=3e-2)


def test_the_module_is_four_projections_around_attend(shake):
    width, memory_width = 12, 5
    module = shake(Attention(width, 6, key_heads=3, memory_width=memory_width, rngs=nnx.Rngs(0)))
    tokens, memory = normal(B, T, width), normal(B, S, memory_width)
    out, _ = module(tokens, module.keys_values(memory), Mask())

    def project(linear, values, heads):
        return (np.asarray(values) @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])).reshape(
            B, -1, heads, 2
        )

    query = project(module.query, tokens, 6)
    key, value = (np.repeat(project(linear, memory, 3), 2, axis=2) for linear in (module.key, module.value))
    scores = np.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(2)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    read = np.einsum("bnts,bsnh->btnh", weights, value).reshape(B, T, width)
    np.testing.assert_allclose(
        out, read @ np.asarray(module.out.kernel[...]) + np.asarray(module.out.bias[...]), atol=1e-5
    )


def test_rotated_attention_depends_on_differences_of_positions(shake):
    module = shake(Attention(12, 3, rotary_base=100.0, rngs=nnx.Rngs(0)))
    tokens = normal(B, T, 12)

    def read(query_shift, key_shift):
        position = jnp.broadcast_to(jnp.arange(T, dtype=jnp.float32)[None, :, None], (B, T, 1))
        return module(
            tokens, module.keys_values(tokens, position + key_shift), Mask(), position=position + query_shift
        )[0]

    np.testing.assert_allclose(read(0.0, 0.0), read(5.0, 5.0), atol=1e-5)
    assert np.abs(read(0.0, 0.0) - read(5.0, 0.0)).max() > 1e-2
