"""Is the loss of generation that of the answer's tokens, each predicted from those before it, and of nothing else?"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from input_pipeline.collate import Row, collate
from input_pipeline.texts import Encoded, TextSpec
from mmfuse.models.multimodal import Multimodal
from mmfuse.models.single_tower import SingleTower
from mmfuse.nn.positions import LearnedPosition
from mmfuse.objectives.generation import Generation

PROMPT = 2  # tokens of each target that have no weight
CHUNK = 4
KEY = jax.random.key(0)


def with_target(batch, **changes):
    return batch._replace(text={"target": batch.text["target"]._replace(**changes)})


@pytest.fixture
def answers(batch):
    """Targets (3, 2, 7) with weights behind the prompt; text 1 of example 0 is absent, example 1 is a hole."""
    target = batch.text["target"]
    segment = np.array(target.segment)
    segment[0, 1] = 0
    segment[1] = 0
    weight = np.random.default_rng(5).uniform(0.5, 2, segment.shape) * (segment > 0)
    weight[..., :PROMPT] = 0
    valid = batch.valid.at[1].set(False)
    hole = {
        name: signal._replace(item_mask=signal.item_mask.at[1].set(False)) for name, signal in batch.signals.items()
    }
    weight = jnp.asarray(weight, jnp.float32)
    return with_target(batch, segment=jnp.asarray(segment), weight=weight)._replace(valid=valid, signals=hole)


def terms_of(model, batch, chunk=CHUNK):
    graph, state = nnx.split(model)
    return _terms(graph, state, batch, chunk)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _terms(graph, state, batch, chunk):
    model = nnx.merge(graph, state)
    return Generation(chunk)(model, model.encode(batch), batch, KEY)


def logits_of(model, batch):
    """The model's logits, straight from `decode` and `readout`, (B C T V)."""
    graph, state = nnx.split(model)

    @jax.jit
    def compute(state, batch):
        model, (ids, segment, _) = nnx.merge(graph, state), batch.text["target"]
        tokens = model.single.read(ids.reshape(-1, ids.shape[-1]), segment.reshape(-1, ids.shape[-1]))
        return model.single.readout(model.single.decode(tokens, model.encode(batch)).hidden)

    return np.asarray(compute(state, batch), np.float64).reshape(*batch.text["target"].ids.shape, -1)


def test_value_weight_and_accuracy_by_hand(model, answers):
    logits, target = logits_of(model, answers), jax.tree.map(np.asarray, answers.text["target"])
    terms = terms_of(model, answers)
    for example in range(3):
        loss = right = total = 0.0
        for text in range(2):
            for place in range(1, 7):
                scores, token = logits[example, text, place - 1], target.ids[example, text, place]
                weight = target.weight[example, text, place]
                loss += weight * (np.log(np.exp(scores).sum()) - scores[token])
                right += weight * (scores.argmax() == token)
                total += weight
        np.testing.assert_allclose(terms.weight[example], total, rtol=1e-6)
        accuracy, weight = terms.metrics["token_accuracy"]
        np.testing.assert_allclose(weight[example], total, rtol=1e-6)
        np.testing.assert_allclose(terms.value[example], loss / total if total else 0, rtol=1e-5)
        np.testing.assert_allclose(accuracy[example], right / total if total else 0, rtol=1e-6)
    assert terms.weight[1] == 0 and (np.asarray(terms.weight)[[0, 2]] > 0).all()


def test_what_is_read_alone_is_what_it_would_be_without_the_others(model, answers):
    """Example 0 has a picture and a sound, example 2 a sound alone."""

    def without(*names):
        masks = {name: jnp.zeros_like(answers.signals[name].item_mask) for name in names}
        signals = {name: answers.signals[name]._replace(item_mask=mask) for name, mask in masks.items()}
        terms = terms_of(model, answers._replace(signals=answers.signals | signals))
        return np.asarray(terms.value), np.asarray(terms.metrics["token_accuracy"][0])

    graph, state = nnx.split(model)

    @jax.jit
    def compute(state, batch):
        model = nnx.merge(graph, state)
        return Generation(CHUNK, alone=0.3)(model, model.encode(batch), batch, jax.random.key(0))

    terms = compute(state, answers)
    taken = {"": (), "/image": ("audio",), "/audio": ("image",), "/nothing": ("image", "audio")}
    found = {view: without(*names) for view, names in taken.items()}
    loss = {view: value for view, (value, _) in found.items()}
    assert min(abs(a[0] - b[0]) for a, b in itertools.combinations(loss.values(), 2)) > 1e-3
    alone = [loss[view][0] for view in ("/image", "/audio", "/nothing")]
    np.testing.assert_allclose(terms.value[0], 0.7 * loss[""][0] + 0.3 * np.mean(alone), rtol=1e-5)
    lacks = [loss[view][2] for view in ("/audio", "/nothing")]  # the picture
    np.testing.assert_allclose(terms.value[2], 0.7 * loss[""][2] + 0.3 * np.mean(lacks), rtol=1e-5)
    counted = {"": [1, 1, 1], "/image": [1, 1, 0], "/audio": [1, 0, 1], "/nothing": [1, 1, 1]}
    for view, (_, right) in found.items():
        accuracy, weight = terms.metrics[f"token_accuracy{view}"]
        np.testing.assert_allclose(accuracy[0], right[0], rtol=1e-6)
        np.testing.assert_allclose(weight, np.asarray(terms.weight) * counted[view], rtol=1e-6)


