"""What does decoding remember, so that no token is computed twice?

Rows end at different lengths: every row has its own `length`, new keys are written there, and causality by index hides
whatever lies beyond it (a prompt's padding, until it is overwritten).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, Int


class KeyValue(NamedTuple):
    """Keys and values of one attention, for K key heads of size H."""

    key: Float[Array, "B S K H"]
    value: Float[Array, "B S K H"]


@struct.dataclass
class Cache:
    """The state of a decoding.

    Attributes:
      layers: as the stack lays it out: for each segment a dict, block name → `KeyValue` with a leading layer axis. A
        self-attention's grows from `length`; a cross-attention's was computed once, from the memory.
      length: tokens of each row so far, and so the index of the next one.
      position: of the next token.
    """

    layers: Any
    length: Int[Array, "B"]
    position: Float[Array, "B R"]


def write(cache: KeyValue, new: KeyValue, at: Int[Array, "B"]) -> KeyValue:
    """Returns the cache with each row's new entries standing from index `at` on.

    The caller sees to it that they fit: `dynamic_update_slice` shifts a block that does not.
    """

    def put(row, block, start):
        return jax.lax.dynamic_update_slice_in_dim(row, block.astype(row.dtype), start, axis=0)

    return jax.tree.map(lambda row, block: jax.vmap(put)(row, block, at), cache, new)


def widen(cache: Cache, layers: Any, times: int) -> Cache:
    """The cache with every row repeated so many times.

    Args:
      cache: of R rows.
      layers: shapes of the layers of a cache of R · times rows: what a memory gave has no row for each text, and is not
        repeated.
      times: rows that are made of one.
    """
    wide = jax.tree.map(
        lambda have, want: jnp.repeat(have, want.shape[1] // have.shape[1], axis=1), cache.layers, layers
    )
    return Cache(wide, jnp.repeat(cache.length, times), jnp.repeat(cache.position, times, axis=0))


def reorder(cache: Cache, rows: Int[Array, "R"]) -> Cache:
    """The cache in which row r goes on from what row `rows[r]` was; both share one example's memory.

    So a cross-attention's entries, which have fewer rows than there are texts, stay as they are.
    """

    def take(layers):
        return layers[:, rows] if layers.shape[1] == len(rows) else layers

    return Cache(jax.tree.map(take, cache.layers), cache.length[rows], cache.position[rows])
