"""Does a pair belong together, or is one side of it a batch-mate's?

For each example and pair of modalities the second is also taken from other examples, drawn evenly. The heads of
`routing/consensus.py` learn to tell real pairs from mixed ones, and the towers with them. Mates are not drawn by how
much they look alike: what draws them would be learned, too, and give them away.
Reference: image–text matching, ViLBERT, arXiv 1908.02265, section 3.2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.nn.losses.routing import mismatch_loss
from mmfuse.objectives.objective import Terms, mean_over_pairs
from mmfuse.types import Batch, Tokens


class Matching:
    """Cross-entropy of telling real pairs from mixed ones, a mean over the pairs of modalities that are there.

    Its metrics are the accuracy of each pair; real and mixed ones weigh the same in both.
    """

    def __init__(self, between: Sequence[tuple[str, str]], mates: int):
        """Args: pairs of modalities, as the model has them; how many mixed pairs there are for each real one."""
        self.between, self.mates = [tuple(pair) for pair in between], mates

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        values, weights, metrics = [], [], {}
        for index, (a, b) in enumerate(self.between):
            rows, columns = memory.agreement.tokens[a], memory.agreement.tokens[b]
            there = [(side.segment > 0).any(axis=1) for side in (rows, columns)]
            allowed = there[0][:, None] & there[1][None] & (batch.concept[:, None] != batch.concept[None])
            real, loss, right = memory.agreement.mismatch[a, b], 0.0, 0.0
            for mate in draw_mates(jax.random.fold_in(key, index), allowed, self.mates).T:
                mixed = model.consensus.mismatch((a, b), rows, Tokens(*(array[mate] for array in columns)))
                loss += mismatch_loss(mixed, swapped=True) / self.mates
                right += (mixed > 0).astype(jnp.float32) / self.mates
            values.append((mismatch_loss(real, swapped=False) + loss) / 2)
            weights.append((there[0] & there[1] & (allowed.sum(axis=1) >= self.mates)).astype(jnp.float32))
            metrics[f"{a}_{b}"] = ((real < 0).astype(jnp.float32) + right) / 2, weights[-1]
        return Terms(*mean_over_pairs(values, weights), metrics)


def draw_mates(key: Array, allowed: Bool[Array, "B N"], number: int) -> Int[Array, "B {number}"]:
    """For each row columns that are allowed, each as likely, none twice; any where there are too few."""
    lot = jax.random.uniform(key, allowed.shape)
    return jax.lax.top_k(jnp.where(allowed, lot, lot - 1), number)[1]
