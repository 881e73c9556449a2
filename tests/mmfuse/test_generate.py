"""Answers from a cache are those of a decoder that reads everything again at every step, taken or drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import chisquare

from mmfuse.inference.generate import generate, text_keys
from mmfuse.inference.logits import temperature, top_k
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
    out, log_prob = np.full((rows, WRITTEN), PAD), np.zeros((rows, WRITTEN))
    running = lengths > 0
    for step in range(WRITTEN):
        segment = (np.arange(T + WRITTEN)[None] < (lengths + step)[:, None]).astype(np.int32)
        logits = np.array(hidden(state, batch, jnp.asarray(ids), jnp.asarray(segment)))
        log_probs = np.array(jax.nn.log_softmax(logits))
        logits[..., PAD] = -np.inf
        for row in np.flatnonzero(running):
            token = logits[row, lengths[row] + step - 1].argmax()
            out[row, step] = ids[row, lengths[row] + step] = token
            log_prob[row, step] = log_probs[row, lengths[row] + step - 1, token]
            running[row] = token != EOS
    return out.reshape(B, TEXTS, WRITTEN), log_prob.reshape(B, TEXTS, WRITTEN)


def test_cached_answers_are_uncached_ones(parts, written, hidden, batch):
    """Prompts of two, five, seven, one, three and no tokens, two to an example."""
    got, log_prob = map(np.asarray, written(parts[1], batch))
    ids, log_probs = again_and_again(hidden, parts[1], batch)
    np.testing.assert_array_equal(got, ids)
    np.testing.assert_allclose(log_prob, log_probs, atol=2e-5)
    np.testing.assert_array_equal(got[2, 1], [PAD] * WRITTEN)
    assert (got[:2] != PAD).any(axis=-1).all()
    assert len({tuple(row) for row in got.reshape(-1, WRITTEN)}) > 3


def made_likely(token, state, batch, written):
    """The state with the embedding of `token` turned into that of one that is in some of the answers, but longer."""
    table = state["single"]["embed"]["embedding"][...]
    answers = np.asarray(written(state, batch).ids).reshape(-1, WRITTEN)[:-1]
    tokens = np.unique(answers[answers > EOS])
    some = next(one for one in tokens if 0 < (answers == one).any(axis=1).sum() < len(answers))
    changed = nnx.clone(state)
    changed["single"]["embed"]["embedding"][...] = table.at[token].set(1.01 * table[some])
    return changed


def test_an_answer_ends_with_its_eos_and_the_others_go_on(parts, written, hidden, batch):
    state = made_likely(EOS, parts[1], batch, written)
    got = written(state, batch)
    ids, log_probs = again_and_again(hidden, state, batch)
    np.testing.assert_array_equal(got.ids, ids)
    np.testing.assert_allclose(got.log_prob, log_probs, atol=2e-5)
    rows = np.asarray(got.ids).reshape(-1, WRITTEN)
    ended = (rows == EOS).any(axis=1)
    assert ended.any() and not ended[:-1].all()
    for row in rows[ended]:
        assert (row[list(row).index(EOS) + 1 :] == PAD).all()


def test_pad_is_never_written_however_likely(parts, written, hidden, batch):
    state = made_likely(PAD, parts[1], batch, written)
    np.testing.assert_array_equal(written(state, batch).ids, again_and_again(hidden, state, batch)[0])


def test_the_rules_choose_among_what_can_be_written(parts, written, batch):
    """The one likeliest token that `top_k` leaves is never PAD."""
    state = made_likely(PAD, parts[1], batch, written)

    @jax.jit
    def run(state, batch):
        model = nnx.merge(parts[0], state)
        return generate(model.single, model.encode(batch), batch.text["prompt"], tokens=WRITTEN, rules=(top_k(1),))

    np.testing.assert_array_equal(run(state, batch).ids, written(state, batch).ids)


def test_each_answer_is_that_of_the_example_alone(parts, written, batch):
    """An answer depends neither on the batch-mates nor on the other prompt of its example."""
    whole = np.asarray(written(parts[1], batch).ids)
    order = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(written(parts[1], jax.tree.map(lambda array: array[order], batch)).ids, whole[order])
    prompt = jax.tree.map(lambda array: array[:, ::-1], batch.text["prompt"])
    np.testing.assert_array_equal(written(parts[1], batch._replace(text={"prompt": prompt})).ids, whole[:, ::-1])


def test_what_stands_in_a_prompt_s_padding_does_not_matter(parts, written, batch):
    prompt = batch.text["prompt"]
    noisy = prompt._replace(ids=jnp.where(prompt.segment > 0, prompt.ids, BOS))
    padded = batch._replace(text={"prompt": noisy})
    np.testing.assert_array_equal(written(parts[1], padded).ids, written(parts[1], batch).ids)


def test_the_loop_is_one_program(parts, batch):
    def loops(tokens):
        def run(state, batch):
            model = nnx.merge(parts[0], state)
            return generate(model.single, model.encode(batch), batch.text["prompt"], tokens=tokens)

        return str(jax.make_jaxpr(run)(parts[1], batch)).count("while[")

    assert loops(3) == loops(11) == 1


# --- drawing ----------------------------------------------------------------------------------------------------------

DRAWS, KEPT, HEAT = 500, 3, 0.7


def drawn_often(batch):
    """The first prompt of each example, many times; no other text."""
    first = jax.tree.map(lambda array: jnp.repeat(array[:, :1], DRAWS, axis=1), batch.text["prompt"])
    return batch._replace(text={"prompt": first})


@pytest.fixture(scope="module")
def draw(parts):
    """Two tokens for each prompt, under rules."""

    @jax.jit
    def run(state, batch, keys):
        model, rules = nnx.merge(parts[0], state), (temperature(HEAT), top_k(KEPT))
        return generate(model.single, model.encode(batch), batch.text["prompt"], tokens=2, rules=rules, keys=keys)

    return run


def ruled(logits):
    """What is drawn with which probability, by hand."""
    logits = np.delete(np.asarray(logits, np.float64), PAD) / HEAT
    likely = np.argsort(-logits)[:KEPT]
    weights = np.exp(logits[likely] - logits.max())
    return dict(zip((likely + (likely >= PAD)).tolist(), weights / weights.sum()))


def test_texts_are_drawn_as_often_as_they_are_likely(parts, draw, hidden, batch):
    keys = text_keys(jax.random.key(3), jnp.arange(2 * B, dtype=jnp.int32).reshape(B, 2), DRAWS)
    got = np.asarray(draw(parts[1], drawn_often(batch), keys).ids)
    for example in range(B):
        length = int(batch.text["prompt"].segment[example, 0].sum())
        ids = np.zeros((B, T + 1), np.int32)
        ids[:, :length] = batch.text["prompt"].ids[example, 0, :length]
        segment = jnp.asarray(np.arange(T + 1)[None] <= np.full((B, 1), length), jnp.int32)
        first = ruled(hidden(parts[1], batch, jnp.asarray(ids), segment)[example, length - 1])
        expected = {}
        for token, likely in first.items():
            ids[:, length] = token
            then = ruled(hidden(parts[1], batch, jnp.asarray(ids), segment)[example, length])
            then = {PAD: 1.0} if token == EOS else then
            expected |= {(token, follower): likely * share for follower, share in then.items()}
        counts = np.array([(got[example] == pair).all(axis=-1).sum() for pair in expected])
        wanted = DRAWS * np.array(list(expected.values()))
        often = wanted > 5
        assert counts.sum() == DRAWS and often.sum() > 3
        rest = counts[~often].sum(), wanted[~often].sum()
        assert chisquare([*counts[often], rest[0]], [*wanted[often], rest[1]]).pvalue > 1e-3


def test_what_is_drawn_does_not_depend_on_batch_mates(parts, draw, batch):
    origin = jnp.asarray([[0, 5], [1, 5], [0, 6]], jnp.int32)
    many = drawn_often(batch)._replace(origin=origin)
    key = jax.random.key(0)
    whole = draw(parts[1], many, text_keys(key, origin, DRAWS))
    order = jnp.array([2, 0, 1])
    moved = jax.tree.map(lambda array: array[order], many)
    again = draw(parts[1], moved, text_keys(key, moved.origin, DRAWS))
    np.testing.assert_array_equal(again.ids, whole.ids[order])
    np.testing.assert_allclose(again.log_prob, whole.log_prob[order], atol=2e-5)


def test_every_text_has_a_key_of_its_own():
    origin = jnp.asarray([[0, 5], [1, 5], [0, 6], [5, 0], [-1, -1]], jnp.int32)
    data = np.asarray(jax.random.key_data(text_keys(jax.random.key(0), origin, 3))).reshape(15, -1)
    assert len({tuple(row) for row in data}) == 15
    fewer = np.asarray(jax.random.key_data(text_keys(jax.random.key(0), origin[1:2], 2)))
    np.testing.assert_array_equal(fewer[0], data.reshape(5, 3, -1)[1, :2])
