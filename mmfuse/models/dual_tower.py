"""Where do modalities meet that never look at one another?

In a shared space: each tower's pooled vector is projected and normalised, and a learned temperature and bias turn
cosines into logits. Both are there unless a config says otherwise, so that changing the loss changes no parameter.
References: CLIP, arXiv 2103.00020; SigLIP, arXiv 2303.15343.
"""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from input_pipeline.names import require_known
from mmfuse.types import ConfigError

PROJECTIONS = ("linear", "affine", "none")


def check_projections(name: str, projections: Mapping[str, str], widths: Mapping[str, int], embedding: int) -> None:
    """Raises ConfigError where there is no such tower, no such projection, or "none" and a tower not E wide."""
    for tower, projection in projections.items():
        require_known("projection", projection, PROJECTIONS)
        require_known(f"tower in {name}:", tower, widths)
        if projection == "none" and widths[tower] != embedding:
            raise ConfigError(
                f"{name}.{tower} is 'none', and the tower is {widths[tower]} wide where the shared space has "
                f"{embedding}: take 'linear', or make them equal."
            )


class Identity(nnx.Module):
    """Leaves a tower's pooled vector as it is."""

    def __call__(self, pooled: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return pooled


class DualTower(nnx.Module):
    """Projections into the shared space, for any two or more modalities."""

    def __init__(
        self,
        widths: Mapping[str, int],
        embedding: int,
        *,
        temperature: float,
        bias: float | None,
        projection: Mapping[str, str] | None = None,
        max_scale: float = 100.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds a projection for each tower.

        Args:
          widths: tower name → width of its pooled vector.
          embedding: E.
          temperature: of the start; logits are cosines divided by it.
          bias: of the start; only the sigmoid loss uses it. None: there is no such parameter.
          projection: tower name → how its pooled vector enters the space: "linear" (where not given), "affine" (with
            a bias) or "none" (as it is; E wide).
          max_scale: the most by which cosines are multiplied.
          dtype: of the projection; embeddings are float32.
          rngs: draws the parameters.
        """
        kinds = {name: (projection or {}).get(name, "linear") for name in widths}
        self.projections = nnx.Dict(
            {
                name: Identity()
                if kinds[name] == "none"
                else nnx.Linear(width, embedding, use_bias=kinds[name] == "affine", dtype=dtype, rngs=rngs)
                for name, width in widths.items()
            }
        )
        self.log_scale = nnx.Param(jnp.full((), -math.log(temperature)))
        self.logit_bias = None if bias is None else nnx.Param(jnp.full((), float(bias)))
        self.max_log_scale = math.log(max_scale)

    def embed(self, tower: str, pooled: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        """Unit embeddings in float32; the zero vector where the projection is zero."""
        projected = self.projections[tower](pooled).astype(jnp.float32)
        square = jnp.square(projected).sum(axis=-1, keepdims=True)
        return projected * jax.lax.rsqrt(jnp.maximum(square, 1e-12))

    @property
    def scale(self) -> Float[Array, ""]:
        """What cosines are multiplied by, clipped; at the clip it feels only what would have it come back."""
        return jnp.exp(_at_most(self.log_scale[...], self.max_log_scale))

    @property
    def bias(self) -> Float[Array, ""]:
        """What is added to the logits of the sigmoid loss; 0 where there is no such parameter."""
        return jnp.zeros(()) if self.logit_bias is None else self.logit_bias[...]

    def logits(self, rows: Float[Array, "A E"], columns: Float[Array, "B E"]) -> Float[Array, "A B"]:
        """scale · cosine + bias of unit embeddings, in float32."""
        return self.scale * jnp.einsum("AE,BE->AB", rows, columns, precision=jax.lax.Precision.HIGHEST) + self.bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _at_most(learned: Float[Array, ""], bound: float) -> Float[Array, ""]:
    """The lesser of both; at the bound and beyond it, only a gradient passes that leads back.

    That of min is 0 there: what is beyond the bound by one step would stay for ever. If all of it passed, it would lead
    on unseen, and the way back would be as long.
    """
    return jnp.minimum(learned, bound)


def _descend(bound, learned, gradient):
    return (jnp.where(learned >= bound, jnp.maximum(gradient, 0.0), gradient),)


_at_most.defvjp(lambda learned, bound: (jnp.minimum(learned, bound), learned), _descend)
