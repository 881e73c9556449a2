"""Rollout against plain loops, and a whole model's against one big matrix for each layer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmfuse.analysis.rollout import roll_out, rollout
from mmfuse.analysis.trace import trace

LAYERS, B, HEADS, S = 3, 2, 5, 7


def attention(seed=0):
    """Random weights; the last token of the second row is padding, which nobody sees and which sees nobody."""
    weights = np.random.default_rng(seed).uniform(size=(LAYERS, B, HEADS, S, S)).astype(np.float32)
    weights[:, 1, :, -1] = weights[:, 1, :, :, -1] = 0
    return weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-9)


def test_it_is_the_papers_product_of_averaged_layers():
    weights = attention()
    got = np.asarray(rollout(jnp.asarray(weights)))
    for row in range(B):
        size = S - row
        total = np.eye(size)
        for layer in range(LAYERS):
            mean = np.zeros((size, size))
            for head in range(HEADS):
                mean += weights[layer, row, head, :size, :size] / HEADS
            total = (0.5 * mean + 0.5 * np.eye(size)) @ total
        np.testing.assert_allclose(got[row, :size, :size], total, atol=1e-6)


def test_shares_sum_to_one_and_padding_stays_itself():
    got = np.asarray(rollout(jnp.asarray(attention())))
    np.testing.assert_allclose(got.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_array_equal(got[1, -1], np.eye(S)[-1])
    np.testing.assert_array_equal(got[1, :-1, -1], 0)


def test_a_whole_model_is_the_product_of_its_layers_matrices(model, batch):
    graph, state = nnx.split(model)
    text = batch.text["target"]
    found = jax.jit(lambda batch, text: trace(nnx.merge(graph, state), batch, text))(batch, text)
    got = {name: np.asarray(part) for name, part in jax.jit(roll_out)(found).items()}
    np.testing.assert_allclose(sum(part.sum(axis=-1) for part in got.values()), 1, atol=1e-5)

    length, sizes = 6, {name: tokens.segment.shape[1] for name, tokens in found.tokens.items()}
    for row in range(6):
        total = np.eye(length + sum(sizes.values()))
        start = length
        for name, size in sizes.items():
            items = found.towers[name].shape[2]
            for item in range(items):  # the items of an example see one another nowhere
                at = slice(start + item * size // items, start + (item + 1) * size // items)
                for layer in np.asarray(found.towers[name])[:, row // 2, item].mean(axis=1):
                    mixed = layer + np.eye(len(layer))
                    total[at, at] = mixed / mixed.sum(axis=1, keepdims=True) @ total[at, at]
            start += size
        for layer in found.layers:
            mixed = np.eye(len(total))
            if layer.text is not None:
                mixed[:length, :length] += np.asarray(layer.text)[row].mean(axis=0)
            else:
                seen = np.concatenate([layer.memory[name][row] for name in sizes], axis=-1)
                mixed[:length, length:] += seen.mean(axis=0)
            total = mixed / mixed.sum(axis=1, keepdims=True) @ total
        expected = np.split(total[:length], np.cumsum([length, *sizes.values()])[:-1], axis=1)
        for name, wanted in zip(("text", *sizes), expected, strict=True):
            np.testing.assert_allclose(got[name][row], wanted, atol=1e-5)
