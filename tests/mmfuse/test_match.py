"""How well two modalities match: against scipy and numpy, in closed form, and in degenerate cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

from mmfuse.nn.losses.routing import mismatch_loss
from mmfuse.routing.match import (
    EVIDENCE,
    MatchHead,
    compare_highest,
    cosine_matrix,
    excess_kurtosis,
    match_evidence,
    normalised_entropy,
    spectrum,
    suppress,
)
from mmfuse.types import Tokens

B, A, S, D = 5, 7, 11, 3
random = np.random.default_rng(0)
MASK = random.random((B, A, S)) < 0.6
MASK[0, 0], MASK[0, 1] = True, np.arange(S) == 4  # all, and a single one
NONE = (1, 2)
MASK[NONE] = False


def compiled_gradient(function, argnums=0):
    return jax.jit(jax.grad(function, argnums))


def tokens(values, lengths):
    """Tokens whose padding holds what a sum or a product would not survive."""
    segment = jnp.asarray(np.arange(values.shape[1])[None] < np.asarray(lengths)[:, None], jnp.int32)
    values = jnp.where((segment > 0)[..., None], jnp.asarray(values, jnp.float32), jnp.nan)
    return Tokens(values, segment, jnp.zeros((*segment.shape, 1)), jnp.zeros_like(segment), jnp.zeros_like(segment))


ROWS, COLUMNS = [7, 4, 1, 0, 5], [11, 6, 1, 3, 0]  # one pair of tokens; no row; no column
LEFT = tokens(random.standard_normal((B, A, D)), ROWS)
RIGHT = tokens(random.standard_normal((B, S, D)), COLUMNS)


def of_rows(function, values, mask):
    return np.array([[function(row[seen]) for row, seen in zip(*pair)] for pair in zip(values, mask)])


def test_entropy_agrees_with_scipy():
    weights = random.exponential(size=MASK.shape)

    def entropy(row):
        return stats.entropy(row) / np.log(len(row)) if len(row) > 1 else 0.0

    got = normalised_entropy(jnp.asarray(weights, jnp.float32), jnp.asarray(MASK))
    np.testing.assert_allclose(got, of_rows(entropy, weights, MASK), atol=1e-6)
    assert got[0, 1] == got[NONE] == 0


def test_entropy_is_one_for_uniform_zero_for_one_hot_and_for_nothing():
    mask = jnp.asarray(np.arange(S)[None] < np.array([[2], [7], [11]]))
    np.testing.assert_allclose(normalised_entropy(jnp.full((3, S), 0.3), mask), 1, atol=1e-6)
    one_hot = jnp.zeros((3, S)).at[:, 1].set(0.2)
    assert (normalised_entropy(one_hot, mask) == 0).all() and (normalised_entropy(0 * one_hot, mask) == 0).all()


def test_kurtosis_agrees_with_scipy_at_any_scale():
    scores = random.standard_normal(MASK.shape) ** 3 + 0.5
    seen = MASK & (MASK.sum(axis=2, keepdims=True) > 1)
    many = seen.any(axis=2)
    expected = of_rows(lambda row: stats.kurtosis(row) if len(row) else 0.0, scores, seen)
    for scale in (1.0, 1e-6, 1e4):
        got = excess_kurtosis(jnp.asarray(scale * scores, jnp.float32), jnp.asarray(MASK))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert (got[~many] == 0).all()


def test_kurtosis_of_known_distributions():
    def kurtosis(values):
        return float(excess_kurtosis(jnp.asarray(values, jnp.float32), jnp.ones(len(values), bool)))

    quantiles = (np.arange(100_003) + 0.5) / 100_003
    assert abs(kurtosis(stats.norm.ppf(quantiles))) < 5e-3
    assert abs(kurtosis(quantiles) + 1.2) < 1e-3
    assert abs(kurtosis(np.tile([0.3, 0.7], 50)) + 2) < 1e-4
    assert kurtosis(np.full(13, 0.1)) == 0  # whose mean in float32 is not 0.1


@pytest.mark.parametrize("measure", [normalised_entropy, excess_kurtosis])
def test_gradients_of_rows_are_those_of_differences_finite_and_zero_outside_the_mask(measure):
    row = jnp.asarray(random.random((2, S)), jnp.float32).at[:, 3].set(0)
    mask = jnp.asarray(np.arange(S) < 8)[None].repeat(2, axis=0)
    measure = jax.jit(measure)
    gradient = jax.grad(lambda values: measure(values, mask)[0])(row)
    assert (gradient[1] == 0).all() and (gradient[:, 8:] == 0).all()
    for place in (0, 5):
        step = jnp.zeros_like(row).at[0, place].set(1e-2)
        slope = (measure(row + step, mask) - measure(row - step, mask))[0] / 2e-2
        np.testing.assert_allclose(gradient[0, place], slope, rtol=1e-2)
    total = compiled_gradient(lambda values, seen: measure(values, seen).sum())
    for values in (jnp.zeros((2, S)), jnp.full((2, S), 0.1), jnp.zeros((2, S)).at[:, 0].set(1.0)):
        for seen in (mask, jnp.zeros_like(mask), jnp.arange(S)[None] < jnp.ones((2, 1), int)):
            assert np.isfinite(total(values, seen)).all()


def test_cosines_by_hand_and_zero_in_padding():
    got, left, right = np.asarray(cosine_matrix(LEFT, RIGHT)), np.asarray(LEFT.values), np.asarray(RIGHT.values)
    for b, i, j in np.ndindex(B, A, S):
        if i < ROWS[b] and j < COLUMNS[b]:
            x, y = left[b, i], right[b, j]
            np.testing.assert_allclose(got[b, i, j], x @ y / np.linalg.norm(x) / np.linalg.norm(y), atol=1e-6)
        else:
            assert got[b, i, j] == 0


def test_a_zero_vector_has_cosine_zero_and_widths_must_agree():
    nothing = LEFT._replace(values=jnp.zeros_like(LEFT.values))
    assert (cosine_matrix(nothing, RIGHT) == 0).all()
    gradient = compiled_gradient(lambda values: cosine_matrix(nothing._replace(values=values), RIGHT).sum())(
        nothing.values
    )
    assert np.isfinite(gradient).all()
    with pytest.raises(ValueError, match="widths 3 and 2 have no cosine"):
        cosine_matrix(LEFT, RIGHT._replace(values=RIGHT.values[..., :2]))


def spectrum_by_hand(matrix):
    share = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False) ** 2
    share = share / share.sum()
    return 1 / np.square(share).sum(), share[0]


def test_spectrum_in_closed_form():
    for number in (1, 2, 5, 7):
        padded = jnp.zeros((1, A, S)).at[0, :number, :number].set(jnp.eye(number))
        np.testing.assert_allclose(spectrum(padded), [[number], [1 / number]], rtol=1e-6)
    one = jnp.asarray(np.outer(random.standard_normal(61), random.standard_normal(67)), jnp.float32)[None]
    np.testing.assert_allclose(spectrum(one), [[1], [1]], rtol=1e-6)
    assert np.array_equal(spectrum(jnp.zeros((2, A, S))), np.zeros((2, 2)))
    matrices = random.standard_normal((B, A, S))
    expected = np.transpose([spectrum_by_hand(matrix) for matrix in matrices])
    np.testing.assert_allclose(spectrum(jnp.asarray(matrices, jnp.float32)), expected, rtol=1e-5)


@pytest.mark.parametrize("sigma", [(3.0, 2.0, 1.0), (2.0, 2.0, 1.0), (1.5, 1.5, 1.5)])
def test_gradient_of_the_effective_rank_where_singular_values_repeat(sigma):
    left, right = (np.linalg.qr(random.standard_normal((size, 3)))[0] for size in (A, S))
    matrix, step = left * np.array(sigma) @ right.T, left @ random.standard_normal((3, 3)) @ right.T
    gradient = compiled_gradient(lambda x: spectrum(x)[0][0])(jnp.asarray(matrix, jnp.float32)[None])[0]
    assert np.isfinite(gradient).all()
    slope = (spectrum_by_hand(matrix + 1e-5 * step)[0] - spectrum_by_hand(matrix - 1e-5 * step)[0]) / 2e-5
    np.testing.assert_allclose((gradient * step).sum(), slope, atol=2e-4)


@pytest.mark.parametrize("matrix", [np.eye(7, 11), np.ones((7, 11)), np.zeros((7, 11))], ids=["eye", "ones", "zeros"])
def test_gradients_of_degenerate_spectra_are_finite(matrix):
    for part in (0, 1):
        gradient = compiled_gradient(lambda x, part=part: spectrum(x)[part].sum())(
            jnp.asarray(matrix, jnp.float32)[None]
        )
        assert np.isfinite(gradient).all()


def evidence_by_hand(x, y, temperature):
    cosine = x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)[None]
    found = {"mean": cosine.mean(), "highest": cosine.max()}
    for side, rows in (("rows", cosine), ("columns", cosine.T)):
        number = rows.shape[1]
        weights = special.softmax(rows / temperature, axis=1)
        found[f"best_{side}"] = rows.max(axis=1).mean()
        found[f"worst_{side}"] = rows.max(axis=1).min()
        found[f"entropy_{side}"] = stats.entropy(weights, axis=1).mean() / np.log(number) if number > 1 else 0.0
        found[f"kurtosis_{side}"] = np.arcsinh(stats.kurtosis(rows, axis=1)).mean() if number > 1 else 0.0
    rank, found["top_share"] = spectrum_by_hand(cosine)
    return [(found | {"effective_rank": rank / min(cosine.shape)})[name] for name in EVIDENCE]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_evidence_by_hand(temperature):
    got = jax.jit(match_evidence, static_argnames="temperature")(LEFT, RIGHT, temperature=temperature)
    left, right = np.float64(LEFT.values), np.float64(RIGHT.values)
    for b, (rows, columns) in enumerate(zip(ROWS, COLUMNS)):
        x, y = left[b, :rows], right[b, :columns]
        expected = evidence_by_hand(x, y, temperature) if rows and columns else np.zeros(len(EVIDENCE))
        np.testing.assert_allclose(got[b], expected, atol=2e-5)
    assert (got[3:] == 0).all()


def test_evidence_of_the_other_order_exchanges_rows_and_columns():
    there, back = (np.asarray(jax.jit(match_evidence)(*pair)) for pair in ((LEFT, RIGHT), (RIGHT, LEFT)))
    swapped = {"rows": "columns", "columns": "rows"}
    for place, name in enumerate(EVIDENCE):
        what, _, side = name.rpartition("_")
        other = EVIDENCE.index(f"{what}_{swapped[side]}" if side in swapped else name)
        np.testing.assert_allclose(there[:, place], back[:, other], atol=1e-5)


def test_gradients_of_the_evidence_are_finite_and_exactly_zero_in_padding():
    def total(left, right):
        evidence = match_evidence(LEFT._replace(values=left), RIGHT._replace(values=right))
        return jnp.sin(evidence).sum()

    for gradient, lengths in zip(compiled_gradient(total, (0, 1))(LEFT.values, RIGHT.values), (ROWS, COLUMNS)):
        gradient = np.asarray(gradient)
        for b, length in enumerate(lengths):
            assert np.isfinite(gradient[b]).all() and (gradient[b, length:] == 0).all()
        assert (gradient[:2] != 0).any(axis=2).sum() == sum(lengths[:2]) and (gradient[3:] == 0).all()


def test_gradients_are_finite_where_all_tokens_are_the_same():
    same = tokens(np.ones((B, A, D)), ROWS)
    gradient = compiled_gradient(lambda values: match_evidence(same._replace(values=values), same).sum())(same.values)
    assert np.isfinite(gradient).all()


def test_evidence_of_bfloat16_tokens_is_float32():
    half = LEFT._replace(values=LEFT.values.astype(jnp.bfloat16))
    assert jax.eval_shape(match_evidence, half, RIGHT).dtype == jnp.float32


def test_what_is_highest_is_compared_channel_by_channel():
    got = np.asarray(jax.jit(compare_highest)(LEFT, RIGHT))
    for b, (rows, columns) in enumerate(zip(ROWS, COLUMNS)):
        if not rows or not columns:
            np.testing.assert_array_equal(got[b], 0)
            continue
        u, v = (np.asarray(side.values)[b, :n].max(axis=0) for side, n in ((LEFT, rows), (RIGHT, columns)))
        np.testing.assert_allclose(got[b], [*np.abs(u - v), *u * v], rtol=1e-6)
    gradient = compiled_gradient(lambda values: compare_highest(LEFT._replace(values=values), RIGHT).sum())(LEFT.values)
    felt = (np.asarray(gradient) != 0).any(axis=2)
    assert np.isfinite(gradient).all() and not felt[np.asarray(LEFT.segment) == 0].any()
    np.testing.assert_array_equal(felt.any(axis=1), [bool(n and m) for n, m in zip(ROWS, COLUMNS)])


def pairs(drawn, number):
    """Tokens in which half of the pairs show the same things in another order, with noise, and half do not."""
    things = drawn.standard_normal((number, 5, 8))
    swapped = drawn.random(number) < 0.5
    other = np.where(swapped[:, None, None], drawn.standard_normal((number, 5, 8)), things[:, ::-1])
    lengths = np.full(number, 5)
    return tokens(things, lengths), tokens(other + 0.5 * drawn.standard_normal(other.shape), lengths), swapped


def test_the_head_learns_what_does_not_match():
    head = MatchHead(8, rngs=nnx.Rngs(0))
    graph, state = nnx.split(head)
    left, right, swapped = pairs(np.random.default_rng(1), 257)

    def loss(state):
        return mismatch_loss(nnx.merge(graph, state)(left, right), swapped=jnp.asarray(swapped)).mean()

    @jax.jit
    def step(state):
        return jax.tree.map(lambda x, slope: x - 0.3 * slope, state, jax.grad(loss)(state))

    for _ in range(200):
        state = step(state)
    left, right, unseen = pairs(np.random.default_rng(2), 101)
    logits = np.asarray(nnx.merge(graph, state)(left, right))
    above = logits[unseen][:, None] > logits[~unseen][None]
    assert above.mean() >= 0.97  # the area under the curve


def test_suppression_is_exact_and_learns_straight_through():
    mismatch = jnp.array([0.0, 0.3, 0.5, 0.51, 0.9999999])
    factor, gradient = jax.value_and_grad(lambda p: suppress(p, 0.5).sum())(mismatch)
    np.testing.assert_array_equal(suppress(mismatch, 0.5), [1, 1, 1, 0, 0])
    assert factor == 3 and (gradient == -1).all()
