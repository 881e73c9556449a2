"""How does a picture become tokens where examples are few?

A residual network of 3×3 convolutions: what a vision transformer has to learn of neighbourhood and shift, it knows. The
picture is cut into small patches; each stage after the first has half the resolution and twice the width. The positions
of the last stage are the tokens. A position is normalised over its own channels, or a channel over the positions of its
own picture: neither other examples nor padding have a say. The second keeps what is small in a picture from being
drowned by what surrounds it, and learns of it many times sooner.

References: residual blocks that normalise first, He et al. 2016, arXiv 1603.05027; patches and norms over channels, Liu
et al. 2022, arXiv 2201.03545; norms over positions, Ulyanov et al. 2016, arXiv 1607.08022.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Num

from mmfuse.nn.norms import InstanceNorm
from mmfuse.towers.patches import cut_patches, grid_positions, holds_any
from mmfuse.towers.pooling import Pool
from mmfuse.towers.tower import TowerOutput
from mmfuse.types import MODALITIES, Tokens


class ResidualBlock(nnx.Module):
    """x ↦ project(shrink(x)) + conv(relu(norm(conv(relu(norm(x)))))), where the first convolution may have a stride."""

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        norm: Callable[[int], nnx.Module],
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Args: channels in and out, the stride, and what makes a norm of so many channels."""
        conv = functools.partial(
            nnx.Conv, kernel_size=(3, 3), padding=((1, 1), (1, 1)), use_bias=False, dtype=dtype, rngs=rngs
        )
        self.stride = stride
        self.norm1, self.conv1 = norm(channels), conv(channels, width, strides=stride)
        self.norm2, self.conv2 = norm(width), conv(width, width)
        same = channels == width
        self.project = None if same else nnx.Linear(channels, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B h w c"], inside: Bool[Array, "B h w 1"], after: Bool[Array, "B g v 1"]
    ) -> Float[Array, "B g v d"]:
        """Reads a map; `inside` and `after` are the positions that hold any of the picture, before and after."""
        h = self.conv1(_activate(self.norm1, x, inside))
        h = self.conv2(_activate(self.norm2, h, after))
        batch, rows, columns, _ = h.shape
        shortcut = x.reshape(batch, rows, self.stride, columns, self.stride, -1).mean(axis=(2, 4))
        shortcut = self.project(shortcut) if self.project is not None else shortcut
        return jnp.where(after, shortcut + h, 0)


def _activate(norm, x, inside):
    """The norm and what is above 0 of it, a map as x is; 0 outside."""
    normed = _normalise(norm, x.reshape(len(x), -1, x.shape[-1]), inside.reshape(len(x), -1))
    return jnp.where(inside, jax.nn.relu(normed.reshape(x.shape)), 0)


def _normalise(norm, tokens, inside):
    return norm(tokens, inside) if isinstance(norm, InstanceNorm) else norm(tokens)


def reach(patch: Sequence[int], blocks: Sequence[int]) -> tuple[int, ...]:
    """Height and width in pixels that a token stands for: each stage after the first has half the resolution."""
    return tuple(side << (len(blocks) - 1) for side in patch)


class ConvNet(nnx.Module):
    """A residual network over patches."""

    def __init__(
        self,
        width: int,
        blocks: Sequence[int],
        norm: Callable[[int], nnx.Module],
        pool: Pool,
        *,
        patch: tuple[int, int],
        position: nnx.Module | None = None,
        channels: int = 3,
        center: float = 127.5,
        scale: float = 127.5,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds the stages.

        Args:
          width: of the tokens, D: the channels of the last stage.
          blocks: how many of each stage.
          norm: makes a norm of so many channels; after an `InstanceNorm` a mean of the tokens is nothing.
          pool: sums the tokens up.
          patch: height and width of a patch in pixels.
          position: maps (row, column) of a token to a vector that is added before the last norm; convolutions hardly
            know where they are, and who reads the tokens may have to. None: nothing is added.
          channels: of the picture.
          center, scale: pixels enter as (value − center) / scale.
          dtype: of the computation.
          rngs: draws the parameters.
        """
        self.patch, self.center, self.scale, self.dtype = tuple(patch), center, scale, dtype
        now = width >> (len(blocks) - 1)
        self.embed = nnx.Linear(patch[0] * patch[1] * channels, now, dtype=dtype, rngs=rngs)
        made = []
        for stage, number in enumerate(blocks):
            for block in range(number):
                then, stride = width >> (len(blocks) - 1 - stage), 2 if stage and not block else 1
                made.append(ResidualBlock(now, then, stride, norm, dtype=dtype, rngs=rngs))
                now = then
        self.blocks, self.norm, self.pool, self.position = nnx.List(made), norm(width), pool, position
        self.reach = reach(patch, blocks)

    def __call__(
        self, values: Num[Array, "B h w c"], size: Int[Array, "B 2"], probe: dict | None = None
    ) -> TowerOutput:
        """Reads pictures of a static size h × w, of which the first `size` rows and columns are valid.

        There is no attention that a `probe` could look at.

        Raises:
          ValueError: h or w is not a multiple of `reach`.
        """
        if values.shape[1] % self.reach[0] or values.shape[2] % self.reach[1]:
            raise ValueError(f"pictures of {values.shape[1]}×{values.shape[2]} do not divide by {self.reach}")
        patch = self.patch
        x = self.embed(cut_patches((values.astype(self.dtype) - self.center) / self.scale, patch))
        inside = self._inside(size, x.shape, patch)
        x = jnp.where(inside, x, 0)
        for block in self.blocks:
            patch = tuple(block.stride * side for side in patch)
            after = self._inside(size, (len(x), x.shape[1] // block.stride, x.shape[2] // block.stride), patch)
            x, inside = block(x, inside, after), after
        batch, rows, columns, width = x.shape
        segment = inside.reshape(batch, -1).astype(jnp.int32)
        position = jnp.broadcast_to(grid_positions(rows, columns), (*segment.shape, 2))
        modality = jnp.full_like(segment, MODALITIES.index("image"))
        x = x.reshape(batch, -1, width)
        if self.position is not None:
            x = x + self.position(position, -(-size // jnp.array([self.reach]))).astype(x.dtype)
        features = _normalise(self.norm, x, segment > 0)
        tokens = Tokens(features, segment, position, modality, jnp.zeros_like(segment))
        return TowerOutput(tokens, self.pool(tokens), {}, {})

    def _inside(self, size, shape, patch):
        batch, rows, columns = shape[:3]
        return holds_any(size, rows, columns, patch).reshape(batch, rows, columns, 1)
