"""How well does the single tower say what is asked of it?

Cross-entropy of the next token over the target text, counted where the target has weight: on the answer or the caption,
not on the prompt before it.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.nn.losses.cross_entropy import chunked_cross_entropy
from mmfuse.objectives.objective import Terms
from mmfuse.types import Batch


class Generation:
    """Captioning, question answering: whatever the stream's targets are."""

    per_example = True

    def __init__(self, chunk: int):
        """Args: `chunk` tokens of each row whose logits are in memory at once."""
        self.chunk = chunk

    def weight(self, batch: Batch) -> Float[Array, "B"]:
        """The weight of the example's target tokens; the first one has nothing to be predicted from."""
        return batch.text["target"].weight[..., 1:].sum(axis=(1, 2))

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        target = batch.text["target"]
        ids, segment, weight = (array.reshape(-1, array.shape[-1]) for array in target)
        out = model.single.decode(model.single.read(ids, segment), memory)
        loss, right = chunked_cross_entropy(out.hidden[:, :-1], ids[:, 1:], model.single.readout, chunk=self.chunk)
        total = self.weight(batch)

        def mean(tokens):
            per_text = (tokens * weight[:, 1:]).sum(axis=1)
            return per_text.reshape(len(total), -1).sum(axis=1) / jnp.maximum(total, 1e-6)

        return Terms(mean(loss), total, {"token_accuracy": (mean(right.astype(jnp.float32)), total)})
