"""Beam search against exhaustive search and against a search in numpy, over every text of up to three tokens."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.inference.beams import beam_search
from mmfuse.inference.generate import generate
from mmfuse.inference.logits import min_length
from mmfuse.models.memory import Memory
from mmfuse.models.single_tower import Decoded, SingleTower
from mmfuse.nn.cache import Cache
from mmfuse.types import BOS, EOS, PAD, ConfigError, Text

B, TEXTS, T, V, WRITTEN = 3, 2, 7, 13, 3
GOING_ON = [token for token in range(V) if token not in (PAD, EOS)]
PREFIXES = 1 + len(GOING_ON) + len(GOING_ON) ** 2  # texts that the last step goes on from

LEAST = 1  # tokens of a text in the narrow search
NARROW = {"beams": 4, "best": 2, "length_penalty": 0.8, "rules": (min_length(LEAST),)}


@pytest.fixture(scope="module")
def parts(model):
    """A model to which the end of a text is likely here and unlikely there."""
    graph, state = nnx.split(nnx.clone(model))
    table = state["single"]["embed"]["embedding"]
    table[...] = table[...].at[EOS].multiply(3)
    return graph, state


@pytest.fixture(scope="module")
def encode(parts):
    jitted = jax.jit(lambda state, batch: nnx.merge(parts[0], state).encode(batch))
    return lambda batch: jitted(parts[1], batch)


@pytest.fixture(scope="module")
def search(parts, encode):
    @functools.partial(jax.jit, static_argnums=3)
    def run(state, memory, prompt, settings):
        return beam_search(nnx.merge(parts[0], state).single, memory, prompt, **{"tokens": WRITTEN, **dict(settings)})

    def search(batch, **settings):
        found = run(parts[1], encode(batch), batch.text["prompt"], tuple(settings.items()))
        return jax.tree.map(np.asarray, found)

    return search


@pytest.fixture(scope="module")
def table(parts, encode, batch):
    """(example, text) → tokens so far → log-probabilities of the next one, all read without a cache."""
    prompt = batch.text["prompt"]
    pairs = list(itertools.product(GOING_ON, repeat=2))
    length = np.asarray((prompt.segment > 0).sum(axis=-1))
    ids = np.zeros((B, TEXTS, len(pairs), T + 2), np.int32)
    ids[..., :T] = np.asarray(prompt.ids)[:, :, None]
    for b, c in np.ndindex(B, TEXTS):
        ids[b, c, :, length[b, c] : length[b, c] + 2] = pairs
    segment = np.broadcast_to(np.arange(T + 2) < length[..., None, None] + 2, ids.shape).astype(np.int32)

    @jax.jit
    def read(state, memory, ids, segment):
        single = nnx.merge(parts[0], state).single
        return jax.nn.log_softmax(single.readout(single.decode(single.read(ids, segment), memory).hidden))

    rows = (jnp.asarray(array.reshape(-1, T + 2)) for array in (ids, segment))
    found = np.asarray(read(parts[1], encode(batch), *rows), np.float64).reshape(B, TEXTS, len(pairs), T + 2, V)
    table = {}
    for b, c in np.ndindex(B, TEXTS):
        if length[b, c]:
            last = length[b, c] - 1
            table[b, c] = {(): found[b, c, 0, last]}
            for pair, after in zip(pairs, found[b, c]):
                table[b, c] |= {pair[:1]: after[last + 1], pair: after[last + 2]}
    return table


def gains(logs, text, least):
    """What the next token adds to a score: its log-probability, where PAD is none, nor EOS before the least length."""
    logs = np.array(logs[text])
    logs[[PAD, EOS] if len(text) < least else PAD] = -np.inf
    return logs - np.log(np.exp(logs).sum())


def score(total, length, penalty):
    return total / ((5 + length) / 6) ** penalty


def extended(logs, hypotheses, least=0):
    """All ways to go on; a text that has ended stays."""
    found = {text: total for text, total in hypotheses.items() if EOS in text}
    for text in hypotheses.keys() - found.keys():
        for token, gain in enumerate(gains(logs, text, least)):
            if gain > -np.inf:
                found[*text, token] = hypotheses[text] + gain
    return found


def ranked(hypotheses, penalty):
    return sorted(hypotheses.items(), key=lambda item: -score(item[1], len(item[0]), penalty))


def check(found, table, expected, penalty):
    """Ids, scores and log-probabilities are those of the expected texts, the best first."""
    for (b, c), texts in expected.items():
        assert len(texts) == found.ids.shape[2]
        for rank, (text, total) in enumerate(texts):
            np.testing.assert_array_equal(found.ids[b, c, rank], [*text, *[PAD] * (WRITTEN - len(text))])
            assert found.score[b, c, rank] == pytest.approx(score(total, len(text), penalty), abs=2e-5)
            logs = [table[b, c][text[:place]][token] for place, token in enumerate(text)]
            np.testing.assert_allclose(found.log_prob[b, c, rank, : len(text)], logs, atol=2e-5)
            assert not found.log_prob[b, c, rank, len(text) :].any()


def narrow(logs, *, beams, best, length_penalty=0.0, tokens=WRITTEN, least=0):
    """To the last token, whether or not anything can change: what is open, and beside it what has ended."""
    going_on, ended = {(): 0.0}, {}
    for _ in range(tokens):
        longer = ranked(extended(logs, going_on, least), 0)
        ended |= {text: total for text, total in longer[:beams] if text[-1] == EOS}
        going_on = dict([(text, total) for text, total in longer if text[-1] != EOS][:beams])
    return ranked(ended | going_on, length_penalty)[:best]


def everything(logs, tokens=WRITTEN):
    texts = {(): 0.0}
    for _ in range(tokens):
        texts = extended(logs, texts)
    return texts


def test_a_beam_as_wide_as_the_space_finds_the_best(search, table, batch):
    found = search(batch, beams=PREFIXES, best=5)
    expected = {key: ranked(everything(logs), 0)[:5] for key, logs in table.items()}
    assert {len(text) for texts in expected.values() for text, _ in texts} == {1, 2, 3}
    check(found, table, expected, 0)


def test_a_narrow_beam_is_that_of_numpy(search, table, batch):
    found = search(batch, **NARROW)
    settings = {name: value for name, value in NARROW.items() if name != "rules"}
    expected = {key: narrow(logs, least=LEAST, **settings) for key, logs in table.items()}
    assert {len(text) for texts in expected.values() for text, _ in texts} == {2, 3}
    check(found, table, expected, NARROW["length_penalty"])
    np.testing.assert_array_equal(found.ids[2, 1], PAD)  # no prompt


def test_a_search_does_not_depend_on_batch_mates(search, batch):
    order = jnp.array([2, 0, 1])
    moved = search(jax.tree.map(lambda array: array[order], batch), **NARROW)
    whole = search(batch, **NARROW)
    np.testing.assert_array_equal(moved.ids, whole.ids[order])
    np.testing.assert_allclose(moved.score, whole.score[order], atol=2e-5)


def test_a_beam_of_one_is_greedy(parts, encode, search, batch):
    @jax.jit
    def greedy(state, memory, prompt):
        return generate(nnx.merge(parts[0], state).single, memory, prompt, tokens=5)

    found = search(batch, beams=1, tokens=5)
    taken = greedy(parts[1], encode(batch), batch.text["prompt"])
    np.testing.assert_array_equal(found.ids[:, :, 0], taken.ids)
    np.testing.assert_allclose(found.log_prob[:, :, 0], taken.log_prob, atol=2e-5)


# --- texts that are looked up in a table ------------------------------------------------------------------------------


class Chain(SingleTower):
    """A decoder to which the next token depends on the last one alone, by a table of probabilities."""

    def __init__(self, probability):
        self.table = nnx.Param(jnp.log(jnp.asarray(probability, jnp.float32)))

    def empty_cache(self, memory, *, rows, length):
        return Cache({}, jnp.zeros(rows, jnp.int32), jnp.zeros((rows, 1)))

    def read(self, ids, segment, cache=None):
        return ids

    def decode(self, tokens, memory, cache=None, probe=None):
        return Decoded(self.table[...][tokens], cache, {}, {})

    def readout(self, hidden):
        return hidden


def chained(probability, starts, **settings):
    """What is found behind prompts of one token each."""
    ids = jnp.asarray(starts, jnp.int32)[None, :, None]
    prompt = Text(ids, jnp.ones_like(ids), jnp.zeros(ids.shape))
    memory = Memory({}, {}, {}, {}, {})
    return jax.tree.map(lambda array: np.asarray(array)[0], beam_search(Chain(probability), memory, prompt, **settings))


class Logs(dict):
    """Of a chain behind its first token: text so far → log-probabilities of the next token."""

    def __init__(self, probability, start):
        with np.errstate(divide="ignore"):
            self.table, self.start = np.log(probability), start

    def __getitem__(self, text):
        return self.table[(self.start, *text)[-1]]


def test_what_has_ended_is_not_lost_to_what_is_open_and_likelier_now():
    """a .70, EOS .30; then ab .34, ac .33; and then everything is as likely as anything."""
    a, b, c, number = 3, 4, 5, 23
    probability = np.full((number, number), 1 / (number - 1))
    probability[[BOS, a]] = 0
    probability[BOS, [a, EOS]] = 0.70, 0.30
    probability[a, [b, c, 6]] = 0.34 / 0.7, 0.33 / 0.7, 0.03 / 0.7
    found = chained(probability, [BOS], tokens=4, beams=2)
    assert found.ids[0, 0].tolist() == [EOS, PAD, PAD, PAD]
    assert np.exp(found.score[0, 0]) == pytest.approx(0.30) == np.exp(found.log_prob[0, 0, 0])


STARTS, FEW, SHORT = range(6, 36), 6, 4  # what texts follow; tokens that are written, and how many of them


@pytest.fixture(scope="module")
def few():
    """Probabilities of a few tokens behind any token, quite uneven."""
    probability = np.random.default_rng(7).dirichlet(np.full(FEW, 0.4), STARTS.stop)
    probability[:, PAD] = 0
    padded = np.zeros((STARTS.stop, STARTS.stop))
    padded[:, :FEW] = probability / probability.sum(axis=1, keepdims=True)
    return padded


@pytest.mark.parametrize("length_penalty", [0.0, 1.3])
def test_beams_enough_find_the_best_of_all_texts(few, length_penalty):
    best, beams = 5, (FEW - 2) ** SHORT
    found = chained(few, STARTS, tokens=SHORT, beams=beams, best=best, length_penalty=length_penalty)
    for row, start in enumerate(STARTS):
        texts = ranked(everything(Logs(few, start), SHORT), length_penalty)[:best]
        for rank, (text, total) in enumerate(texts):
            assert found.ids[row, rank].tolist() == [*text, *[PAD] * (SHORT - len(text))]
            assert found.score[row, rank] == pytest.approx(score(total, len(text), length_penalty), abs=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.3])
@pytest.mark.parametrize("beams", [1, 2, 3])
def test_many_narrow_searches_are_those_of_numpy(few, beams, length_penalty):
    settings = {"tokens": SHORT, "beams": beams, "best": beams, "length_penalty": length_penalty}
    found = chained(few, STARTS, **settings)
    for row, start in enumerate(STARTS):
        for rank, (text, total) in enumerate(narrow(Logs(few, start), **settings)):
            assert found.ids[row, rank].tolist() == [*text, *[PAD] * (SHORT - len(text))]
            assert found.score[row, rank] == pytest.approx(score(total, len(text), length_penalty), abs=1e-5)


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"beams": 2, "best": 3}, {"beams": 2, "length_penalty": -0.5}])
def test_what_is_no_search_is_refused(search, batch, wrong):
    with pytest.raises(ConfigError, match="no search"):
        search(batch, **wrong)
