"""Are likelihoods of answers those of a decoder that reads prompt and answer as one text?"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmfuse.inference import likelihood
from mmfuse.types import EOS, PAD

B, TEXTS, T, ANSWER = 3, 2, 7, 5
LENGTHS = np.array([[5, 1], [3, 0], [4, 5]])  # of the answers, EOS included


def answers():
    random = np.random.default_rng(3)
    ids = random.integers(3, 13, (B, TEXTS, ANSWER)).astype(np.int32)
    place = np.arange(ANSWER)
    ids = np.where(place == LENGTHS[..., None] - 1, EOS, ids)
    return np.where(place < LENGTHS[..., None], ids, PAD).astype(np.int32)


def by_hand(model, batch, ids):
    """log p of each answer, read after its prompt without a cache."""
    prompt, memory = batch.text["prompt"], model.encode(batch)
    joined = np.zeros((B * TEXTS, T + ANSWER), np.int32)
    starts = np.asarray(prompt.segment.sum(axis=-1)).ravel()
    for row, (start, said, length) in enumerate(zip(starts, ids.reshape(-1, ANSWER), LENGTHS.ravel())):
        joined[row, :start] = np.asarray(prompt.ids).reshape(-1, T)[row, :start]
        joined[row, start : start + length] = said[:length]
    segment = (np.arange(T + ANSWER) < (starts + LENGTHS.ravel())[:, None]).astype(np.int32)
    read = model.single.read(jnp.asarray(joined), jnp.asarray(segment))
    scores = np.asarray(jax.nn.log_softmax(model.single.readout(model.single.decode(read, memory).hidden)))
    return [
        sum(scores[row, start + place - 1, joined[row, start + place]] for place in range(length))
        for row, (start, length) in enumerate(zip(starts, LENGTHS.ravel()))
    ]


def test_likelihoods_are_those_of_one_text(model, batch, monkeypatch):
    graph, state = nnx.split(model)
    monkeypatch.setattr(likelihood, "CHUNK", 3)  # which does not divide the answers

    @jax.jit
    def measure(state, batch, ids):
        model = nnx.merge(graph, state)
        return likelihood.log_likelihood(model.single, model.encode(batch), batch.text["prompt"], ids)

    ids = answers()
    found = np.asarray(measure(state, batch, jnp.asarray(ids)))
    prompted = np.asarray(batch.text["prompt"].present)
    expected = np.array(by_hand(model, batch, ids)).reshape(B, TEXTS)
    np.testing.assert_allclose(found[prompted], expected[prompted], rtol=1e-5)
    assert found[1, 1] == 0 and len(np.unique(found[prompted])) == prompted.sum()
