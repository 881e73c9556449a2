"""How does one set of tokens read from another?

    out = softmax(q kᵀ / √H + bias, over the keys that the mask allows) v

A query that may look at nothing gets exactly zero. Several query heads may share one key head (grouped queries).
Reference: Vaswani et al. 2017, arXiv 1706.03762; Ainslie et al. 2023, arXiv 2305.13245 (grouped queries).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from mmfuse.nn.cache import KeyValue
from mmfuse.nn.masks import Mask, allowed
from mmfuse.nn.positions import rotate


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Mask,
    probe: Float[Array, ""] | Float[Array, "#B #N T S"] | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T S"] | None]:
    """Attention under a mask, and its weights where a probe asks for them.

    Args:
      query: N heads, a multiple of the K heads of key and value; query head n reads key head n // (N / K).
      probe: ε that is added to the weights after the softmax: 0 only looks, and ∂loss/∂ε is the gradient with respect
        to the weights. Without a probe the weights never leave the kernel.

    Returns:
      The output, and the weights (each row sums to 1, or to 0 where all is masked) or None.
    """
    dense = allowed(mask, queries=query.shape[1], keys=key.shape[1])
    if probe is not None:
        return _attend_openly(query, key, value, dense, mask.bias, probe)
    out = jax.nn.dot_product_attention(
        query, key, value, bias=mask.bias, mask=None if dense is None else dense[:, None]
    )
    if dense is not None:
        # The kernel gives the mean of the values where a row is fully masked.
        out = jnp.where(dense.any(axis=-1)[:, :, None, None], out, 0)
    return out, None


def _attend_openly(query, key, value, dense, bias, probe):
    """The same in plain steps, so that the weights can be seen and moved."""
    batch, length, heads, size = query.shape
    grouped = query.reshape(batch, length, key.shape[2], -1, size)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", grouped, key, preferred_element_type=jnp.float32) * size**-0.5
    scores = scores.reshape(batch, heads, length, -1)
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias, scores.shape)
    if dense is not None:
        visible = jnp.broadcast_to(dense[:, None], scores.shape)
        scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
        weights = jnp.where(visible, jax.nn.softmax(scores), 0)
    else:
        weights = jax.nn.softmax(scores)
    moved = (weights + jnp.broadcast_to(probe, weights.shape)).astype(value.dtype)
    moved = moved.reshape(batch, key.shape[2], -1, *weights.shape[2:])
    out = jnp.einsum("BKGTS,BSKH->BTKGH", moved, value)
    return out.reshape(query.shape), weights


class Attention(nnx.Module):
    """Multi-head attention with its projections: keys and values first, so that a cache can stand between."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_heads: int | None = None,
        memory_width: int | None = None,
        rotary_base: float | None = None,
        out_bias: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds the four projections.

        Args:
          width: of the queries' tokens, D.
          heads: N query heads of size D / N.
          key_heads: K heads of keys and values, a divisor of `heads`; as many as `heads` where not given.
          memory_width: of the tokens that are read from; D where not given.
          rotary_base: rotates queries and keys by their positions, with this longest wavelength / 2π.
          out_bias: adds a bias to what was read; without one, a query that may look at nothing reads exactly zero.
          dtype: of the computation; parameters are float32.
          rngs: draws the parameters.
        """
        self.heads, self.key_heads = heads, key_heads or heads
        self.head_size = width // heads
        self.rotary_base = rotary_base
        memory_width = memory_width or width
        self.query = nnx.Linear(width, heads * self.head_size, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(memory_width, self.key_heads * self.head_size, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(memory_width, self.key_heads * self.head_size, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(heads * self.head_size, width, use_bias=out_bias, dtype=dtype, rngs=rngs)

    def keys_values(self, memory: Float[Array, "B S D"], position: Float[Array, "B S R"] | None = None) -> KeyValue:
        """What the tokens of a memory offer to queries; computed once for a memory that stays."""
        key = self.key(memory).reshape(*memory.shape[:2], self.key_heads, self.head_size)
        value = self.value(memory).reshape(key.shape)
        return KeyValue(self._rotate(key, position), value)

    def __call__(
        self,
        tokens: Float[Array, "B T D"],
        memory: KeyValue,
        mask: Mask,
        *,
        position: Float[Array, "B T R"] | None = None,
        probe: Array | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T S"] | None]:
        """Returns what the tokens read from the memory, and the weights where a probe asks for them."""
        query = self.query(tokens).reshape(*tokens.shape[:2], self.heads, self.head_size)
        out, weights = self.read(self._rotate(query, position), memory, mask, probe)
        return self.out(out.reshape(*tokens.shape[:2], -1)), weights

    def read(
        self, query: Float[Array, "B T N H"], memory: KeyValue, mask: Mask, probe: Array | None = None
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T S"] | None]:
        """What each head reads: `attend`, where a form of attention does not say otherwise."""
        return attend(query, *memory, mask, probe)

    def _rotate(self, heads, position):
        return heads if self.rotary_base is None else rotate(heads, position, base=self.rotary_base)
