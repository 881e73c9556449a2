"""Which text is the likeliest?

Beam search keeps the W best hypotheses of each text at every step. One that has ended keeps its place among them as
long as it is one of the best, so that a beam of one is greedy, and a beam as wide as the space finds the best text that
there is. Hypotheses are compared by

    score(Y) = ln p(Y) / lp(Y),     lp(Y) = ((5 + |Y|) / 6)^α,     |Y| with EOS

α = 0 compares probabilities, which favours short texts; more of it favours long ones.
Reference: Wu et al. 2016 (GNMT), arXiv 1609.08144, equation 14, without its coverage penalty.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

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


class _Search(NamedTuple):
    """W hypotheses for each of N texts, the best first; one that is not there yet has the total −∞."""

    ids: Int[Array, "N W t"]
    log_prob: Float[Array, "N W t"]
    total: Float[Array, "N W"]
    length: Int[Array, "N W"]
    ended: Bool[Array, "N W"]
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
    start = _start(model, memory, prompt, tokens, beams)

    def unfinished(state):
        return (state.place < tokens) & _open(state, tokens, best, length_penalty).any()

    def extend(state):
        beam, token, chosen = _extend(state, rules, length_penalty)
        rows = (jnp.arange(len(beam))[:, None] * beams + beam).reshape(-1)
        cache = reorder(state.reading.cache, rows)
        return chosen._replace(reading=read_token(model, memory, token.reshape(-1), cache))

    end = jax.lax.while_loop(unfinished, extend, start)
    score = _score(end.total, end.length, length_penalty)[:, :best]
    there = (score > -jnp.inf)[..., None]
    found = jnp.where(there, end.ids[:, :best], PAD), jnp.where(there, end.log_prob[:, :best], 0), score
    return Found(*(array.reshape(*prompt.ids.shape[:2], *array.shape[1:]) for array in found))


def _start(model, memory, prompt, tokens, beams):
    """The first hypothesis of each text is the empty one, and the others are not there."""
    reading = read_prompt(model, memory, prompt, tokens=tokens)
    texts, length = len(reading.logits), prompt.ids.shape[-1] + tokens
    room = jax.eval_shape(lambda: model.empty_cache(memory, rows=texts * beams, length=length).layers)
    return _Search(
        jnp.full((texts, beams, tokens), PAD, jnp.int32),
        jnp.zeros((texts, beams, tokens), jnp.float32),
        jnp.where(jnp.arange(beams) == 0, jnp.zeros((texts, beams)), -jnp.inf),
        jnp.zeros((texts, beams), jnp.int32),
        jnp.repeat(~prompt.present.reshape(-1, 1), beams, axis=1),
        jnp.int32(0),
        Reading(jnp.repeat(reading.logits, beams, axis=0), widen(reading.cache, room, beams)),
    )


def _extend(state, rules, length_penalty):
    """The best hypotheses that are one token longer: whose continuation each is, its token, and what is known of it."""
    texts, beams, tokens = state.ids.shape
    logits = state.reading.logits
    left = apply_rules(rules, logits, Written(state.ids.reshape(-1, tokens), state.place))
    # where a rule left nothing, the softmax is not a number
    gain = jnp.where(left > -jnp.inf, jax.nn.log_softmax(left), -jnp.inf).at[:, PAD].set(-jnp.inf)
    gain = jnp.where(state.ended.reshape(-1, 1), _only_pad(logits), gain).reshape(texts, beams, -1)
    total = state.total[..., None] + gain
    length = jnp.where(state.ended, state.length, state.place + 1)
    score = _score(total, length[..., None], length_penalty).reshape(texts, -1)
    index = jax.lax.top_k(score, beams)[1]
    beam, token = jnp.divmod(index, logits.shape[-1])

    def follow(array):
        return jnp.take_along_axis(array, beam.reshape(*beam.shape, *(1,) * (array.ndim - 2)), axis=1)

    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits).reshape(texts, -1), index, axis=1)
    return (
        beam,
        token,
        _Search(
            follow(state.ids).at[:, :, state.place].set(token),
            follow(state.log_prob).at[:, :, state.place].set(jnp.where(token == PAD, 0, log_prob)),
            jnp.take_along_axis(total.reshape(texts, -1), index, axis=1),
            follow(length),
            follow(state.ended) | (token == EOS),
            state.place + 1,
            state.reading,
        ),
    )


def _open(state, tokens, best, length_penalty):
    """Whether a text can still change: a hypothesis may come to outrank the `best` best of those that have ended."""
    score = _score(state.total, state.length, length_penalty)
    worst = jax.lax.top_k(jnp.where(state.ended, score, -jnp.inf), best)[0][:, -1:]
    # totals never grow, so that the least of a loss is at the greatest length
    within_reach = _score(state.total, jnp.full_like(state.length, tokens), length_penalty) > worst
    return (~state.ended & within_reach).any(axis=1)


def _score(total, length, length_penalty):
    return total / ((5 + length.astype(jnp.float32)) / 6) ** length_penalty


def _only_pad(logits):
    return jnp.where(jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) == PAD, 0.0, -jnp.inf)
