"""How does a model write?

Token by token until it ends: greedily the likeliest, or with keys one that is drawn. The prompt is read at once; after
that each step reads one token against cached keys and values, and the memory's keys and values are computed once. It is
one compiled loop that stops when every text has ended. Searching for the likeliest text is the business of `beams.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from mmfuse.inference.logits import Rule, Written, apply_rules
from mmfuse.models.memory import Memory
from mmfuse.models.single_tower import SingleTower
from mmfuse.nn.cache import Cache
from mmfuse.types import EOS, PAD, Text


class Generated(NamedTuple):
    """Texts, and how likely the model found them.

    Attributes:
      ids: tokens up to and with EOS, then PAD. An absent prompt gets PAD alone.
      log_prob: ln p(token | memory, prompt, tokens before) under the model, before any rule; 0 at PAD.
    """

    ids: Int[Any, "B C t"]
    log_prob: Float[Any, "B C t"]


class Reading(NamedTuple):
    """Where R texts stand: the logits of their next tokens, in float32, and the cache."""

    logits: Float[Array, "R V"]
    cache: Cache


class _Writing(NamedTuple):
    ids: Int[Array, "R t"]
    log_prob: Float[Array, "R t"]
    place: Int[Array, ""]
    ended: Bool[Array, "R"]
    reading: Reading


def generate(
    model: SingleTower,
    memory: Memory,
    prompt: Text,
    *,
    tokens: int,
    rules: Sequence[Rule] = (),
    keys: Key[Array, "B C"] | None = None,
) -> Generated:
    """Answers to prompts; each depends on its own example, prompt and key alone.

    Args:
      model: the decoder.
      memory: what `encode` made of the same batch.
      prompt: C prompts for each example, padded on the right.
      tokens: t, the most that are written.
      rules: what changes the logits before a token is chosen, see `logits.py`.
      keys: of each text; without them the likeliest token is taken and nothing is drawn.
    """
    flat_keys = None if keys is None else keys.reshape(-1)
    ids = jnp.full((prompt.ids.shape[0] * prompt.ids.shape[1], tokens), PAD, jnp.int32)
    absent = ~prompt.present.reshape(-1)
    reading = read_prompt(model, memory, prompt, tokens=tokens)
    start = _Writing(ids, jnp.zeros(ids.shape, jnp.float32), jnp.int32(0), absent, reading)

    def unfinished(state):
        return (state.place < tokens) & ~state.ended.all()

    def write(state):
        writable = state.reading.logits.at[:, PAD].set(-jnp.inf)  # before the rules, whose choice would else be nothing
        logits = apply_rules(rules, writable, Written(state.ids, state.place))
        chosen = _choose(logits, flat_keys, state.place)
        token = jnp.where(state.ended, PAD, chosen)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(state.reading.logits), token[:, None], axis=1)[:, 0]
        return _Writing(
            state.ids.at[:, state.place].set(token),
            state.log_prob.at[:, state.place].set(jnp.where(token == PAD, 0, log_prob)),
            state.place + 1,
            (token == EOS) | (token == PAD),
            read_token(model, memory, token, state.reading.cache),
        )

    end = jax.lax.while_loop(unfinished, write, start)
    shape = *prompt.ids.shape[:2], tokens
    return Generated(end.ids.reshape(shape), end.log_prob.reshape(shape))


def read_prompt(model: SingleTower, memory: Memory, prompt: Text, *, tokens: int) -> Reading:
    """Reads the prompts, B · C rows of them, into a cache with room for so many tokens more."""
    ids, segment = (array.reshape(-1, array.shape[-1]) for array in (prompt.ids, prompt.segment))
    cache = model.empty_cache(memory, rows=len(ids), length=ids.shape[1] + tokens)
    read = model.decode(model.read(ids, segment, cache), memory, cache)
    last = jnp.maximum((segment > 0).sum(axis=1) - 1, 0)
    hidden = jnp.take_along_axis(read.hidden, last[:, None, None], axis=1)[:, 0]
    return Reading(model.readout(hidden), read.cache)


def read_token(model: SingleTower, memory: Memory, token: Int[Array, "R"], cache: Cache) -> Reading:
    """Reads one token of each text."""
    text = model.read(token[:, None], jnp.ones_like(token)[:, None], cache)
    read = model.decode(text, memory, cache)
    return Reading(model.readout(read.hidden[:, 0]), read.cache)


def text_keys(key: Key[Array, ""], origin: Int[Array, "B 2"], texts: int) -> Key[Array, "B {texts}"]:
    """A key for each of so many texts of each example, the same in whatever batch the example is.

    Args:
      key: of the whole generation.
      origin: `Batch.origin`, which record it is.
      texts: C.
    """

    keys = jnp.broadcast_to(key, len(origin))
    for number in origin.T:
        keys = jax.vmap(jax.random.fold_in)(keys, number)
    return jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(texts)))(keys)


def _choose(logits, keys, place):
    if keys is None:
        return logits.argmax(axis=-1).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
