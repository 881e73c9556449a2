"""Masks against literal matrices, and against the rule of each condition written as a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.nn.masks import Mask, allowed


def matrix(*rows):
    """■ may look, · may not."""
    return np.array([[cell == "■" for cell in row] for row in rows])


def test_causal():
    dense = allowed(Mask(causal=True), queries=3, keys=4)
    np.testing.assert_array_equal(dense[0], matrix("■···", "■■··", "■■■·"))


def test_segments_and_padding():
    segment = jnp.array([[1, 1, 2, 2, 0]])
    dense = allowed(Mask(query_segment=segment, key_segment=segment), queries=5, keys=5)
    np.testing.assert_array_equal(dense[0], matrix("■■···", "■■···", "··■■·", "··■■·", "·····"))


def test_keys_that_are_padding_are_hidden_from_queries_without_segment():
    dense = allowed(Mask(key_segment=jnp.array([[0, 3, 1]])), queries=2, keys=3)
    np.testing.assert_array_equal(jnp.broadcast_to(dense, (1, 2, 3))[0], matrix("·■■", "·■■"))


def test_window_is_symmetric_and_open():
    dense = allowed(Mask(window=2), queries=4, keys=5)
    np.testing.assert_array_equal(dense[0], matrix("■■···", "■■■··", "·■■■·", "··■■■"))


def test_an_anchored_key_is_seen_from_its_anchor_on():
    dense = allowed(Mask(key_anchor=jnp.array([[0, 2, 3]])), queries=4, keys=3)
    np.testing.assert_array_equal(dense[0], matrix("■··", "■··", "■■·", "■■■"))


def test_modalities_look_by_row_at_columns():
    mask = Mask(
        query_modality=jnp.array([[0, 1]]),
        key_modality=jnp.array([[1, 0, 2]]),
        modalities=jnp.asarray(matrix("■··", "■·■", "···")),
    )
    np.testing.assert_array_equal(allowed(mask, queries=2, keys=3)[0], matrix("·■·", "·■■"))


def test_nothing_restricts_by_default():
    assert allowed(Mask(), queries=3, keys=5) is None
    assert allowed(Mask(bias=jnp.zeros((1, 1, 3, 5))), queries=3, keys=5) is None


def random_mask(seed, batch, queries, keys):
    random = np.random.default_rng(seed)

    def draw(high, length):
        return jnp.asarray(random.integers(0, high, (batch, length)))

    return Mask(
        query_segment=draw(3, queries),
        key_segment=draw(3, keys),
        query_index=draw(9, queries),
        key_index=draw(9, keys),
        key_anchor=draw(9, keys),
        query_modality=draw(4, queries),
        key_modality=draw(4, keys),
        modalities=jnp.asarray(random.random((4, 4)) < 0.8),
        causal=True,
        window=6,
    )


@pytest.mark.parametrize("seed", range(3))
def test_conditions_are_joined_by_and(seed):
    batch, queries, keys = 11, 5, 7
    mask = random_mask(seed, batch, queries, keys)
    field = {name: np.asarray(getattr(mask, name)) for name in mask.__dataclass_fields__ if name != "bias"}
    expected = np.zeros((batch, queries, keys), bool)
    for b, t, s in np.ndindex(expected.shape):
        q, k = field["query_index"][b, t], field["key_index"][b, s]
        same = field["query_segment"][b, t] == field["key_segment"][b, s] > 0
        near = k <= q and q - k < 6 and q >= field["key_anchor"][b, s]
        expected[b, t, s] = (
            same and near and field["modalities"][field["query_modality"][b, t], field["key_modality"][b, s]]
        )
    assert expected.any()
    np.testing.assert_array_equal(allowed(mask, queries=queries, keys=keys), expected)


def test_a_mask_crosses_jit_with_its_static_fields():
    traced = jax.jit(lambda mask: allowed(mask, queries=5, keys=7))
    for seed in range(2):
        mask = random_mask(seed, 2, 5, 7)
        np.testing.assert_array_equal(traced(mask), allowed(mask, queries=5, keys=7))
    assert traced._cache_size() == 1
