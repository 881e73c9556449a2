"""Which embeddings belong together?

For each pair of names (signals or text roles) the loss is taken both ways and averaged, then over the pairs. Two
examples of one concept are positives of each other. What a gate has shut takes no part.
References: see `nn/losses/contrastive.py`.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from mmfuse.models.dual_tower import DualTower
from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.nn.losses.contrastive import cosines, info_nce, pairwise_sigmoid
from mmfuse.objectives.objective import Terms, mean_over_pairs
from mmfuse.types import Batch


def softmax_loss(cosine, positive, column_valid, head: DualTower) -> Float[Array, "A"]:
    """InfoNCE with the head's temperature."""
    return info_nce(cosine, positive, column_valid, scale=head.scale)


def sigmoid_loss(cosine, positive, column_valid, head: DualTower) -> Float[Array, "A"]:
    """Pairwise sigmoid with the head's temperature and bias."""
    return pairwise_sigmoid(cosine, positive, column_valid, scale=head.scale, bias=head.bias)


class Contrastive:
    """Contrastive loss between all listed pairs of modalities."""

    def __init__(self, between: Sequence[tuple[str, str]], loss: Callable):
        """Args: `between` pairs of names in `Memory.embeddings`; `loss` one of the functions above."""
        self.between, self.loss = [tuple(pair) for pair in between], loss

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        values, weights, metrics = [], [], {}
        for a, b in self.between:
            there = memory.taking_part(batch, a).any(axis=1) & memory.taking_part(batch, b).any(axis=1)
            rows, columns = (_Side(memory, batch, name, there) for name in (a, b))
            cosine = cosines(rows.embeddings, columns.embeddings)
            positive = rows.concept[:, None] == columns.concept[None]
            forth = rows.mean(self.loss(cosine, positive, columns.valid, model.dual))
            back = columns.mean(self.loss(cosine.T, positive.T, rows.valid, model.dual))
            values.append((forth + back) / 2)
            weights.append(there.astype(jnp.float32))
            nearest = jnp.where(columns.valid[None], cosine, -jnp.inf).argmax(axis=1)
            right = jnp.take_along_axis(positive, nearest[:, None], axis=1)[:, 0]
            metrics[f"{a}_to_{b}"] = rows.mean(right.astype(jnp.float32)), weights[-1]
        return Terms(*mean_over_pairs(values, weights), metrics)


class _Side:
    """The C embeddings of each example, laid out as rows (B·C E); those that do not count are zero."""

    def __init__(self, memory: Memory, batch: Batch, name: str, there: Bool[Array, "B"]):
        embeddings = memory.embeddings[name]
        self.mask = memory.taking_part(batch, name) & there[:, None]
        # Zero, not left to the loss's mask: in the gradient of the cosines it would be 0 · NaN.
        counted = jnp.where(self.mask[..., None], embeddings, 0.0)
        self.embeddings = counted.reshape(-1, embeddings.shape[-1])
        self.valid = self.mask.reshape(-1)
        self.concept = jnp.repeat(batch.concept, embeddings.shape[1])

    def mean(self, rows: Float[Array, "BC"]) -> Float[Array, "B"]:
        """Averages rows over the valid ones of each example."""
        rows = jnp.where(self.mask, rows.reshape(self.mask.shape), 0.0)
        return rows.sum(axis=1) / jnp.maximum(self.mask.sum(axis=1), 1).astype(jnp.float32)
