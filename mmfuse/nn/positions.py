"""How does a token say where it stands?

Positions are numbers along R axes: 1 for text, 2 for the rows and columns of an image. They are either added to the
token as a vector (`SinCosPosition`, `LearnedPosition`), or turn queries and keys so that scores depend on differences
(`rotate`).
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float


class SinCosPosition(nnx.Module):
    """Fixed sines and cosines: for each axis [sin(p ω_i), cos(p ω_i)], ω_i = 10000^(−i / (n − 1)), n = D / 2R.

    Reference: MoCo v3, Chen et al. 2021, arXiv 2104.02057; big_vision's `posemb_sincos_2d` with rows first.
    """

    def __init__(self, width: int, *, axes: int = 2):
        if width % (2 * axes):
            raise ValueError(f"a width of {width} does not divide into sines and cosines of {axes} axes")
        self.frequencies = width // (2 * axes)

    def __call__(self, position: Float[Array, "B S R"]) -> Float[Array, "B S D"]:
        exponent = jnp.arange(self.frequencies, dtype=jnp.float32) / max(self.frequencies - 1, 1)
        angle = position[..., None] * (1e4**-exponent)[None, None, None]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(*position.shape[:2], -1)


class LearnedPosition(nnx.Module):
    """A table with one vector for each place of a grid; positions beyond its `extent` use its last places."""

    def __init__(self, extent: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        self.extent = tuple(extent)
        self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), (math.prod(extent), width)))

    def __call__(self, position: Float[Array, "B S R"]) -> Float[Array, "B S D"]:
        index = jnp.zeros(position.shape[:2], jnp.int32)
        for axis, size in enumerate(self.extent):
            index = index * size + jnp.clip(position[..., axis].astype(jnp.int32), 0, size - 1)
        return self.table[...][index]


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
