"""What is an objective?

It says which loss, on which encodings, weighed how:

    objective(model, memory, batch, key) → Terms        objective.weight(batch) → (B)

Its part of the total is Σ_B value · weight / Σ_B weight over the global batch. The mathematics is in `nn/losses/`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.types import Batch


class Terms(NamedTuple):
    """The loss of each example and its weight; metrics of each example, each with a weight of its own."""

    value: Float[Array, "B"]
    weight: Float[Array, "B"]
    metrics: dict[str, tuple[Float[Array, "B"], Float[Array, "B"]]]


@runtime_checkable
class Objective(Protocol):
    """The form that every objective has.

    `per_example` says that an example's value does not depend on its batch-mates, so that a batch may be cut into
    pieces whose gradients add up. The weight can be had without the model.
    """

    per_example: bool

    def weight(self, batch: Batch) -> Float[Array, "B"]: ...

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms: ...


def weight_of_pairs(batch: Batch, between: Sequence[tuple[str, str]]) -> Float[Array, "B"]:
    """1 where both sides of some pair are there."""
    both = [batch.present(a).any(axis=1) & batch.present(b).any(axis=1) for a, b in between]
    return jnp.stack(both).any(axis=0).astype(jnp.float32)


def mean_over_pairs(values: Sequence[Float[Array, "B"]], weights: Sequence[Float[Array, "B"]]) -> Float[Array, "B"]:
    """The mean of each example over those of its pairs that count; 0 where none does."""
    weight = jnp.stack(weights)
    return (jnp.stack(values) * weight).sum(axis=0) / jnp.maximum(weight.sum(axis=0), 1.0)
