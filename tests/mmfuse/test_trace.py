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
        visible = (segment > 0) & (np.arange(6)[None, :, None] >= anchor)
        part = np.asarray(part).transpose(1, 3, 0, 2, 4)
        hidden = np.broadcast_to(~visible[:, :, None, None], part.shape)
        assert hidden.any() and (part[hidden] == 0).all() and (part[~hidden] > 0).all()
    total = np.asarray(sum(part.sum(axis=-1) for part in parts.values()))
    anchored = np.zeros_like(total)
    anchored[:, 2:4, :, :2] = 1  # the second example has one image, from its third token on, and no sound
    np.testing.assert_allclose(total, 1 - anchored, atol=1e-6)


def test_the_first_layers_are_attention_by_hand(model, traced, batch):
    """Embedding and the two self-attention blocks run as they are; what the fusion block attends to is numpy's."""
    text, single = batch.text["target"], model.single
    graph, layers = nnx.split(single.stack.segments[0].unit)
    blocks = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], layers))
    memory = model.encode(batch)
    tokens = single.read(*(array.reshape(ROWS, -1) for array in text[:2]))
    mask = Mask(query_segment=tokens.segment, key_segment=tokens.segment, causal=True)
    context = Context(mask, tokens.position)
    values = blocks["self1"](blocks["self0"](tokens.values, context).values, context).values
    attention = blocks["cross"].attention
    query = np.asarray(attention.query(blocks["cross"].attention_norm(values))).reshape(ROWS, 7, HEADS, 4)
    found = traced(batch, text)
    got = np.concatenate([np.asarray(looks(found)[name][0]) for name in TOKENS], axis=-1)
    connected = [single.connectors[name](memory.tokens[name].values) for name in TOKENS]
    key = np.concatenate([np.asarray(attention.key(part)) for part in connected], axis=1).reshape(3, -1, KEY_HEADS, 4)
    seen = np.concatenate([np.asarray(memory.tokens[name].segment) > 0 for name in TOKENS], axis=1)
    anchor = np.concatenate([np.asarray(memory.tokens[name].anchor) for name in TOKENS], axis=1)
    for row, head, place in np.ndindex(ROWS, HEADS, 6):
        scores = key[row // 2, :, head // 3] @ query[row, place, head] / 2
        weights = np.where(seen[row // 2] & (anchor[row // 2] <= place), np.exp(scores - scores.max()), 0)
        np.testing.assert_allclose(got[row, head, place], weights / weights.sum(), atol=1e-6)


def test_a_trace_depends_on_its_own_text_and_on_what_comes_before_alone(traced, batch):
    text = batch.text["target"]
    whole = looks(traced(batch, text))
    for column in range(2):
        alone = looks(traced(batch, Text(*(array[:, column : column + 1] for array in text))))
        for name, part in alone.items():
            np.testing.assert_allclose(part, whole[name][:, column::2], atol=1e-6)
    changed = looks(traced(batch, text._replace(ids=text.ids.at[:, :, 4].set(5))))
    for name, part in changed.items():
        np.testing.assert_array_equal(part[..., :4, :], whole[name][..., :4, :])
        assert (part[..., 4, :] != whole[name][..., 4, :]).any()


def test_log_probabilities_are_those_of_the_readout_and_a_probe_changes_nothing(model, traced, plain, batch):
    text = batch.text["target"]
    ids, segment = text.ids.reshape(ROWS, -1), text.segment.reshape(ROWS, -1)
    single = model.single
    logits = np.asarray(
        single.readout(single.decode(single.read(ids, segment), model.encode(batch)).hidden), np.float64
    )
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = np.take_along_axis(logp[:, :-1], np.asarray(ids)[:, 1:, None], axis=-1)[..., 0]
    expected = np.where(np.asarray(segment)[:, 1:] > 0, expected, 0)
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
