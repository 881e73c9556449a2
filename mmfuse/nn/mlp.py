"""What does a token do with what it has read?

`aux` is a dict of scalars, empty here: a mixture of experts returns its balance terms there.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float


def quick_gelu(x: Array) -> Array:
    """x σ(1.702 x): Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2; what OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Mlp(nnx.Module):
    """W₂ φ(W₁ x), for each token alone."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B S D"]) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        return self.down(self.activation(self.up(tokens))), {}
