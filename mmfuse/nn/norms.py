"""How are tokens kept at one scale?

    LayerNorm   (x − mean) / √(var + ε) · scale + bias         RMSNorm   x / √(mean x² + ε) · scale

over the width of a token; `InstanceNorm` is the former over the positions of a picture, for each channel. Statistics
and parameters are float32, whatever the dtype of the tokens.
References: Ba et al. 2016, arXiv 1607.06450; Zhang & Sennrich 2019, arXiv 1910.07467; Ulyanov et al. 2016, arXiv
1607.08022.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float


class LayerNorm(nnx.Module):
    """Zero mean and unit variance over the width, then a learned scale and bias."""

    def __init__(self, width: int, *, epsilon: float = 1e-6):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, tokens: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide = tokens.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + self.epsilon)
        return _affine(normed, self.scale[...], self.bias[...]).astype(tokens.dtype)


class RMSNorm(nnx.Module):
    """Unit mean square over the width, then a learned scale."""

    def __init__(self, width: int, *, epsilon: float = 1e-6):
        self.scale = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, tokens: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        wide = tokens.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return _affine(normed, self.scale[...]).astype(tokens.dtype)


class InstanceNorm(nnx.Module):
    """Zero mean and unit variance of each channel over the positions inside, then a learned scale and bias.

    What is everywhere in a picture, such as its background, goes; what is at few places stands out.
    """

    def __init__(self, width: int, *, epsilon: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, tokens: Float[Array, "B S D"], inside: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        inside = inside[..., None]
        number = jnp.maximum(inside.sum(axis=1, keepdims=True), 1).astype(jnp.float32)

        def mean(values):
            return jnp.where(inside, values, 0).sum(axis=1, keepdims=True) / number

        wide = tokens.astype(jnp.float32)
        centred = wide - mean(wide)
        normed = centred * jax.lax.rsqrt(mean(jnp.square(centred)) + self.epsilon)
        return _affine(normed, self.scale[...], self.bias[...]).astype(tokens.dtype)


def _affine(normed, scale, bias=None):
    shape = (1,) * (normed.ndim - 1) + (-1,)
    scaled = normed * scale.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)
