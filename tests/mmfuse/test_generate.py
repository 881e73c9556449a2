"""Greedy answers from a cache are those of a decoder that reads everything again at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.inference.generate import generate
from mmfuse.types import BOS, EOS, PAD

B, TEXTS, T, WRITTEN = 3, 2, 7, 5


@pytest.fixture(scope="module")
def parts(model):
    return nnx.split(model)


@pytest.fixture(scope="module")
def written(parts):
    @jax.jit
    def run(state, batch):
        model = nnx.merge(parts[0], state)
        return generate(model.single, model.encode(batch), batch.text["prompt"], tokens=WRITTEN)

    return run


@pytest.fixture(scope="module")
def hidden(parts):
    @jax.jit
    def run(state, batch, ids, segment):
        model = nnx.merge(parts[0], state)
        return model.single.readout(model.single.decode(model.single.read(ids, segment), model.encode(batch)).hidden)

    return run


def again_and_again(hidden, state, batch):
    """The same without a cache: every prompt with what was written so far, read from its start at every step."""
    prompt = batch.text["prompt"]
    rows = B * TEXTS
    lengths = np.asarray(prompt.segment.sum(axis=-1)).reshape(rows)
    ids = np.zeros((rows, T + WRITTEN), np.int32)
    ids[:, :T] = np.asarray(prompt.ids).reshape(rows, T)
    out = np.full((rows, WRITTEN), PAD)
    running = lengths > 0
    for step in range(WRITTEN):
        segment = (np.arange(T + WRITTEN)[None] < (lengths + step)[:, None]).astype(np.int32)
        logits = np.array(hidden(state, batch, jnp.asarray(ids), jnp.asarray(segment)))
        logits[..., PAD] = -np.inf
        for row in np.flatnonzero(running):
            token = logits[row, lengths[row] + step - 1].argmax()
            out[row, step] = ids[row, lengths[row] + step] = token
            running[row] = token != EOS
    return out.reshape(B, TEXTS, WRITTEN)


def test_cached_answers_are_uncached_ones(parts, written, hidden, batch):
    """Prompts of two, five, seven, one, three and no tokens, two to an example."""
    got = np.asarray(written(parts[1], batch))
    np.testing.assert_array_equal(got, again_and_again(hidden, parts[1], batch))
    np.testing.assert_array_equal(got[2, 1], [PAD] * WRITTEN)
    assert (got[:2] != PAD).any(axis=-1).all()
    assert len({tuple(row) for row in got.reshape(-1, WRITTEN)}) > 3


def made_likely(token, state, batch, written):
    """The state with the embedding of `token` turned into that of one that is in some of the answers, but longer."""
    table = state["single"]["embed"]["embedding"][...]
    answers = np.asarray(written(state, batch)).reshape(-1, WRITTEN)[:-1]
    tokens = np.unique(answers[answers > EOS])
    some = next(one for one in tokens if 0 < (answers == one).any(axis=1).sum() < len(answers))
    changed = nnx.clone(state)
    changed["single"]["embed"]["embedding"][...] = table.at[token].set(1.01 * table[some])
    return changed


def test_an_answer_ends_with_its_eos_and_the_others_go_on(parts, written, hidden, batch):
    state = made_likely(EOS, parts[1], batch, written)
    got = np.asarray(written(state, batch))
    np.testing.assert_array_equal(got, again_and_again(hidden, state, batch))
    rows = got.reshape(-1, WRITTEN)
    ended = (rows == EOS).any(axis=1)
    assert ended.any() and not ended[:-1].all()
    for row in rows[ended]:
        assert (row[list(row).index(EOS) + 1 :] == PAD).all()


def test_pad_is_never_written_however_likely(parts, written, hidden, batch):
    state = made_likely(PAD, parts[1], batch, written)
    np.testing.assert_array_equal(written(state, batch), again_and_again(hidden, state, batch))


def test_each_answer_is_that_of_the_example_alone(parts, written, batch):
    """An answer depends neither on the batch-mates nor on the other prompt of its example."""
    whole = np.asarray(written(parts[1], batch))
    order = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(written(parts[1], jax.tree.map(lambda array: array[order], batch)), whole[order])
    prompt = jax.tree.map(lambda array: array[:, ::-1], batch.text["prompt"])
    np.testing.assert_array_equal(written(parts[1], batch._replace(text={"prompt": prompt})), whole[:, ::-1])


def test_what_stands_in_a_prompt_s_padding_does_not_matter(parts, written, batch):
    prompt = batch.text["prompt"]
    noisy = prompt._replace(ids=jnp.where(prompt.segment > 0, prompt.ids, BOS))
    np.testing.assert_array_equal(written(parts[1], batch._replace(text={"prompt": noisy})), written(parts[1], batch))


def test_the_loop_is_one_program(parts, batch):
    def loops(tokens):
        def run(state, batch):
            model = nnx.merge(parts[0], state)
            return generate(model.single, model.encode(batch), batch.text["prompt"], tokens=tokens)

        return str(jax.make_jaxpr(run)(parts[1], batch)).count("while[")

    assert loops(3) == loops(11) == 1
