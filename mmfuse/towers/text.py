"""How does a text become tokens?

Reference: the text towers of CLIP (causal, EOS), Radford et al. 2021, arXiv 2103.00020, and of SigLIP (not causal,
last token), Zhai et al. 2023, arXiv 2303.15343.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from mmfuse.nn.masks import Mask
from mmfuse.stack.block import Context
from mmfuse.stack.stack import Stack
from mmfuse.towers.pooling import Pool
from mmfuse.towers.tower import TowerOutput
from mmfuse.types import MODALITIES, Tokens


def places(segment: Int[Array, "B T"]) -> Float[Array, "B T 1"]:
    """The position of each token within its own segment, counted from 0."""
    index = jnp.broadcast_to(jnp.arange(segment.shape[1])[None], segment.shape)
    starts = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)))
    start = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return (index - start)[..., None].astype(jnp.float32)


class TextTower(nnx.Module):
    """A transformer over token ids, causal or not."""

    def __init__(
        self,
        width: int,
        stack: Stack,
        pool: Pool,
        *,
        vocabulary: int,
        causal: bool,
        packed: bool = True,
        position: nnx.Module | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds the token embedding around a stack.

        Args:
          width, stack, pool, position, dtype, rngs: see `ViT`.
          vocabulary: the number of ids.
          causal: a token may see only those before it.
          packed: a row may hold several texts: places count within each of them, and padding sees nothing. Otherwise
            places count from the row's start, and padding, which nobody sees, sees the text: as in released models,
            some of which pool what stands in the padding.
        """
        self.embed = nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
        self.position, self.stack, self.pool = position, stack, pool
        self.causal, self.packed = causal, packed

    def __call__(self, ids: Int[Array, "B T"], segment: Int[Array, "B T"], probe: dict | None = None) -> TowerOutput:
        """Reads texts; tokens see their own segment."""
        position = places(segment if self.packed else jnp.zeros_like(segment))
        values = self.embed(ids)
        if self.position is not None:
            values = values + self.position(position).astype(values.dtype)
        mask = Mask(query_segment=segment if self.packed else None, key_segment=segment, causal=self.causal)
        out = self.stack(values, Context(mask, position), probe=probe)
        code = jnp.full_like(segment, MODALITIES.index("text"))
        tokens = Tokens(out.values, segment, position, code, jnp.zeros_like(segment))
        return TowerOutput(tokens, self.pool(tokens, ids), out.aux, out.trace)
