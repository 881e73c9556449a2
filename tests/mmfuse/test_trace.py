"""A trace is the attention that the model computes, for the right text, at the right place, over the right memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.analysis.trace import log_probability, looks, trace, written_text
from mmfuse.nn.masks import Mask
from mmfuse.stack.block import Context
from mmfuse.types import EOS, PAD, Text

LAYERS, HEADS, KEY_HEADS, ROWS = 2, 6, 2, 6
# The texts of the batch have 7, 4, 5, 6, 2 and 7 tokens: of these all but the first are predicted.
PREDICTED = np.arange(1, 7)[None] < np.array([7, 4, 5, 6, 2, 7])[:, None]
TOKENS = {"image": 2 * 7, "audio": 6}  # two images of a class token and six patches; a sound of three by two


@pytest.fixture(scope="module")
def traced(model):
    graph, state = nnx.split(model)

    @jax.jit
    def run(batch, text):
        return trace(nnx.merge(graph, state), batch, text)

    return run


@pytest.fixture(scope="module")
def plain(model):
    graph, state = nnx.split(model)

    @jax.jit
    def run(batch, text):
        model = nnx.merge(graph, state)
        return log_probability(model.single, model.encode(batch), text)

    return run


def test_every_layer_head_and_token_is_there(traced, batch):
    found = traced(batch, batch.text["target"])
    assert {name: part.shape for name, part in looks(found).items()} == {
        name: (LAYERS, ROWS, HEADS, 6, tokens) for name, tokens in TOKENS.items()
    }
    assert {name: part.shape for name, part in found.towers.items()} == {
        "image": (2, 3, 2, 3, 7, 7),
        "audio": (1, 3, 1, 2, 6, 6),
    }
    assert [layer.memory is not None for layer in found.layers] == [False, False, True] * 2


def test_weights_sum_to_one_over_what_may_be_looked_at_and_are_zero_elsewhere(traced, batch):
    found = traced(batch, batch.text["target"])
    parts = looks(found)
    for name, part in parts.items():
        tokens = found.tokens[name]
        segment, anchor = (np.repeat(field, 2, axis=0)[:, None] for field in (tokens.segment, tokens.anchor))
        visible = (segment > 0) & (np.arange(6)[None, :, None] >= anchor) & PREDICTED[:, :, None]
        part = np.asarray(part).transpose(1, 3, 0, 2, 4)
        hidden = np.broadcast_to(~visible[:, :, None, None], part.shape)
        assert hidden.any() and (part[hidden] == 0).all() and (part[~hidden] > 0).all()
    total = np.asarray(sum(part.sum(axis=-1) for part in parts.values()))
    looked = np.broadcast_to(PREDICTED[None, :, None], total.shape).copy()
    looked[:, 2:4, :, :2] = False  # the second example has one image, from its third token on, and no sound
    np.testing.assert_allclose(total, looked, atol=1e-6)


@pytest.fixture(scope="module")
def by_parts(model):
    """What the first fusion layer's queries and keys are, and the logits: the model's own parts, run one by one."""
    graph, state = nnx.split(model)

    @jax.jit
    def run(batch, text):
        model = nnx.merge(graph, state)
        single, memory = model.single, model.encode(batch)
        tokens = single.read(*(array.reshape(ROWS, -1) for array in text[:2]))
        unit, layers = nnx.split(single.stack.segments[0].unit)
        blocks = nnx.merge(unit, jax.tree.map(lambda leaf: leaf[0], layers))
        mask = Mask(query_segment=tokens.segment, key_segment=tokens.segment, causal=True)
        context = Context(mask, tokens.position)
        values = blocks["self1"](blocks["self0"](tokens.values, context).values, context).values
        attention = blocks["cross"].attention
        query = attention.query(blocks["cross"].attention_norm(values)).reshape(ROWS, 7, HEADS, 4)
        read = {name: memory.tokens[name] for name in TOKENS}
        keys = [attention.key(single.connectors[name](tokens.values)) for name, tokens in read.items()]
        key = jnp.concatenate(keys, axis=1).reshape(3, -1, KEY_HEADS, 4)
        seen = jnp.concatenate([tokens.segment > 0 for tokens in read.values()], axis=1)
        anchor = jnp.concatenate([tokens.anchor for tokens in read.values()], axis=1)
        return query, key, seen, anchor, single.readout(single.decode(tokens, memory).hidden)

    return lambda batch, text: map(np.asarray, run(batch, text))


def test_the_first_fusion_layer_is_attention_by_hand(traced, by_parts, batch):
    text = batch.text["target"]
    query, key, seen, anchor, _ = by_parts(batch, text)
    found = looks(traced(batch, text))
    got = np.concatenate([np.asarray(found[name][0]) for name in TOKENS], axis=-1)
    for row, place, head in np.ndindex(ROWS, 6, HEADS):
        if PREDICTED[row, place]:
            scores = key[row // 2, :, head // 3] @ query[row, place, head] / 2
            weights = np.where(seen[row // 2] & (anchor[row // 2] <= place), np.exp(scores - scores.max()), 0)
            np.testing.assert_allclose(got[row, head, place], weights / max(weights.sum(), 1e-9), atol=1e-6)


def test_a_trace_depends_on_its_own_text_and_on_what_comes_before_alone(traced, batch):
    text = batch.text["target"]
    whole = looks(traced(batch, text))
    swapped = looks(traced(batch, Text(*(array[:, ::-1] for array in text))))
    later = looks(traced(batch, text._replace(ids=text.ids.at[:, :, 4].set(5))))
    other = looks(traced(batch, text._replace(ids=text.ids.at[:, 0].set(5))))
    for name, part in whole.items():
        rows = np.array([1, 0, 3, 2, 5, 4])
        np.testing.assert_allclose(swapped[name], part[:, rows], atol=1e-6)
        np.testing.assert_array_equal(later[name][..., :4, :], part[..., :4, :])
        assert (later[name][..., 4, :] != part[..., 4, :]).any()
        np.testing.assert_array_equal(other[name][:, 1::2], part[:, 1::2])
        assert (other[name][:, ::2] != part[:, ::2]).any()


def test_log_probabilities_are_those_of_the_readout_and_a_probe_changes_nothing(traced, by_parts, plain, batch):
    text = batch.text["target"]
    *_, logits = by_parts(batch, text)
    logp = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
    following = np.asarray(text.ids).reshape(ROWS, -1)[:, 1:]
    expected = np.where(PREDICTED, np.take_along_axis(logp[:, :-1], following[..., None], axis=-1)[..., 0], 0)
    np.testing.assert_allclose(plain(batch, text), expected, atol=1e-5)
    np.testing.assert_allclose(traced(batch, text).log_probability, expected, atol=1e-5)


def test_what_was_written_stands_behind_its_prompt():
    prompt = Text(*(jnp.asarray([[[7, 1, 9], [1, 9, 9], [9, 9, 9]]], jnp.int32),) * 2, jnp.zeros((1, 3, 3)))
    prompt = prompt._replace(segment=jnp.asarray([[[1, 1, 0], [1, 0, 0], [0, 0, 0]]], jnp.int32))
    written = jnp.asarray([[[5, 6, EOS], [8, EOS, PAD], [PAD, PAD, PAD]]], jnp.int32)
    text = written_text(prompt, written)
    np.testing.assert_array_equal(text.ids, [[[7, 1, 5, 6, EOS, 0], [1, 8, EOS, 0, 0, 0], [0] * 6]])
    np.testing.assert_array_equal(text.segment, [[[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0] * 6]])
    np.testing.assert_array_equal(text.weight, [[[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0], [0] * 6]])
