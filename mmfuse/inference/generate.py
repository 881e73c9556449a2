"""How does a model write?

Greedily: the likeliest token, again and again, until it ends. The prompt is read at once; after that each step reads
one token against cached keys and values, and the memory's keys and values are computed once. It is one compiled loop
that stops when every text has ended.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from mmfuse.models.memory import Memory
from mmfuse.models.single_tower import SingleTower
from mmfuse.nn.cache import Cache
from mmfuse.types import EOS, PAD, Text


class _Writing(NamedTuple):
    written: Int[Array, "R t"]
    place: Int[Array, ""]
    token: Int[Array, "R"]
    cache: Cache


def generate(model: SingleTower, memory: Memory, prompt: Text, *, tokens: int) -> Int[Array, "B C t"]:
    """Greedy answers to prompts.

    Args:
      model: the decoder.
      memory: what `encode` made of the same batch.
      prompt: C prompts for each example, padded on the right.
      tokens: t, the most that are written.

    Returns:
      Token ids up to and with EOS, then PAD. An absent prompt gets PAD alone.
    """
    ids, segment = (array.reshape(-1, array.shape[-1]) for array in (prompt.ids, prompt.segment))
    cache = model.empty_cache(memory, rows=len(ids), length=ids.shape[1] + tokens)
    read = model.decode(model.read(ids, segment, cache), memory, cache)
    last = jnp.maximum((segment > 0).sum(axis=1) - 1, 0)
    hidden = jnp.take_along_axis(read.hidden, last[:, None, None], axis=1)[:, 0]
    first = jnp.where(segment[:, 0] > 0, _likeliest(model, hidden), PAD)
    start = _Writing(jnp.full((len(ids), tokens), PAD, jnp.int32), jnp.int32(0), first, read.cache)

    def unfinished(state):
        return (state.place < tokens) & (state.token != PAD).any()

    def write(state):
        written = state.written.at[:, state.place].set(state.token)
        text = model.read(state.token[:, None], jnp.ones_like(state.token)[:, None], state.cache)
        out = model.decode(text, memory, state.cache)
        ended = (state.token == EOS) | (state.token == PAD)
        token = jnp.where(ended, PAD, _likeliest(model, out.hidden[:, 0]))
        return _Writing(written, state.place + 1, token, out.cache)

    return jax.lax.while_loop(unfinished, write, start).written.reshape(*prompt.ids.shape[:2], tokens)


def _likeliest(model, hidden):
    # PAD is never written: it says that a text has ended
    return model.readout(hidden).at[:, PAD].set(-jnp.inf).argmax(axis=-1).astype(jnp.int32)
