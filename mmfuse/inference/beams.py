"""Which text is the likeliest?

Beam search keeps the W best open hypotheses of each text at every step, and beside them the best of those that have
ended: of all continuations of a step those that end and are among the W best. So a beam of one is greedy where
probabilities are compared, and a beam as wide as the space finds the best text that there is. What has ended cannot be
lost to what is open and likelier now. The search stops where nothing open can come to outrank what has ended.
Hypotheses are compared by

    score(Y) = ln p(Y) / lp(Y),     lp(Y) = ((5 + |Y|) / 6)^α,     |Y| with EOS

α = 0 compares probabilities, which favours short texts; more of it favours long ones.
Reference: Wu et al. 2016 (GNMT), arXiv 1609.08144, equation 14, without its coverage penalty.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from mmfuse.inference.generate import Reading, read_prompt, read_token
from mmfuse.inference.logits import Rule, Written, apply_rules
from mmfuse.models.memory import Memory
from mmfuse.models.single_tower import SingleTower
from mmfuse.nn.cache import reorder, widen
from mmfuse.types import EOS, PAD, ConfigError, Text


class Found(NamedTuple):
    """The n best texts for each prompt, the best one first.

    Attributes:
      ids: tokens up to and with EOS, then PAD. An absent prompt gets PAD alone.
      log_prob: ln p(token | memory, prompt, tokens before) under the model, before any rule; 0 at PAD.
      score: what they are compared by, under the rules; −∞ where there are fewer than n texts.
    """

    ids: Int[Array, "B C n t"]
    log_prob: Float[Array, "B C n t"]
    score: Float[Array, "B C n"]


class _Hypotheses(NamedTuple):
    """W hypotheses for each of N texts, the best first; one that is not there has the score −∞."""

    ids: Int[Array, "N W t"]
    log_prob: Float[Array, "N W t"]
    score: Float[Array, "N W"]  # of open ones ln p, since they are of one length


class _Search(NamedTuple):
    """W open hypotheses of `place` tokens, and the n best that have ended."""

    open: _Hypotheses
    ended: _Hypotheses
    place: Int[Array, ""]
    reading: Reading


def beam_search(
    model: SingleTower,
    memory: Memory,
    prompt: Text,
    *,
    tokens: int,
    beams: int,
    best: int = 1,
    length_penalty: float = 0.0,
    rules: Sequence[Rule] = (),
) -> Found:
    """Searches for the best answers to prompts.

    Args:
      model: the decoder.
      memory: what `encode` made of the same batch.
      prompt: C prompts for each example, padded on the right.
      tokens: t, the most that are written; what has not ended by then counts as it is.
      beams: W.
      best: n, how many texts are returned, at most W.
      length_penalty: α, from 0 on.
      rules: what changes the logits, see `logits.py`; hypotheses are scored by what is left of the probabilities.

    Raises:
      ConfigError: numbers that allow no search.
    """
    if not 1 <= best <= beams or length_penalty < 0:
        raise ConfigError(
            f"beams={beams}, best={best}, length_penalty={length_penalty}: there is no search with less than one beam, "
            "with fewer beams than texts are wanted, or with a penalty below 0."
        )
    start = _start(model, memory, prompt, tokens, beams, best)

    def unfinished(state):
        return (state.place < tokens) & _open(state, tokens, length_penalty).any()

    def extend(state):
        beam, token, longer = _extend(state, rules, length_penalty)
        rows = (jnp.arange(len(beam))[:, None] * beams + beam).reshape(-1)
        cache = reorder(state.reading.cache, rows)
        return longer._replace(reading=read_token(model, memory, token.reshape(-1), cache))

    end = jax.lax.while_loop(unfinished, extend, start)
    unended = end.open._replace(score=_score(end.open.score, end.place, length_penalty))
    (ids, log_prob, score), _ = _best(best, end.ended, unended)
    there = (score > -jnp.inf)[..., None]
    found = jnp.where(there, ids, PAD), jnp.where(there, log_prob, 0), score
    return Found(*(array.reshape(*prompt.ids.shape[:2], *array.shape[1:]) for array in found))


def _start(model, memory, prompt, tokens, beams, best):
    """The first hypothesis of each text is the empty one, and the others are not there."""
    reading = read_prompt(model, memory, prompt, tokens=tokens)
    texts, length = len(reading.logits), prompt.ids.shape[-1] + tokens
    room = jax.eval_shape(lambda: model.empty_cache(memory, rows=texts * beams, length=length).layers)

    def nothing(number):
        ids = jnp.full((texts, number, tokens), PAD, jnp.int32)
        return _Hypotheses(ids, jnp.zeros(ids.shape, jnp.float32), jnp.full(ids.shape[:2], -jnp.inf))

    opened = nothing(beams)
    first = jnp.where(prompt.present.reshape(-1), 0.0, -jnp.inf)
    return _Search(
        opened._replace(score=opened.score.at[:, 0].set(first)),
        nothing(best),
        jnp.int32(0),
        Reading(jnp.repeat(reading.logits, beams, axis=0), widen(reading.cache, room, beams)),
    )


def _extend(state, rules, length_penalty):
    """The search one token further: whose continuation each open hypothesis is, its token, and what is known then."""
    texts, beams, tokens = state.open.ids.shape
    writable = state.reading.logits.at[:, PAD].set(-jnp.inf)
    left = apply_rules(rules, writable, Written(state.open.ids.reshape(-1, tokens), state.place))
    # where a rule left nothing, the softmax is not a number
    gain = jnp.where(left > -jnp.inf, jax.nn.log_softmax(left), -jnp.inf).reshape(texts, beams, -1)
    total, log_prob = state.open.score[..., None] + gain, jax.nn.log_softmax(state.reading.logits)
    score, index = jax.lax.top_k(total.reshape(texts, -1), 2 * beams)  # of which W end at most
    beam, token = jnp.divmod(index, gain.shape[-1])
    likely = jnp.take_along_axis(log_prob.reshape(texts, -1), index, axis=1)
    longer = _Hypotheses(
        _follow(state.open.ids, beam).at[:, :, state.place].set(token),
        _follow(state.open.log_prob, beam).at[:, :, state.place].set(likely),
        score,
    )
    ends, among_best = token == EOS, jnp.arange(2 * beams)[None] < beams
    ended = _score(jnp.where(ends & among_best, score, -jnp.inf), state.place + 1, length_penalty)
    going_on, kept = _best(beams, longer._replace(score=jnp.where(ends, -jnp.inf, score)))
    best, _ = _best(state.ended.score.shape[1], state.ended, longer._replace(score=ended))
    beam, token = (_follow(array, kept) for array in (beam, token))
    return beam, token, _Search(going_on, best, state.place + 1, state.reading)


def _best(number, *parts):
    """The best hypotheses of several parts, of equal ones the first; and where they stood."""
    ids, log_prob, score = (jnp.concatenate(arrays, axis=1) for arrays in zip(*parts))
    score, place = jax.lax.top_k(score, number)
    return _Hypotheses(_follow(ids, place), _follow(log_prob, place), score), place


def _follow(array, place):
    return jnp.take_along_axis(array, place.reshape(*place.shape, *(1,) * (array.ndim - 2)), axis=1)


def _open(state, tokens, length_penalty):
    """Whether a text can still change: an open hypothesis may come to outrank one of those that have ended."""
    # totals never grow, so that the least of a loss is at the greatest length
    within_reach = _score(state.open.score[:, 0], jnp.int32(tokens), length_penalty)
    return within_reach > state.ended.score[:, -1]


def _score(total, length, length_penalty):
    return total / ((5 + length.astype(jnp.float32)) / 6) ** length_penalty
