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
from jaxtyping import Bool, Float

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.nn.losses import routing as losses
from mmfuse.objectives.objective import Terms
from mmfuse.types import Batch


class ExpectedCost:
    """Of the towers that a router decides about."""

    def weight(self, batch: Batch) -> Float[Array, "B"]:
        """1 of every example."""
        return batch.valid.astype(jnp.float32)

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        soft, _ = _columns(memory, batch)
        costs = jnp.array([model.router.costs[name] for name in memory.gates])
        return Terms(losses.expected_cost(soft, costs), self.weight(batch), {})


class GateLoss:
    """A loss of all gates together: the same value for each example."""

    def __init__(self, loss: Callable[[Float[Array, "B M"], Bool[Array, "B M"]], Float[Array, ""]]):
        """Args: `loss` of how likely each gate is to be open, and where there is one."""
        self.loss = loss

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        weight = batch.valid.astype(jnp.float32)
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
