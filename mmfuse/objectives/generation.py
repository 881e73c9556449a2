"""How well does the single tower say what is asked of it?

Cross-entropy of the next token over the target text, counted where the target has weight: on the answer or the caption,
not on the prompt before it. Texts that share a row count as they would alone.

Where several modalities tell the same, the decoder learns from the easiest, and the towers of the others learn late.
Modality dropout helps: the decoder also reads each modality alone, and nothing at all, of every example. The loss is
what it would be on average if one of these were drawn, and every tower learns from every example.
References: Neverova et al. 2014 (ModDrop), arXiv 1501.00102; Shi et al. 2022 (AV-HuBERT), arXiv 2201.02184.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from mmfuse.models.memory import Memory, in_views
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
          alone: the weight of the mean over each modality that is read alone, and nothing; all of them together have
            the rest. With 0 the decoder runs once, if not twice more, and once more for each modality.
        """
        self.chunk, self.alone = chunk, alone

    def weight(self, batch: Batch) -> Float[Array, "B"]:
        """The weight of the example's target tokens that are predicted."""
        return predicted_weight(batch.text["target"]).sum(axis=(1, 2))

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        target = batch.text["target"]
        weight, total = predicted_weight(target), self.weight(batch)
        names = [name for name in model.single.memories if name in memory.tokens]
        views = {"": names}
        if self.alone:
            views |= {f"/{name}": [name] for name in names} | {"/nothing": []}
        # to read one that is not there would be to read nothing, once more
        there = {f"/{name}": (memory.tokens[name].segment > 0).any(axis=1).astype(jnp.float32) for name in names}
        counts = jnp.stack([there.get(view, jnp.ones(len(total))) for view in views], axis=1)
        memory = in_views(memory, list(views.values()), names)
        ids, segment = (
            jnp.repeat(array, len(views), axis=0).reshape(-1, array.shape[-1]) for array in (target.ids, target.segment)
        )
        out = model.single.decode(model.single.read(ids, segment), memory)
        loss, right = chunked_cross_entropy(out.hidden[:, :-1], ids[:, 1:], model.single.readout, chunk=self.chunk)

        def mean(tokens):
            by_view = tokens.reshape(len(weight), len(views), *weight.shape[1:]) * weight[:, None]
            return by_view.sum(axis=(2, 3)) / jnp.maximum(total, 1e-6)[:, None]

        alone = self.alone * counts[:, 1:] / counts[:, 1:].sum(axis=1, keepdims=True)
        share = jnp.concatenate([jnp.full_like(counts[:, :1], 1 - self.alone), alone], axis=1)
        accuracy = mean(right.astype(jnp.float32))
        metrics = {f"token_accuracy{view}": (accuracy[:, v], total * counts[:, v]) for v, view in enumerate(views)}
        return Terms((mean(loss) * share).sum(axis=1), total, metrics)
