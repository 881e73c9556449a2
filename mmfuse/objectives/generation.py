"""How well does the single tower say what is asked of it?

Cross-entropy of the next token over the target text, counted where the target has weight: on the answer or the caption,
not on the prompt before it. Texts that share a row count as they would alone.

Where several modalities tell the same, the decoder learns from the easiest, and the towers of the others learn late.
Modality dropout helps: of some examples the decoder reads one modality alone.
References: Neverova et al. 2014 (ModDrop), arXiv 1501.00102; Shi et al. 2022 (AV-HuBERT), arXiv 2201.02184.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from mmfuse.models.memory import Memory, keep_one
from mmfuse.models.multimodal import Multimodal
from mmfuse.nn.losses.cross_entropy import chunked_cross_entropy
from mmfuse.objectives.objective import Terms
from mmfuse.types import Batch, Text


def predicted_weight(target: Text) -> Float[Array, "B C t"]:
    """The weights of all tokens but the first (t = T − 1); 0 where a text begins, which nothing of it predicts."""
    begins = target.segment[..., 1:] != target.segment[..., :-1]
    return jnp.where(begins, 0.0, target.weight[..., 1:])


class Generation:
    """Captioning, question answering: whatever the stream's targets are."""

    def __init__(self, chunk: int, alone: float = 0.0):
        """Builds the objective.

        Args:
          chunk: tokens of each row whose logits are in memory at once.
          alone: the share of the examples of which the decoder reads one modality alone.
        """
        self.chunk, self.alone = chunk, alone

    def weight(self, batch: Batch) -> Float[Array, "B"]:
        """The weight of the example's target tokens that are predicted."""
        return predicted_weight(batch.text["target"]).sum(axis=(1, 2))

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        target = batch.text["target"]
        if self.alone:
            memory = keep_one(memory, model.single.memories, key, self.alone)
        ids, segment = (array.reshape(-1, array.shape[-1]) for array in (target.ids, target.segment))
        out = model.single.decode(model.single.read(ids, segment), memory)
        loss, right = chunked_cross_entropy(out.hidden[:, :-1], ids[:, 1:], model.single.readout, chunk=self.chunk)
        weight, total = predicted_weight(target), self.weight(batch)

        def mean(tokens):
            return (tokens.reshape(weight.shape) * weight).sum(axis=(1, 2)) / jnp.maximum(total, 1e-6)

        return Terms(mean(loss), total, {"token_accuracy": (mean(right.astype(jnp.float32)), total)})
