"""What does it cost to look and to listen?

The share of the dense cost that the gates are likely to spend on an example, Σ_m c_m p_m / Σ_m c_m: c_m the FLOPs of a
modality's tower, p_m the probability that its gate is open. Its gradient shuts gates, those of dear towers first.
"""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import entr
from jaxtyping import Float

from mmfuse.models.memory import Memory, present
from mmfuse.models.multimodal import Multimodal
from mmfuse.objectives.objective import Terms
from mmfuse.types import Batch


def _entropy(probability: Float[Array, "B"]) -> Float[Array, "B"]:
    """Of yes or no, in bits."""
    return (entr(probability) + entr(1 - probability)) / jnp.log(2.0)


class ExpectedCost:
    """Of the towers that a router decides about."""

    per_example = True

    def weight(self, batch: Batch) -> Float[Array, "B"]:
        """1 of every example."""
        return batch.valid.astype(jnp.float32)

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        weight, metrics = self.weight(batch), {}
        value = jnp.zeros_like(weight)
        for name, gates in memory.gates.items():
            value += model.router.costs[name] * gates.soft
            there = present(batch, name).any(axis=1).astype(jnp.float32)
            metrics |= {
                f"open/{name}": (gates.open.astype(jnp.float32), there),
                f"soft/{name}": (gates.soft, there),
                f"entropy/{name}": (_entropy(gates.soft), there),
            }
        return Terms(value, weight, metrics)
