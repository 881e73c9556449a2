"""How does a picture become tokens?

It is cut into patches, each projected to a token, told where it stands, and read by a stack that sees the whole
picture. A picture smaller than its array (`size`) has fewer tokens: patches that hold none of it are padding.
Reference: Dosovitskiy et al. 2021, arXiv 2010.11929.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Int, Num

from mmfuse.nn.masks import Mask
from mmfuse.stack.block import Context
from mmfuse.stack.stack import Stack
from mmfuse.towers.patches import cut_patches, grid_positions, holds_any
from mmfuse.towers.pooling import Pool
from mmfuse.towers.tower import TowerOutput
from mmfuse.types import MODALITIES, Tokens


class ViT(nnx.Module):
    """Vision transformer over patches, with or without a class token."""

    def __init__(
        self,
        width: int,
        stack: Stack,
        pool: Pool,
        *,
        patch: tuple[int, int],
        channels: int = 3,
        position: nnx.Module | None = None,
        class_token: bool = False,
        center: float = 127.5,
        scale: float = 127.5,
        modality: str = "image",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds the patch embedding around a stack.

        Args:
          width: of the tokens, D.
          stack, pool: what reads the tokens, and what sums them up.
          patch: height and width of a patch in pixels.
          channels: of the picture.
          position: maps (row, column) to a vector that is added; None where the stack's attention rotates.
          class_token: puts a learned token before the patches.
          center, scale: pixels enter as (value − center) / scale.
          modality: the code that the tokens carry.
          dtype: of the computation.
          rngs: draws the parameters.
        """
        self.patch, self.center, self.scale, self.dtype = tuple(patch), center, scale, dtype
        self.modality = MODALITIES.index(modality)
        self.embed = nnx.Linear(patch[0] * patch[1] * channels, width, dtype=dtype, rngs=rngs)
        self.position, self.stack, self.pool = position, stack, pool
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, width))) if class_token else None

    def __call__(
        self,
        values: Num[Array, "B h w c"],
        size: Int[Array, "B 2"],
        probe: dict | None = None,
    ) -> TowerOutput:
        """Reads pictures of a static size h × w, of which the first `size` rows and columns are valid.

        Raises:
          ValueError: h or w is not a multiple of the patch.
        """
        patches = cut_patches((values.astype(self.dtype) - self.center) / self.scale, self.patch)
        batch, rows, columns, _ = patches.shape
        tokens = self.embed(patches.reshape(batch, rows * columns, -1))
        position = jnp.broadcast_to(grid_positions(rows, columns), (batch, rows * columns, 2))
        if self.position is not None:
            tokens = tokens + self.position(position).astype(self.dtype)
        segment = holds_any(size, rows, columns, self.patch).astype(jnp.int32)
        if self.class_token is not None:
            first = jnp.broadcast_to(self.class_token[...][None].astype(self.dtype), (len(values), 1, tokens.shape[-1]))
            tokens = jnp.concatenate([first, tokens], axis=1)
            segment = jnp.concatenate([segment.max(axis=1, keepdims=True), segment], axis=1)
            position = jnp.concatenate([jnp.zeros_like(position[:, :1]), position], axis=1)
        out = self.stack(tokens, Context(Mask(query_segment=segment, key_segment=segment), position), probe=probe)
        tokens = Tokens(out.values, segment, position, jnp.full_like(segment, self.modality), jnp.zeros_like(segment))
        return TowerOutput(tokens, self.pool(tokens), out.aux, out.trace)
