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
from jaxtyping import Float, Int, Num

from mmfuse.nn.masks import Mask
from mmfuse.stack.block import Context
from mmfuse.stack.stack import Stack
from mmfuse.towers.patches import cut_patches, first_places, grid_positions, holds_any
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
        class_position: bool = False,
        pre_norm: nnx.Module | None = None,
        patch_bias: bool = True,
        crop: bool = False,
        places: int | None = None,
        center: float | tuple[float, ...] = 127.5,
        scale: float | tuple[float, ...] = 127.5,
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
          class_position: adds a learned position to the class token, too.
          pre_norm: normalises the tokens before the first block.
          patch_bias: adds a bias to the projected patches.
          crop: leaves out pixels at the bottom and the right that fill no patch; otherwise they are refused.
          places: how many patches any picture has at most, where that is fewer than its array has; None: as many.
          center, scale: pixels enter as (value − center) / scale; one number, or one for each channel.
          modality: the code that the tokens carry.
          dtype: of the computation.
          rngs: draws the parameters.
        """
        self.patch, self.center, self.scale, self.dtype = tuple(patch), center, scale, dtype
        self.crop, self.places, self.pre_norm = crop, places, pre_norm
        self.modality = MODALITIES.index(modality)
        self.embed = nnx.Linear(patch[0] * patch[1] * channels, width, use_bias=patch_bias, dtype=dtype, rngs=rngs)
        self.position, self.stack, self.pool = position, stack, pool
        self.class_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, width))) if class_token else None
        self.class_position = nnx.Param(jnp.zeros((1, width))) if class_position else None

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
        center, scale = (jnp.asarray(number, self.dtype).reshape(1, 1, 1, -1) for number in (self.center, self.scale))
        return self.read((values.astype(self.dtype) - center) / scale, size, probe=probe)

    def read(self, values: Float[Array, "B h w c"], size: Int[Array, "B 2"], probe: dict | None = None) -> TowerOutput:
        """The same for values that are normalised already."""
        if self.crop:
            height, width = (extent // patch * patch for extent, patch in zip(values.shape[1:3], self.patch))
            values = values[:, :height, :width]
        patches = cut_patches(values, self.patch)
        batch, rows, columns, _ = patches.shape
        position = jnp.broadcast_to(grid_positions(rows, columns), (batch, rows * columns, 2))
        segment = holds_any(size, rows, columns, self.patch).astype(jnp.int32)
        extent = -(-size // jnp.array([self.patch]))
        patches = patches.reshape(batch, rows * columns, -1)
        if self.places is not None:
            patches, position, segment = first_places(self.places, patches, position, segment)
        return self.read_patches(patches, position, segment, extent, probe=probe)

    def read_patches(
        self,
        patches: Float[Array, "B P phwc"],
        position: Float[Array, "B P 2"],
        segment: Int[Array, "B P"],
        extent: Int[Array, "B 2"],
        probe: dict | None = None,
    ) -> TowerOutput:
        """The same for patches that are cut already, in any order.

        Args:
          patches: normalised.
          position: (row, column) of each in its picture's grid.
          segment: 0 where there is none.
          extent: rows and columns of each picture's grid.
          probe: see `Stack`.
        """
        tokens, batch = self.embed(patches.astype(self.dtype)), len(patches)
        if self.position is not None:
            tokens = tokens + self.position(position, extent).astype(self.dtype)
        if self.class_token is not None:
            first = self.class_token[...] if self.class_position is None else self.class_token + self.class_position
            first = jnp.broadcast_to(first[None].astype(self.dtype), (batch, 1, tokens.shape[-1]))
            tokens = jnp.concatenate([first, tokens], axis=1)
            segment = jnp.concatenate([segment.max(axis=1, keepdims=True), segment], axis=1)
            position = jnp.concatenate([jnp.zeros_like(position[:, :1]), position], axis=1)
        if self.pre_norm is not None:
            tokens = self.pre_norm(tokens)
        out = self.stack(tokens, Context(Mask(query_segment=segment, key_segment=segment), position), probe=probe)
        tokens = Tokens(out.values, segment, position, jnp.full_like(segment, self.modality), jnp.zeros_like(segment))
        return TowerOutput(tokens, self.pool(tokens), out.aux, out.trace)
