"""What is one layer of a stack?

Every block has one form, so that a stack can scan any sequence of them:

    block(values, context, cache, probe) → BlockOutput        block.empty_cache(context, rows, length) → KeyValue
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from mmfuse.nn.attention import Attention
from mmfuse.nn.cache import KeyValue, write
from mmfuse.nn.masks import Mask


class Context(NamedTuple):
    """What all blocks of a stack may look at besides the values that flow through them.

    Attributes:
      mask, position: of the sequence itself.
      memory, memory_mask: what cross-attention reads, or None.
      length: where a cache stands, or None without one.
    """

    mask: Mask
    position: Float[Array, "B T R"]
    memory: Float[Array, "A S D"] | None = None
    memory_mask: Mask | None = None
    length: Int[Array, "B"] | None = None


class BlockOutput(NamedTuple):
    """The values, auxiliary scalars, the cache as it is now, and attention weights where a probe asked for them."""

    values: Float[Array, "B T D"]
    aux: dict[str, Array]
    cache: KeyValue | None = None
    trace: Float[Array, "B N T S"] | None = None


@runtime_checkable
class Block(Protocol):
    """The form that every block has."""

    def __call__(
        self, values: Array, context: Context, cache: KeyValue | None = None, probe: Array | None = None
    ) -> BlockOutput: ...

    def empty_cache(self, context: Context, rows: int, length: int) -> KeyValue: ...


class SelfBlock(nnx.Module):
    """Pre-norm transformer block: x += Attention(norm(x)); x += Mlp(norm(x))."""

    def __init__(self, attention: Attention, mlp: nnx.Module, attention_norm: nnx.Module, mlp_norm: nnx.Module):
        self.attention, self.mlp = attention, mlp
        self.attention_norm, self.mlp_norm = attention_norm, mlp_norm

    def __call__(
        self,
        values: Float[Array, "B T D"],
        context: Context,
        cache: KeyValue | None = None,
        probe: Array | None = None,
    ) -> BlockOutput:
        normed = self.attention_norm(values)
        memory = self.attention.keys_values(normed, context.position)
        if cache is not None:
            assert context.length is not None, "a cache is written where the context's length says"
            memory = cache = write(cache, memory, context.length)
        read, trace = self.attention(normed, memory, context.mask, position=context.position, probe=probe)
        values = values + read
        thought, aux = self.mlp(self.mlp_norm(values))
        return BlockOutput(values + thought, aux, cache, trace)

    def empty_cache(self, context: Context, rows: int, length: int) -> KeyValue:
        """Room for `length` tokens in each of `rows` rows."""
        shape = (rows, length, self.attention.key_heads, self.attention.head_size)
        dtype = self.attention.key.dtype or jnp.float32
        return KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
