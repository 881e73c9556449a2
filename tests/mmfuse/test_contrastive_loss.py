"""Contrastive losses against numpy, one row at a time, and against the identities of CLIP and SigLIP."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmfuse.nn.losses.contrastive import cosines, info_nce, pairwise_sigmoid

A, B, E = 5, 7, 3
SCALE, BIAS = jnp.float32(3.7), jnp.float32(-1.3)
random = np.random.default_rng(0)


def unit(number):
    vectors = random.standard_normal((number, E))
    return jnp.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), jnp.float32)


ROWS, COLUMNS = unit(A), unit(B)
POSITIVE = np.zeros((A, B), bool)
POSITIVE[[0, 1, 1, 1, 2, 2, 3], [0, 1, 4, 6, 2, 5, 5]] = (
    True  # row 4 has none; row 3's only one and one of row 2's are not valid
)
VALID = np.array([True, True, True, False, True, False, True])


def info_nce_by_hand(scores, positive, valid):
    values = []
    for a, row in enumerate(scores):
        total = np.log(sum(np.exp(row[b]) for b in np.flatnonzero(valid))) if valid.any() else 0.0
        mine = [b for b in np.flatnonzero(valid) if positive[a, b]]
        values.append(np.mean([total - row[b] for b in mine]) if mine else 0.0)
    return np.array(values)


def sigmoid_by_hand(scores, positive, valid):
    sign = np.where(positive, 1, -1)
    return (np.log1p(np.exp(-sign * scores)) * valid).sum(axis=1)


LOSSES = {
    "info_nce": (functools.partial(info_nce, scale=SCALE), info_nce_by_hand, 0.0),
    "sigmoid": (functools.partial(pairwise_sigmoid, scale=SCALE, bias=BIAS), sigmoid_by_hand, float(BIAS)),
}
MASKS = {"some": VALID, "all": np.ones(B, bool), "one": np.arange(B) == 4, "none": np.zeros(B, bool)}


@pytest.mark.parametrize("valid", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("loss, by_hand, bias", LOSSES.values(), ids=LOSSES.keys())
def test_values_by_hand(loss, by_hand, bias, valid):
    scores = 3.7 * np.asarray(ROWS, np.float64) @ np.asarray(COLUMNS, np.float64).T + bias
    got = loss(cosines(ROWS, COLUMNS), jnp.asarray(POSITIVE), jnp.asarray(valid))
    np.testing.assert_allclose(got, by_hand(scores, POSITIVE, valid), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("valid", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("loss", [row[0] for row in LOSSES.values()], ids=LOSSES.keys())
def test_gradients_are_finite_and_nothing_flows_from_masked_columns(loss, valid):
    def total(rows, columns):
        return loss(cosines(rows, columns), jnp.asarray(POSITIVE), jnp.asarray(valid)).sum()

    rows, columns = jax.grad(total, argnums=(0, 1))(ROWS, COLUMNS)
    assert np.isfinite(rows).all() and np.isfinite(columns).all()
    assert (np.asarray(columns)[~valid] == 0).all()
    assert valid.sum() < 2 or (np.asarray(columns)[valid] != 0).any(axis=1).all()


def test_the_symmetric_loss_of_clip():
    rows, columns = unit(B), unit(B)
    ways = cosines(rows, columns), cosines(columns, rows)
    ours = sum(info_nce(way, jnp.eye(B, dtype=bool), jnp.ones(B, bool), scale=SCALE) for way in ways) / 2
    logits, labels = SCALE * rows @ columns.T, jnp.arange(B)
    theirs = [optax.softmax_cross_entropy_with_integer_labels(way, labels) for way in (logits, logits.T)]
    np.testing.assert_allclose(ours, (theirs[0] + theirs[1]) / 2, rtol=1e-5)


def test_a_batch_of_one_teaches_softmax_nothing_and_sigmoid_something():
    one = ROWS[:1], COLUMNS[:1], jnp.ones((1, 1), bool), jnp.ones(1, bool)
    for loss, zero in ((LOSSES["info_nce"][0], True), (LOSSES["sigmoid"][0], False)):
        value, gradient = jax.value_and_grad(lambda rows, loss=loss: loss(cosines(rows, one[1]), *one[2:]).sum())(
            one[0]
        )
        assert (value == 0) == zero
        assert (np.abs(gradient).max() < 1e-6) == zero


def test_large_scores_do_not_overflow():
    for loss in (info_nce, functools.partial(pairwise_sigmoid, bias=jnp.float32(0))):
        value = loss(cosines(ROWS, COLUMNS), jnp.asarray(POSITIVE), jnp.asarray(VALID), scale=jnp.float32(1e4))
        assert np.isfinite(value).all()


@pytest.mark.parametrize("loss", [row[0] for row in LOSSES.values()], ids=LOSSES.keys())
def test_bfloat16_embeddings_give_a_float32_loss(loss):
    rows, columns = ROWS.astype(jnp.bfloat16), COLUMNS.astype(jnp.bfloat16)
    arguments = jnp.asarray(POSITIVE), jnp.asarray(VALID)
    got = loss(cosines(rows, columns), *arguments)
    exact = loss(cosines(rows.astype(jnp.float32), columns.astype(jnp.float32)), *arguments)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-6)
