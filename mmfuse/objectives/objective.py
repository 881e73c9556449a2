"""What is an objective?

It says which loss, on which encodings, weighed how:

    objective(model, memory, batch, key) → Terms

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
    """The form that every objective has."""

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms: ...


@runtime_checkable
class PerExample(Objective, Protocol):
    """One whose value of an example does not depend on its batch-mates, and whose weight can be had without the model.

    So a batch may be cut into pieces whose gradients add up.
    """

    def weight(self, batch: Batch) -> Float[Array, "B"]: ...


def mean_over_pairs(values: Sequence[Float[Array, "B"]], weights: Sequence[Float[Array, "B"]]) -> tuple[Array, Array]:
    """The mean of each example (B) over those of its pairs that count, whose weight is 1; and whether any does (B)."""
    weight = jnp.stack(weights)
    return (jnp.stack(values) * weight).sum(axis=0) / jnp.maximum(weight.sum(axis=0), 1.0), weight.max(axis=0)
