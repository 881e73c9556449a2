"""What does decoding remember, so that no token is computed twice?

Rows end at different lengths: every row has its own `length`, new keys are written there, and causality by index hides
whatever lies beyond it (a prompt's padding, until it is overwritten).
"""

from typing import Any, NamedTuple

import jax
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
