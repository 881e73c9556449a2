"""What do the gates owe besides what they let through?

    expected_cost   the share of the dense FLOPs that an example is likely to spend on its towers: shuts gates, the dear
                    ones first
    balance         how unevenly the modalities are used
    entropy_floor   how far the gates of a modality are from deciding at all: neither always open nor always shut

Each is an objective of its own, with a coefficient. The mathematics is in `nn/losses/routing.py`.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import entr
from jaxtyping import Bool, Float

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.nn.losses import routing as losses
from mmfuse.objectives.objective import Terms
from mmfuse.types import Batch


class ExpectedCost:
    """Of the towers that a router decides about.

    Its metrics say, for each modality and over the examples that have it, how often it is `open`; how often its gate
    `wanted` that, and found the capacity full (`overflow`); the mean of its `soft` decisions, and how unsure they are
    (`entropy`, bits).
    """

    per_example = True

    def weight(self, batch: Batch) -> Float[Array, "B"]:
        """1 of every example."""
        return batch.valid.astype(jnp.float32)

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        (soft, existing), metrics = _columns(memory, batch), {}
        costs = jnp.array([model.router.costs[name] for name in memory.gates])
        for (name, gates), there in zip(memory.gates.items(), existing.T.astype(jnp.float32)):
            metrics |= {
                f"open/{name}": (gates.open.astype(jnp.float32), there),
                f"wanted/{name}": (gates.wanted.astype(jnp.float32), there),
                f"overflow/{name}": ((gates.wanted & ~gates.open).astype(jnp.float32), there),
                f"soft/{name}": (gates.soft, there),
                f"entropy/{name}": (_entropy(gates.soft), there),
            }
        return Terms(losses.expected_cost(soft, costs), self.weight(batch), metrics)


class GateLoss:
    """A loss of all gates together: the same value for each example."""

    per_example = False

    def __init__(self, loss: Callable[[Float[Array, "B M"], Bool[Array, "B M"]], Float[Array, ""]]):
        """Args: `loss` of how likely each gate is to be open, and where there is one."""
        self.loss = loss

    def weight(self, batch: Batch) -> Float[Array, "B"]:
        """1 of every example."""
        return batch.valid.astype(jnp.float32)

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        weight = self.weight(batch)
        value = self.loss(*_columns(memory, batch)) * weight
        return Terms(value, weight, {"value": (value, weight)})


def balance() -> GateLoss:
    """How unevenly the modalities are used."""
    return GateLoss(losses.balance_loss)


def entropy_floor(floor: float) -> GateLoss:
    """What the entropy of each modality's open share lacks to a floor, in bits."""
    return GateLoss(partial(losses.entropy_floor, floor=floor))


def _columns(memory, batch):
    """How likely each gate is to be open, and where there is one, both (B M)."""
    there = [batch.present(name).any(axis=1) for name in memory.gates]
    return jnp.stack([gates.soft for gates in memory.gates.values()], axis=1), jnp.stack(there, axis=1)


def _entropy(probability: Float[Array, "B"]) -> Float[Array, "B"]:
    """Of yes or no, in bits."""
    return (entr(probability) + entr(1 - probability)) / jnp.log(2.0)