def test_the_weight_needs_no_model_and_leaves_out_the_first_token(model, answers):
    target = answers.text["target"]
    heavy = with_target(answers, weight=target.weight.at[..., 0].set(100.0))
    expected = np.asarray(target.weight).sum(axis=(1, 2))
    np.testing.assert_allclose(Generation(CHUNK).weight(heavy), expected, rtol=1e-6)
    np.testing.assert_array_equal(terms_of(model, heavy).value, terms_of(model, answers).value)


def test_what_is_predicted_within_the_prompt_does_not_matter(model, answers, monkeypatch):
    """The gradient with respect to the decoder's hidden states, which are all that the logits are read from."""
    decode, (graph, state) = SingleTower.decode, nnx.split(model)

    @jax.jit
    def gradient(state, batch, shift):
        def total(shift):
            def shifted(*arguments):
                out = decode(*arguments)
                return out._replace(hidden=out.hidden + shift)

            monkeypatch.setattr(SingleTower, "decode", shifted)
            model = nnx.merge(graph, state)
            terms = Generation(CHUNK)(model, model.encode(batch), batch, KEY)
            return (terms.value * terms.weight).sum()

        return jax.grad(total)(shift)

    moved = (np.asarray(gradient(state, answers, jnp.zeros((6, 7, 24)))) != 0).any(axis=-1).reshape(3, 2, 7)
    predicts = np.zeros((3, 2, 7), bool)
    predicts[..., :-1] = np.asarray(answers.text["target"].weight)[..., 1:] > 0  # place t predicts token t + 1
    np.testing.assert_array_equal(moved, predicts)


def test_a_token_matters_to_those_behind_it_alone(model, answers):
    """A changed last token changes its own loss; a changed padding token changes nothing."""
    target = answers.text["target"]
    lengths = np.asarray((target.segment > 0).sum(axis=-1))
    assert lengths[2].tolist() == [2, 7]
    other = target.ids.at[2, 0, 2:].set(5)
    np.testing.assert_array_equal(
        terms_of(model, with_target(answers, ids=other)).value, terms_of(model, answers).value
    )
    last = target.ids.at[2, 1, 6].set(3 + (target.ids[2, 1, 6] - 2) % 10)
    changed = np.asarray(terms_of(model, with_target(answers, ids=last)).value != terms_of(model, answers).value)
    assert changed.tolist() == [False, False, True]


def test_cutting_the_batch_gives_the_same_total(model, answers):
    whole = terms_of(model, answers)
    parts = [terms_of(model, jax.tree.map(lambda array, i=i: array[i : i + 1], answers)) for i in range(3)]
    np.testing.assert_allclose(whole.value, np.concatenate([part.value for part in parts]), rtol=1e-5)
    np.testing.assert_array_equal(whole.weight, np.concatenate([part.weight for part in parts]))


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_the_chunk_changes_nothing(model, answers, chunk):
    np.testing.assert_allclose(terms_of(model, answers, chunk).value, terms_of(model, answers).value, rtol=1e-5)


def targets(batch, lengths, spec):
    """The batch with targets of these lengths (one tuple for each example), collated as `spec` says."""
    random, rows = np.random.default_rng(8), []
    for sizes in lengths:
        ids = [random.integers(3, 13, size).astype(np.int32) for size in sizes]
        weights = [random.uniform(0.5, 2, size).astype(np.float32) for size in sizes]  # on the first tokens, too
        rows.append(Row("a", (0, 0), 0, {}, {"target": list(map(Encoded, ids, weights))}, {}))
    text = collate(rows, len(rows), {}, {"target": spec}).batch.text
    return batch._replace(text=jax.tree.map(jnp.asarray, text))


def loss_and_gradient(single, memory, batch):
    """Σ value · weight / Σ weight as a step takes it, its gradient by the decoder and the memory, and the terms."""
    graph, state = nnx.split(single)

    @jax.jit
    def compute(state, memory, batch):
        def mean(state, values):
            tokens = {name: memory.tokens[name]._replace(values=values[name]) for name in values}
            model = Multimodal({}, None, nnx.merge(graph, state))
            terms = Generation(CHUNK)(model, memory._replace(tokens=tokens), batch, KEY)
            return (terms.value * terms.weight).sum() / terms.weight.sum(), terms

        values = {name: tokens.values for name, tokens in memory.tokens.items()}
        return jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)(state, values)

    (loss, terms), gradient = compute(state, memory, batch)
    return loss, gradient, terms


def test_packed_texts_have_the_loss_and_the_gradient_of_texts_alone(model, shake, batch):
    """Rows of 16 tokens with up to three texts, against a row for each text. There are images with anchors 3 and 2, and
    the decoder has both kinds of positions: it adds learned ones and rotates."""
    single, (graph, state) = nnx.clone(model.single), nnx.split(model)
    single.position = nnx.data(shake(LearnedPosition((16,), 24, rngs=nnx.Rngs(0))))
    memory = jax.jit(lambda state: nnx.merge(graph, state).encode(batch._replace(text={})))(state)
    lengths = ((5, 7, 3, 9, 4), (6, 2, 8), (7, 9, 1))
    packed = targets(batch, lengths, TextSpec("captions", 2, 16, packed=3))
    alone = targets(batch, lengths, TextSpec("captions", 5, 9))
    segments = np.asarray(packed.text["target"].segment)
    assert segments.max(axis=-1).tolist() == [[3, 2], [3, 0], [2, 1]] and (segments > 0).sum() == 61
    loss, gradient, terms = loss_and_gradient(single, memory, packed)
    wanted, wanted_gradient, wanted_terms = loss_and_gradient(single, memory, alone)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    np.testing.assert_array_equal(terms.weight, Generation(CHUNK).weight(packed))
    for one, other in zip(jax.tree.leaves(terms), jax.tree.leaves(wanted_terms), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=1e-6)
