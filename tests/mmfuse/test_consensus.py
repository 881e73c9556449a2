"""Which modality disagrees: the odd one out by hand, what is absent, what is shut, and where the gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import parts
from mmfuse.build import make_model, reader
from mmfuse.models.memory import Memory
from mmfuse.nn.losses.routing import mismatch_loss
from mmfuse.routing.consensus import Agreement, Consensus, odd_one_out
from mmfuse.routing.gates import Gates
from mmfuse.types import Tokens

B, NAMES = 5, ("image", "audio", "source")
LENGTHS = {"image": 7, "audio": 4, "source": 3}
WIDTHS = {"image": 6, "audio": 11, "source": 2}
PAIRS = [("image", "audio"), ("image", "source"), ("audio", "source")]
THERE = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
random = np.random.default_rng(0)


def memory(there=THERE):
    """Tokens of each modality; NaN where an example has none."""
    found = {}
    for index, name in enumerate(NAMES):
        shape = (B, LENGTHS[name])
        segment = jnp.asarray(np.broadcast_to(there[:, index, None], shape), jnp.int32)
        values = random.standard_normal((*shape, WIDTHS[name]))
        values = jnp.asarray(np.where(segment[..., None] > 0, values, np.nan), jnp.float32)
        found[name] = Tokens(values, segment, jnp.zeros((*shape, 1)), segment, jnp.zeros_like(segment))
    return found


@pytest.fixture(scope="module")
def consensus(shake):
    return shake(Consensus(WIDTHS, width=13, hidden=3, threshold=0.5, rngs=nnx.Rngs(0)))


def with_verdict(odd, threshold=0.5, widths=WIDTHS):
    """Heads that find each pair with `odd` in it a mismatch, and no other, whatever they read."""
    changed = Consensus(widths, width=13, hidden=3, threshold=threshold, rngs=nnx.Rngs(0))
    for a, b in changed.pairs:
        head = changed.heads[f"{a}_{b}"]
        head.down.kernel[...] = jnp.zeros_like(head.down.kernel[...])
        head.down.bias[...] = jnp.array([5.0 if odd in (a, b) else -5.0])
    return changed


def test_odd_one_out_by_hand():
    votes, present = random.standard_normal((B, 3)), THERE
    for b, row in enumerate(np.asarray(odd_one_out(jnp.asarray(votes, jnp.float32), jnp.asarray(present)))):
        odds = np.where(present[b], np.exp(votes[b]), 0)
        np.testing.assert_allclose(row, odds / (1 + odds.sum()), rtol=1e-5)


def test_of_two_that_disagree_neither_is_shut():
    votes = jnp.full((1, 3), 40.0)  # of one pair, in both
    odd = odd_one_out(votes, jnp.array([[True, True, False]]))
    np.testing.assert_allclose(odd, [[0.5, 0.5, 0]])
    both = with_verdict("image")(memory(np.array([[1, 1, 0]] * B, bool)))
    assert both.gates["image"].open.all() and both.gates["audio"].open.all()


def test_a_pair_without_one_side_says_nothing(consensus):
    agreement = consensus(memory())
    assert list(agreement.mismatch) == PAIRS
    for (a, b), logits in agreement.mismatch.items():
        both = THERE[:, NAMES.index(a)] & THERE[:, NAMES.index(b)]
        assert np.isfinite(logits).all() and ((np.asarray(logits) != 0) == both).all()
    for index, name in enumerate(NAMES):
        gates = agreement.gates[name]
        assert not np.asarray(gates.open)[~THERE[:, index]].any()
        np.testing.assert_array_equal(np.asarray(gates.soft)[~THERE[:, index]], 0)
        np.testing.assert_array_equal(gates.value, gates.open)


def test_votes_are_those_of_the_pairs_a_modality_is_in(consensus):
    agreement = consensus(memory())
    for b in range(B):
        votes = [sum(float(logit[b]) for pair, logit in agreement.mismatch.items() if name in pair) for name in NAMES]
        odds = np.where(THERE[b], np.exp(votes), 0)
        for index, name in enumerate(NAMES):
            expected = 1 - odds[index] / (1 + odds.sum()) if THERE[b, index] else 0
            np.testing.assert_allclose(agreement.gates[name].soft[b], expected, rtol=1e-5)


@pytest.mark.parametrize("odd", NAMES)
def test_the_one_that_disagrees_is_shut_and_no_other(odd):
    gates = with_verdict(odd)(memory(np.ones((B, 3), bool))).gates
    assert {name: bool(gate.open.all()) for name, gate in gates.items()} == {name: name != odd for name in NAMES}
    watched = with_verdict(odd, threshold=1.0)(memory(np.ones((B, 3), bool))).gates
    assert all(gate.open.all() for gate in watched.values())


def test_a_modality_that_a_batch_lacks_is_not_compared(consensus):
    read = memory()
    del read["audio"]
    agreement = consensus(read)
    assert list(agreement.mismatch) == [("image", "source")] and set(agreement.gates) == {"image", "source"}
    alone = consensus({"source": read["source"]})
    assert not alone.mismatch and (alone.gates["source"].open == THERE[:, 2]).all()
    assert not consensus({}).gates


def test_gradients_reach_what_is_compared_and_nothing_else(consensus):
    graph, state = nnx.split(consensus)

    def loss(state, values):
        read = {name: tokens._replace(values=values[name]) for name, tokens in tokens_of.items()}
        agreement = nnx.merge(graph, state)(read)
        return sum(mismatch_loss(logits, swapped=True).sum() for logits in agreement.mismatch.values())

    tokens_of = memory()
    values = {name: tokens.values for name, tokens in tokens_of.items()}
    of_state, of_values = jax.jit(jax.grad(loss, argnums=(0, 1)))(state, values)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_state, of_values)))
    for index, name in enumerate(NAMES):
        felt = (np.asarray(of_values[name]) != 0).any(axis=(1, 2))
        in_a_pair = THERE[:, index] & (THERE.sum(axis=1) > 1)
        np.testing.assert_array_equal(felt, in_a_pair)


def test_an_answer_teaches_the_heads_through_what_is_shut(consensus):
    """Straight through: the value is 0 or 1, its gradient that of the probability."""
    graph, state = nnx.split(with_verdict("image"))
    tokens_of = memory(np.ones((B, 3), bool))
    gradient = jax.jit(jax.grad(lambda state: nnx.merge(graph, state)(tokens_of).gates["image"].value.sum()))(state)
    slopes = {name: float(head.down.bias[...][0]) for name, head in gradient.heads.items()}
    assert slopes["image_audio"] < 0 and slopes["image_source"] < 0 and slopes["audio_source"] > 0


def test_what_was_decided_is_what_both_gates_let_through():
    def gates(opened, soft):
        return Gates(jnp.array(opened), jnp.zeros(3), jnp.array(soft), jnp.array(opened))

    before = {"image": gates([True, True, False], [0.9, 0.8, 0.2])}
    after = {
        "image": gates([True, False, False], [0.7, 0.1, 0.5]),
        "audio": gates([True, False, True], [0.6, 0.3, 0.4]),
    }
    decided = Memory({}, {}, {}, {}, before, Agreement({}, {}, after)).decided
    np.testing.assert_array_equal(decided["image"][0], [True, False, False])
    np.testing.assert_allclose(decided["image"][1], [0.63, 0.08, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(decided["audio"][0], [True, False, True])
    assert Memory({}, {}, {}, {}, {}).decided == {}


def test_what_is_shut_is_to_the_model_as_if_it_were_not_there(model_config, batch, shake):
    config = model_config.copy_and_resolve_references()
    with config.unlocked():
        config.model.consensus = parts.consensus(NAMES)
    model = shake(nnx.jit(lambda: make_model(config, nnx.Rngs(0)))())
    model.consensus = with_verdict("image", widths={name: config.model.towers[reader(name)].width for name in NAMES})
    told = batch._replace(text=batch.text | {"source": batch.text["caption"]})
    image = told.signals["image"]._replace(item_mask=jnp.zeros_like(told.signals["image"].item_mask))
    blind = told._replace(signals=told.signals | {"image": image})
    graph, state = nnx.split(model)

    @jax.jit
    def speak(batch):
        model = nnx.merge(graph, state)
        memory, target = model.encode(batch), batch.text["target"]
        ids, segment = (array.reshape(-1, array.shape[-1]) for array in (target.ids, target.segment))
        said = model.single.decode(model.single.read(ids, segment), memory).hidden.reshape(3, 2, *ids.shape[1:], -1)
        return said, {name: memory.taking_part(batch, name).any(axis=1) for name in NAMES}

    (whole, part), (without, part_without) = speak(told), speak(blind)
    np.testing.assert_allclose(whole[0], without[0], atol=1e-5)  # image, sound and text: the image is shut
    assert np.abs(whole[1] - without[1]).max() > 1e-3  # image and text alone disagree: both are believed
    np.testing.assert_array_equal(part["image"], [False, True, False])
    np.testing.assert_array_equal(part["audio"], part_without["audio"])
