"""How much does each input value add to what the model says?

Integrated gradients: the gradient, averaged on the straight way from a baseline x′ to the input x, times the way:

    (x − x′) ⊙ ∫₀¹ ∇f(x′ + α (x − x′)) dα

The parts of an input add up to f(x) − f(x′) (completeness); by how much they miss it says
whether the steps were enough.
Reference: Sundararajan, Taly & Yan 2017, arXiv 1703.01365. The integral is taken by Gauss–Legendre quadrature.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Num

from mmfuse.analysis.trace import log_probability
from mmfuse.models.multimodal import Multimodal
from mmfuse.types import Batch, Text


def integrated_gradients(
    function: Callable[[Float[Array, "B ..."]], Float[Array, "B"]],
    values: Float[Array, "B ..."],
    baseline: Float[Array, "B ..."],
    *,
    steps: int,
) -> tuple[Float[Array, "B ..."], Float[Array, "B"]]:
    """Each value's part in f(x) − f(x′), and by how much the parts miss it.

    Args:
      function: f; a row's result depends on that row alone.
      values, baseline: x and x′.
      steps: gradients on the way; twice as many cost twice as much and make the gap smaller.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    way = values - baseline
    gradient = jax.grad(lambda point: function(point).sum())

    def add(total, node):
        place, weight = node
        return total + weight * gradient(baseline + place * way), None

    along = jnp.asarray((nodes + 1) / 2, values.dtype), jnp.asarray(weights / 2, values.dtype)
    integral, _ = jax.lax.scan(add, jnp.zeros_like(values), along)
    parts = way * integral
    difference = function(values) - function(baseline)
    return parts, parts.sum(axis=tuple(range(1, parts.ndim))) - difference


def attribute(
    model: Multimodal, batch: Batch, text: Text, name: str, *, baseline: Num[Array, "#B #I ..."], steps: int
) -> tuple[Float[Array, "B I ..."], Float[Array, "B"]]:
    """What each value of a signal adds to ln p of an example's texts, where they have weight, and the gap.

    Args:
      model: with a decoder.
      batch: with the signal `name`.
      text: C texts for each example.
      baseline: the signal that says nothing, such as a grey picture or silence.
      steps: see `integrated_gradients`.
    """
    signal, weight = batch.signals[name], text.weight[..., 1:]

    def said(values):
        memory = model.encode(batch._replace(signals={**batch.signals, name: signal._replace(values=values)}))
        return (log_probability(model.single, memory, text).reshape(weight.shape) * weight).sum(axis=(1, 2))

    values = signal.values.astype(jnp.float32)
    neutral = jnp.broadcast_to(baseline, values.shape).astype(jnp.float32)
    return integrated_gradients(said, values, neutral, steps=steps)
