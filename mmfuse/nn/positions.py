"""How does a token say where it stands?

Positions are numbers along R axes: 1 for text, 2 for the rows and columns of an image. They are either added to the
token as a vector (`SinCosPosition`, `LearnedPosition`, `ResizedPosition`), or turn queries and keys so that scores
depend on differences (`rotate`). `extent` is the length of each axis in the grid that the positions of a row lie in.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int


class SinCosPosition(nnx.Module):
    """Fixed sines and cosines: for each axis [sin(p ω_i), cos(p ω_i)], ω_i = 10000^(−i / (n − 1)), n = D / 2R.

    Reference: MoCo v3, Chen et al. 2021, arXiv 2104.02057; big_vision's `posemb_sincos_2d` with rows first.
    """

    def __init__(self, width: int, *, axes: int = 2):
        if width % (2 * axes):
            raise ValueError(f"a width of {width} does not divide into sines and cosines of {axes} axes")
        self.frequencies = width // (2 * axes)

    def __call__(
        self, position: Float[Array, "B S R"], extent: Int[Array, "B R"] | None = None
    ) -> Float[Array, "B S D"]:
        exponent = jnp.arange(self.frequencies, dtype=jnp.float32) / max(self.frequencies - 1, 1)
        angle = position[..., None] * (1e4**-exponent)[None, None, None]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(*position.shape[:2], -1)


class LearnedPosition(nnx.Module):
    """A table with one vector for each place of a grid; positions beyond its `extent` use its last places."""

    def __init__(self, extent: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        self.extent = tuple(extent)
        self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), (math.prod(extent), width)))

    def __call__(
        self, position: Float[Array, "B S R"], extent: Int[Array, "B R"] | None = None
    ) -> Float[Array, "B S D"]:
        index = jnp.zeros(position.shape[:2], jnp.int32)
        for axis, size in enumerate(self.extent):
            index = index * size + jnp.clip(position[..., axis].astype(jnp.int32), 0, size - 1)
        return self.table[...][index]


class ResizedPosition(LearnedPosition):
    """A table of a grid that is resized to each picture's own grid: linear, antialiased where it shrinks.

        vector(p) = Σ_g Π_axes w(g, p) table[g],     w ∝ max(0, 1 − |g + ½ − (p + ½) G / N| / max(1, G / N)),  Σ_g w = 1

    for G places of the table and N of the picture along an axis; positions beyond N are taken for the last.
    Reference: NaFlex of SigLIP 2, Tschannen et al. 2025, arXiv 2502.14786; the weights are those of Pillow and torch.
    """

    def __call__(
        self, position: Float[Array, "B S R"], extent: Int[Array, "B R"] | None = None
    ) -> Float[Array, "B S D"]:
        own = jnp.broadcast_to(jnp.array(self.extent), (len(position), len(self.extent)))
        number = jnp.maximum(own if extent is None else extent, 1).astype(jnp.float32)[:, None]
        shrink = own[:, None].astype(jnp.float32) / number
        center = (jnp.minimum(position, number - 1) + 0.5) * shrink
        weights = jnp.ones((*position.shape[:2], 1))
        for axis, places in enumerate(self.extent):
            distance = jnp.abs(jnp.arange(places, dtype=jnp.float32)[None, None] + 0.5 - center[..., axis, None])
            along = jnp.maximum(0, 1 - distance / jnp.maximum(1, shrink[..., axis, None]))
            along = along / along.sum(axis=-1, keepdims=True)
            weights = (weights[..., :, None] * along[..., None, :]).reshape(*position.shape[:2], -1)
        return jnp.einsum("BSG,GD->BSD", weights, self.table[...], precision=jax.lax.Precision.HIGHEST)


def rotate(
    heads: Float[Array, "B S N H"], position: Float[Array, "B S R"], *, base: float = 1e4
) -> Float[Array, "B S N H"]:
    """Rotary positions: turns the pair (x_i, x_{i + H/2}) by the angle p · base^(−2i/H).

    With R axes the H / 2 pairs are dealt out to them in turn, so that each axis has slow and fast pairs.
    Reference: Su et al. 2021, arXiv 2104.09864, with the halves of GPT-NeoX.
    """
    pairs = heads.shape[-1] // 2
    frequency = base ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
    axis = jnp.arange(pairs) % position.shape[-1]
    angle = (position[..., axis] * frequency[None, None])[:, :, None]
    sin, cos = jnp.sin(angle).astype(heads.dtype), jnp.cos(angle).astype(heads.dtype)
    first, second = heads[..., :pairs], heads[..., pairs:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
