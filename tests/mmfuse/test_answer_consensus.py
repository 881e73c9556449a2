"""Who answers otherwise? Bayes' rule by hand, what knows nothing, what is absent, who is asked alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.models.memory import Memory
from mmfuse.routing.answers import AnswerConsensus, answer_mismatch
from mmfuse.routing.router import Moment
from mmfuse.types import BOS, Tokens

B, Q, V, SLIP = 5, 3, 7, 0.05
NAMES = ("image", "audio", "source")
random = np.random.default_rng(0)


def draw(*shape):
    """Distributions over the last axis."""
    weights = random.gamma(0.5, size=shape) + 1e-3
    return weights / weights.sum(axis=-1, keepdims=True)


def mismatch(a, b, nothing, asked, slip=SLIP):
    logs = (jnp.log(jnp.asarray(side, jnp.float32)) for side in (a, b, nothing))
    return np.asarray(answer_mismatch(*logs, jnp.asarray(asked), slip=slip))


def test_mismatch_by_hand():
    a, b, nothing, asked = draw(B, Q, V), draw(B, Q, V), draw(B, Q, V), random.random((B, Q)) < 0.6
    asked[0], asked[1] = True, False
    for row, logit in enumerate(mismatch(a, b, nothing, asked)):
        ratios = []
        for question in np.flatnonzero(asked[row]):
            prior = (1 - SLIP) * nothing[row, question] + SLIP / V
            sides = [(1 - SLIP) * side[row, question] + SLIP * prior for side in (a, b)]
            ratios.append((sides[0] * sides[1] / prior).sum())
        inverse = 1 / np.array(ratios)
        expected = np.log((inverse.mean() + inverse.prod()) / 2) if ratios else 0
        np.testing.assert_allclose(logit, expected, atol=1e-5)


def test_of_one_question_it_is_how_much_likelier_two_signals_are_with_answers_of_their_own():
    """Signals x and y are drawn from tables p(x | v), p(y | v); what is answered are the posteriors of v."""
    prior, x, y = draw(V), draw(V, B).T, draw(V, B).T  # likelihoods of B pairs of signals, by answer
    posterior = [prior * side / (prior * side).sum(axis=1, keepdims=True) for side in (x, y)]
    same = (prior * x * y).sum(axis=1)
    apart = (prior * x).sum(axis=1) * (prior * y).sum(axis=1)
    sides = [side[:, None] for side in posterior]
    found = mismatch(*sides, np.broadcast_to(prior, (B, 1, V)), np.ones((B, 1), bool), slip=1e-6)
    np.testing.assert_allclose(found, np.log(apart / same), rtol=1e-3, atol=1e-4)


def test_what_knows_nothing_says_nothing_and_no_answer_says_more_than_a_slip_allows():
    nothing, asked = draw(B, Q, V), np.ones((B, Q), bool)
    np.testing.assert_allclose(mismatch(draw(B, Q, V), nothing, nothing, asked, slip=1e-6), 0, atol=1e-4)
    sure = np.full((2, B, Q, V), 1e-30)
    sure[0, ..., 0] = sure[1, ..., 1] = 1
    apart = mismatch(*sure, nothing, asked)
    assert (apart > 3).all() and (apart <= Q * np.log(1 / SLIP)).all()
    assert (mismatch(sure[0], sure[0], nothing, asked) < -0.5).all()


def memory(there):
    tokens = {}
    for name, present in zip(NAMES, there.T):
        segment = jnp.asarray(present, jnp.int32)[:, None] * jnp.ones((1, 2), jnp.int32)
        tokens[name] = Tokens(jnp.ones((B, 2, 4)), segment, jnp.zeros((B, 2, 1)), segment, segment)
    return tokens


@pytest.mark.parametrize("odd", range(3))
def test_who_answers_otherwise_is_shut(odd):
    consensus = AnswerConsensus(NAMES, threshold=0.5, questions=Q, slip=SLIP)
    there = np.ones((B, 3), bool)
    there[0, (odd + 1) % 3] = False  # then two disagree, and nothing says who is right
    chosen = np.zeros((3, B, Q), int)
    chosen[odd, :, 1] = 1  # a near miss: one answer is another
    answers = {name: jnp.log(0.98 * jnp.eye(V)[which] + 0.02 / V) for name, which in zip(NAMES, chosen)}
    nothing, asked = jnp.full((B, Q, V), -jnp.log(V)), jnp.ones((B, Q), bool)

    def gates(answers):
        return consensus(memory(there), answers, nothing, asked).gates

    for index, gate in enumerate(gates(answers).values()):
        expected = there[:, index] & (np.full(B, index != odd) | (np.arange(B) == 0))
        np.testing.assert_array_equal(gate.open, expected)
    gradient = jax.grad(lambda answers: sum(gate.soft.sum() for gate in gates(answers).values()))(answers)
    assert not any(np.asarray(side).any() for side in gradient.values())


def test_each_is_asked_alone_in_evaluation_and_never_in_training(model, batch):
    (graph, state), names, text = nnx.split(model), ("image", "audio"), batch.text["target"]
    text = text._replace(ids=text.ids.at[..., 1].set(BOS))
    batch = batch._replace(text={"target": text})

    @jax.jit
    def ask(state, batch):
        model = nnx.merge(graph, state)
        model.consensus = nnx.data(AnswerConsensus(names, threshold=0.5, questions=2, slip=SLIP))
        training = model.encode(batch, moment=Moment(jax.random.key(0), jnp.zeros((), jnp.int32)))
        assert not training.agreement.mismatch
        return model.encode(batch).agreement.mismatch

    @jax.jit
    def answer(state, batch):
        model, text = nnx.merge(graph, state), batch.text["target"]
        flat = [array.reshape(-1, array.shape[-1]) for array in (text.ids, text.segment)]
        decoded = model.single.decode(model.single.read(*flat), Memory(model.encode(batch).tokens, {}, {}, {}, {}))
        return jax.nn.log_softmax(model.single.readout(decoded.hidden))

    def without(*absent):
        masks = {name: jnp.zeros_like(batch.signals[name].item_mask) for name in absent}
        signals = {name: batch.signals[name]._replace(item_mask=mask) for name, mask in masks.items()}
        return np.asarray(answer(state, batch._replace(signals=batch.signals | signals)))

    begins = ((text.ids == BOS) & (text.segment > 0)).reshape(len(batch.valid), -1)
    logs = [without(*(other for other in names if other != name)) for name in names] + [without(*names)]
    both = np.asarray(batch.present("image").any(axis=1) & batch.present("audio").any(axis=1))
    found = ask(state, batch)
    assert list(found) == [*itertools.combinations(names, 2)] and both.any()
    for row in np.flatnonzero(both):
        places = np.flatnonzero(begins[row])[:2]
        each = [side.reshape(len(batch.valid), -1, side.shape[-1])[row, places] for side in logs]
        expected = mismatch(*(np.exp(side)[None] for side in each), np.ones((1, len(places)), bool))
        np.testing.assert_allclose(found["image", "audio"][row], expected[0], atol=1e-4)
