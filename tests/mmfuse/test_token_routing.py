"""Which tokens are kept, by hand; which gradients flow; and block-sparse attention against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.routing.tokens import PatchSaliency, TokenSelection, class_attention, prune_text, saliency_topk
from mmfuse.types import Tokens

B, S, D = 5, 7, 3
random = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(random.standard_normal(shape), jnp.float32)


SEGMENT = jnp.array(
    [[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1, 1], [1, 1, 2, 2, 2, 2, 0]]
)
VALUES = normal(B, S, D)
TOKENS = Tokens(
    jnp.where((SEGMENT > 0)[..., None], VALUES, jnp.nan),
    SEGMENT,
    jnp.asarray(random.random((B, S, 2)), jnp.float32),
    jnp.asarray(random.integers(1, 4, (B, S))),
    jnp.asarray(random.integers(1, 9, (B, S))),
)
SCORES = 100 * normal(B, S)
PADDED = jnp.where(SEGMENT > 0, SCORES, jnp.inf)  # as high as can be where there is nothing to keep


def expected_places(rank, segment, keep):
    """The places that are kept, one row at a time: in order, of those there are, by falling rank."""
    places = []
    for row, there in zip(rank, np.asarray(segment) > 0):
        valid = [place for place in range(len(row)) if there[place]]
        places.append(sorted(sorted(valid, key=lambda place: -row[place])[:keep]))
    return places


def assert_kept(kept, places, keep):
    assert kept.values.shape == (B, keep, D)
    for row, its in enumerate(places):
        for field, array in zip(kept, TOKENS):
            got = np.asarray(field[row])
            np.testing.assert_array_equal(got[: len(its)], np.asarray(array[row])[its])
            assert (got[len(its) :] == 0).all()


@pytest.mark.parametrize("keep", [1, 3, 7])
def test_the_most_salient_tokens_are_kept_in_order_with_all_that_is_known_of_them(keep):
    assert_kept(saliency_topk(TOKENS, PADDED, keep), expected_places(np.asarray(SCORES), SEGMENT, keep), keep)


def test_of_equal_scores_the_first_are_kept():
    assert_kept(saliency_topk(TOKENS, jnp.zeros((B, S)), 2), [[0, 1], [0, 1], [], [1, 3], [0, 1]], 2)


@pytest.mark.parametrize("keep", [3, 5])
def test_a_text_keeps_its_ends(keep):
    ends = [[0, 6], [0, 1, 4], [], [1, 3, 5, 6], [0, 1, 2, 5]]
    importance = -jnp.abs(normal(B, S))
    rank = np.array(importance)
    for row, its in enumerate(ends):
        rank[row, its] = 1
    assert_kept(prune_text(TOKENS, importance, keep), expected_places(rank, SEGMENT, keep), keep)


@pytest.mark.parametrize("choose, keep", [(saliency_topk, 0), (saliency_topk, 8), (prune_text, 1), (prune_text, 8)])
def test_what_cannot_be_kept_is_refused(choose, keep):
    with pytest.raises(ValueError, match="keep"):
        choose(TOKENS, SCORES, keep)


@pytest.mark.parametrize("choose, keep", [(saliency_topk, 3), (prune_text, 3)])
def test_gradients_reach_what_is_kept_and_are_exactly_zero_elsewhere(choose, keep):
    target = normal(B, keep, D)

    def total(values, scores):
        return (choose(TOKENS._replace(values=values), scores, keep).values * target).sum()

    to_values, to_scores = jax.jit(jax.grad(total, argnums=(0, 1)))(TOKENS.values, PADDED)
    index = jnp.broadcast_to(jnp.arange(S), (B, S))
    kept = choose(TOKENS._replace(anchor=index), PADDED, keep)
    places, target, values = np.asarray(kept.anchor), np.asarray(target), np.asarray(TOKENS.values)
    expected_values, expected_scores = np.zeros((B, S, D)), np.zeros((B, S))
    for row, slot in zip(*np.nonzero(kept.segment)):
        place = places[row, slot]
        expected_values[row, place] = target[row, slot]
        expected_scores[row, place] = target[row, slot] @ values[row, place]
    np.testing.assert_array_equal(to_values, expected_values)
    np.testing.assert_allclose(to_scores, expected_scores, rtol=1e-5)
    assert (np.asarray(to_scores)[expected_scores == 0] == 0).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e9])
def test_what_is_kept_is_exactly_what_it_was_whatever_the_scores(dtype, scale):
    tokens = TOKENS._replace(values=TOKENS.values.astype(dtype))
    kept = saliency_topk(tokens, scale * SCORES, S)
    assert kept.values.dtype == dtype
    np.testing.assert_array_equal(kept.values[0], tokens.values[0])


def test_learned_saliency_is_linear(shake):
    saliency = shake(PatchSaliency(D, rngs=nnx.Rngs(0)))
    tokens = TOKENS._replace(values=VALUES)
    np.testing.assert_allclose(saliency(tokens), VALUES @ saliency.score.kernel[...][:, 0], atol=1e-6)


@pytest.mark.parametrize("text", [False, True])
def test_what_is_selected_is_the_same_in_place_and_gathered(shake, text):
    selection = shake(TokenSelection(D, 3, text=text, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(selection)

    def read(state, values, in_place):
        selection, tokens = nnx.merge(graph, state), TOKENS._replace(values=values)
        kept = selection.in_place(tokens) if in_place else selection(tokens)
        # what attention would make of it: a sum over what is not padding, that knows where things stood
        weight = jnp.where(kept.segment > 0, jnp.cos(kept.position.sum(axis=-1)), 0)
        return (jnp.square(kept.values) * weight[..., None]).sum(), kept

    both = [jax.value_and_grad(read, argnums=(0, 1), has_aux=True)(state, TOKENS.values, way) for way in (False, True)]
    ((gathered, kept), slopes), ((placed, there), others) = both
    np.testing.assert_allclose(gathered, placed, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert kept.values.shape == (B, 3, D) and there.values.shape == (B, S, D)
    assert ((np.asarray(there.segment) > 0).sum(axis=1) == (np.asarray(kept.segment) > 0).sum(axis=1)).all()
    choose = prune_text if text else saliency_topk
    plain = TOKENS._replace(values=jnp.where((SEGMENT > 0)[..., None], TOKENS.values, 0))
    expected = choose(plain, selection.score(plain), 3)
    np.testing.assert_array_equal(kept.position, expected.position)


def test_saliency_can_be_learned_from_what_is_kept():
    """One token of each row is marked and says the row's number; the others are noise, and are kept at first."""
    number, noise = normal(257), normal(257, S)
    place = jnp.asarray(random.integers(0, S, 257))
    marked = jax.nn.one_hot(place, S)
    values = jnp.stack([jnp.where(marked > 0, number[:, None], noise), marked, 1 - marked], axis=-1)
    segment = jnp.ones((257, S), jnp.int32)
    tokens = Tokens(values, segment, jnp.zeros((257, S, 1)), segment, segment)
    saliency = PatchSaliency(3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(saliency)
    state = jax.tree.map(lambda kernel: jnp.array([[0.1], [-0.5], [0.5]]), state)

    @jax.jit
    def step(state):
        def loss(state):
            kept = saliency_topk(tokens, nnx.merge(graph, state)(tokens), 1)
            return jnp.square(kept.values[:, 0, 0] - number).mean()

        return jax.tree.map(lambda x, slope: x - 0.1 * slope, state, jax.grad(loss)(state))

    def found(state):
        return (nnx.merge(graph, state)(tokens).argmax(axis=1) == place).mean()

    assert found(state) < 0.1
    for _ in range(60):
        state = step(state)
    assert found(state) > 0.95


def test_class_attention_by_hand():
    weights = jnp.asarray(random.random((B, 2, S, S)), jnp.float32)
    expected = (weights[:, 0, 0, 1:] + weights[:, 1, 0, 1:]) / 2
    np.testing.assert_allclose(class_attention(weights), expected, rtol=1e-6)
