"""Is the contrastive objective what numpy computes by hand, with holes, absences, captions and shared concepts?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.models.dual_tower import DualTower
from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.objectives.contrastive import Contrastive, sigmoid_loss, softmax_loss
from mmfuse.types import Batch, Signal, Text

EXAMPLES, WIDTH, SCALE, BIAS = 7, 5, 3.0, -1.5
PAIRS = (("image", "caption"), ("audio", "caption"))
HEAD = DualTower({}, WIDTH, temperature=1 / SCALE, bias=BIAS, rngs=nnx.Rngs(0))

# Example 1 is a hole, 2 has no image, 3 no audio, 4 no caption, 5 nothing; 0 and 6 show the same thing.
VALID = np.array([1, 0, 1, 1, 1, 1, 1], bool)
THERE = {
    "image": np.array([[1], [1], [0], [1], [1], [0], [1]], bool),
    "audio": np.array([[1], [1], [1], [0], [1], [0], [1]], bool),
    "caption": np.array([[1, 1], [1, 1], [1, 0], [1, 1], [0, 0], [0, 0], [0, 1]], bool),
}
CONCEPT = np.array([11, 0, 12, 13, 14, 15, 11], np.int32)


def embeddings_of(seed=0):
    random = np.random.default_rng(seed)
    drawn = {name: random.standard_normal((*there.shape, WIDTH)) for name, there in THERE.items()}
    return {name: (v / np.linalg.norm(v, axis=-1, keepdims=True)).astype(np.float32) for name, v in drawn.items()}


def batch_of(valid=VALID, there=THERE, concept=CONCEPT):
    def signal(mask):
        return Signal(jnp.zeros((*mask.shape, 2)), mask, jnp.zeros(mask.shape, int), jnp.zeros((*mask.shape, 1), int))

    segment = there["caption"][..., None].astype(np.int32)
    text = {"caption": Text(segment, segment, segment.astype(np.float32))}
    signals = {name: signal(there[name]) for name in ("image", "audio")}
    batch = Batch(signals, text, valid, concept, np.zeros((len(valid), 2), np.int32))
    return jax.tree.map(jnp.asarray, batch)


def terms_of(loss, embeddings, batch, between=PAIRS):
    memory = Memory({}, jax.tree.map(jnp.asarray, embeddings), {}, {}, {})
    return Contrastive(between, loss)(Multimodal({}, HEAD, None), memory, batch, jax.random.key(0))


def one_row(loss, row, columns):
    """The loss of one embedding against (concept, embedding) columns, and whether the nearest one is right."""
    concept, embedding = row
    scores = {i: SCALE * float(embedding @ column) for i, (_, column) in enumerate(columns)}
    positives = [i for i, (other, _) in enumerate(columns) if other == concept]
    right = max(scores, key=scores.get) in positives
    if loss is softmax_loss:
        total = np.log(sum(np.exp(score) for score in scores.values()))
        return np.mean([total - scores[i] for i in positives]), right
    signs = {i: 1 if i in positives else -1 for i in scores}
    return sum(np.log1p(np.exp(-signs[i] * (scores[i] + BIAS))) for i in scores), right


def by_hand(loss, embeddings):
    """Value, weight and both metrics, one example and one pair after another."""
    values, metrics = {i: [] for i in range(EXAMPLES)}, {}
    for a, b in PAIRS:
        both = [i for i in range(EXAMPLES) if VALID[i] and THERE[a][i].any() and THERE[b][i].any()]
        rows = {
            name: {i: [(CONCEPT[i], embeddings[name][i, c]) for c in np.flatnonzero(THERE[name][i])] for i in both}
            for name in (a, b)
        }
        columns = {name: [row for i in both for row in rows[name][i]] for name in (a, b)}
        metrics[f"{a}_to_{b}"] = {}
        for i in both:
            forth = [one_row(loss, row, columns[b]) for row in rows[a][i]]
            back = [one_row(loss, row, columns[a]) for row in rows[b][i]]
            values[i].append((np.mean([v for v, _ in forth]) + np.mean([v for v, _ in back])) / 2)
            metrics[f"{a}_to_{b}"][i] = np.mean([right for _, right in forth])
    return {i: np.mean(found) for i, found in values.items() if found}, metrics


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_values_weights_and_metrics_by_hand(loss):
    embeddings = embeddings_of()
    terms = terms_of(loss, embeddings, batch_of())
    values, metrics = by_hand(loss, embeddings)
    assert sorted(values) == [0, 2, 3, 6]
    np.testing.assert_array_equal(np.flatnonzero(terms.weight), sorted(values))
    assert set(np.unique(terms.weight)) == {0, 1}
    for i, value in values.items():
        np.testing.assert_allclose(terms.value[i], value, rtol=1e-5)
    assert terms.metrics.keys() == metrics.keys()
    for name, (right, weight) in terms.metrics.items():
        assert np.flatnonzero(weight).tolist() == sorted(metrics[name])
        for i, share in metrics[name].items():
            np.testing.assert_allclose(right[i], share, err_msg=name)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_permuted_rows_have_permuted_values(loss):
    order = np.random.default_rng(1).permutation(EXAMPLES)
    embeddings, there = embeddings_of(), {name: mask[order] for name, mask in THERE.items()}
    straight = terms_of(loss, embeddings, batch_of())
    moved = {name: array[order] for name, array in embeddings.items()}
    permuted = terms_of(loss, moved, batch_of(VALID[order], there, CONCEPT[order]))
    for one, other in zip(jax.tree.leaves(straight), jax.tree.leaves(permuted), strict=True):
        np.testing.assert_allclose(one[order], other, rtol=1e-5)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
@pytest.mark.parametrize("filling", [np.nan, np.inf, 1e3])
def test_what_is_not_there_has_no_influence(loss, filling):
    batch, embeddings = batch_of(), embeddings_of()
    spoiled = {
        name: np.where((THERE[name] & VALID[:, None])[..., None], array, np.float32(filling))
        for name, array in embeddings.items()
    }

    def total(embeddings):
        terms = terms_of(loss, embeddings, batch)
        return (terms.value * terms.weight).sum(), terms

    clean, spoiled = (jax.grad(total, has_aux=True)(given) for given in (embeddings, spoiled))
    for one, other in zip(jax.tree.leaves(clean), jax.tree.leaves(spoiled), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, gradient in clean[0].items():
        assert np.isfinite(gradient).all()
        moved = (np.asarray(gradient) != 0).any(axis=-1)
        assert not moved[~(THERE[name] & VALID[:, None])].any()
    assert (np.asarray(clean[0]["caption"])[0] != 0).any(axis=-1).all()


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
@pytest.mark.parametrize("valid", [np.zeros(EXAMPLES, bool), np.arange(EXAMPLES) == 5])
def test_a_batch_without_a_pair_counts_nothing(loss, valid):
    terms = terms_of(loss, embeddings_of(), batch_of(valid))
    assert (terms.weight == 0).all() and (terms.value == 0).all()
    assert all((weight == 0).all() for _, weight in terms.metrics.values())


def test_one_pair_alone_is_the_sigmoid_loss_of_the_paper():
    """With one caption each and nothing absent, the mean is −1/n Σ_ij log σ(y_ij (t x_i·y_j + b))."""
    there = {name: np.ones((EXAMPLES, 1), bool) for name in THERE}
    embeddings = {name: array[:, :1] for name, array in embeddings_of().items()}
    batch = batch_of(np.ones(EXAMPLES, bool), there, np.arange(EXAMPLES, dtype=np.int32))
    terms = terms_of(sigmoid_loss, embeddings, batch, [("image", "caption")])
    logits = SCALE * embeddings["image"][:, 0] @ embeddings["caption"][:, 0].T + BIAS
    paper = np.log1p(np.exp(-(2 * np.eye(EXAMPLES) - 1) * logits)).sum() / EXAMPLES
    np.testing.assert_allclose(terms.value.mean(), paper, rtol=1e-5)


def test_both_ways_and_the_nearest_are_of_the_same_products():
    """However many pairs there are, each has one matrix of cosines, by exact products."""
    program = jax.make_jaxpr(lambda embeddings: terms_of(softmax_loss, embeddings, batch_of()))(embeddings_of())
    products = [equation for equation in program.eqns if equation.primitive.name == "dot_general"]
    assert len(products) == len(PAIRS)
    assert all(product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for product in products)
