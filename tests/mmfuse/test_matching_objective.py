"""Is the matching objective what it says: real pairs against mixed ones, of mates that are drawn as they should be?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.objectives.matching import Matching, draw_mates
from mmfuse.routing.consensus import Consensus
from mmfuse.types import Batch, Signal, Tokens

EXAMPLES, LENGTH, WIDTH = 5, 3, 7
PAIR = ("image", "audio")
# Example 1 is a hole, 3 has no sound; 0 and 4 show the same thing. So mates of 0 and 4 are 2 alone.
VALID = np.array([1, 0, 1, 1, 1], bool)
THERE = {"image": np.array([1, 1, 1, 1, 1], bool) & VALID, "audio": np.array([1, 1, 1, 0, 1], bool) & VALID}
CONCEPT = np.array([11, 0, 12, 13, 11], np.int32)
random = np.random.default_rng(0)


def tokens_of(there):
    segment = jnp.asarray(np.repeat(there[:, None], LENGTH, axis=1), jnp.int32)
    values = jnp.asarray(random.standard_normal((EXAMPLES, LENGTH, WIDTH)), jnp.float32)
    return Tokens(values, segment, jnp.zeros((EXAMPLES, LENGTH, 1)), segment, jnp.zeros_like(segment))


@pytest.fixture(scope="module")
def consensus(shake):
    return shake(Consensus(dict.fromkeys(PAIR, WIDTH), width=WIDTH, hidden=2, threshold=1.0, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def batch():
    def signal(there):
        mask = there[:, None]
        return Signal(
            jnp.zeros((EXAMPLES, 1, 2)), mask, jnp.zeros((EXAMPLES, 1), int), jnp.zeros((EXAMPLES, 1, 1), int)
        )

    signals = {name: signal(there) for name, there in THERE.items()}
    return jax.tree.map(jnp.asarray, Batch(signals, {}, VALID, CONCEPT, np.zeros((EXAMPLES, 2), np.int32)))


def test_the_loss_by_hand(consensus, batch):
    agreement = consensus({name: tokens_of(there) for name, there in THERE.items()})
    memory = Memory({}, {}, {}, {}, {}, agreement)
    objective, model = Matching((PAIR,), 1), Multimodal({}, None, None, consensus=consensus)
    terms = objective(model, memory, batch, jax.random.key(0))
    image, audio = (agreement.tokens[name] for name in PAIR)
    drawn = [
        consensus.mismatch(PAIR, image, Tokens(*(np.asarray(array)[[mate] * EXAMPLES] for array in audio)))
        for mate in range(EXAMPLES)
    ]
    real = np.asarray(agreement.mismatch[PAIR])
    for b, mates in {0: (2,), 4: (2,), 2: (0, 4)}.items():
        losses = [(np.logaddexp(0, real[b]) + np.logaddexp(0, -float(drawn[mate][b]))) / 2 for mate in mates]
        assert min(abs(terms.value[b] - loss) for loss in losses) < 1e-5
    np.testing.assert_array_equal(terms.weight, [1, 0, 1, 0, 1])
    right, counted = terms.metrics["image_audio"]
    np.testing.assert_array_equal(counted, [1, 0, 1, 0, 1])
    for b in (0, 4):
        assert right[b] == ((real[b] < 0) + (float(drawn[2][b]) > 0)) / 2


def test_mates_are_allowed_different_and_drawn_evenly():
    allowed, many = jnp.array([True, False, True, True, False]), 20_000
    drawn = np.asarray(draw_mates(jax.random.key(0), jnp.broadcast_to(allowed, (many, EXAMPLES)), 2))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    share = np.bincount(drawn.ravel(), minlength=EXAMPLES) / drawn.size
    np.testing.assert_allclose(share, np.where(allowed, 1 / 3, 0), atol=0.01)


def test_mixed_pairs_weigh_as_much_as_real_ones_however_many_there_are(consensus, batch):
    """Three examples of different things: both mates are the other two."""
    agreement = consensus({name: tokens_of(there) for name, there in THERE.items()})
    memory = Memory({}, {}, {}, {}, {}, agreement)
    model = Multimodal({}, None, None, consensus=consensus)
    full = batch._replace(concept=jnp.arange(EXAMPLES))
    terms = Matching((PAIR,), 2)(model, memory, full, jax.random.key(0))
    real, (image, audio) = agreement.mismatch[PAIR], (agreement.tokens[name] for name in PAIR)
    drawn = [
        np.logaddexp(0, -consensus.mismatch(PAIR, image, Tokens(*(array[jnp.full(EXAMPLES, mate)] for array in audio))))
        for mate in (0, 2, 4)
    ]
    for b, others in {0: (1, 2), 2: (0, 2), 4: (0, 1)}.items():
        expected = (np.logaddexp(0, real[b]) + np.mean([drawn[other][b] for other in others])) / 2
        np.testing.assert_allclose(terms.value[b], expected, rtol=1e-4)


def test_a_foil_is_one_more_mate_of_what_is_paired_with_a_description(shake, batch):
    """One mate and a foil, by hand; an example without a foil has its mate alone, and sounds have none."""
    names = ("image", "audio", "source")
    consensus = shake(Consensus(dict.fromkeys(names, WIDTH), width=WIDTH, hidden=2, threshold=1.0, rngs=nnx.Rngs(0)))
    agreement = consensus({name: tokens_of(VALID) for name in names})
    told = VALID & np.array([1, 1, 1, 1, 0], bool)
    foil = tokens_of(told)
    model, full = Multimodal({}, None, None, consensus=consensus), batch._replace(concept=jnp.arange(EXAMPLES))

    def terms(pair, tokens):
        return Matching((pair,), 1)(model, Memory(tokens, {}, {}, {}, {}, agreement), full, jax.random.key(0))

    np.testing.assert_array_equal(*(terms(PAIR, tokens).value for tokens in ({}, {"foil": foil})))
    pair = ("image", "source")
    mated, foiled = (terms(pair, tokens) for tokens in ({}, {"foil": foil}))
    linear = consensus.projections["source"]
    values = np.asarray(foil.values) @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])
    mixed = np.asarray(consensus.mismatch(pair, agreement.tokens["image"], foil._replace(values=jnp.asarray(values))))
    real = np.logaddexp(0, np.asarray(agreement.mismatch[pair]))
    for b in np.flatnonzero(VALID):
        mate = 2 * float(mated.value[b]) - real[b]  # what is left of the loss without a foil
        expected = (mate + np.logaddexp(0, -mixed[b])) / 2 if told[b] else mate
        np.testing.assert_allclose(foiled.value[b], (real[b] + expected) / 2, rtol=1e-4)
    right, counted = foiled.metrics["image_source/foil"]
    np.testing.assert_array_equal(counted, told)
    np.testing.assert_array_equal(np.asarray(right)[told], (mixed > 0)[told])


def test_the_loss_teaches_heads_and_tokens(consensus, batch):
    graph, state = nnx.split(consensus)
    tokens = {name: tokens_of(there) for name, there in THERE.items()}

    def loss(state, values):
        model = nnx.merge(graph, state)
        read = {name: side._replace(values=values[name]) for name, side in tokens.items()}
        memory = Memory({}, {}, {}, {}, {}, model(read))
        terms = Matching((PAIR,), 1)(Multimodal({}, None, None, consensus=model), memory, batch, jax.random.key(0))
        return (terms.value * terms.weight).sum()

    of_state, of_values = jax.grad(loss, argnums=(0, 1))(state, {name: side.values for name, side in tokens.items()})
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(of_state))
    for name, gradient in of_values.items():
        felt = (np.asarray(gradient) != 0).any(axis=(1, 2))
        np.testing.assert_array_equal(felt, [True, False, True, False, True], err_msg=name)
