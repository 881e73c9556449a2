"""Does a pair belong together, or is one side of it a batch-mate's?

For each example and pair of modalities the second is also taken from other examples, drawn evenly. The heads of
`routing/consensus.py` learn to tell real pairs from mixed ones, and the towers with them. Mates are not drawn by how
much they look alike: what draws them would be learned, too, and give them away. Few of them are near misses; where a
batch has the role `foil`, a description that is wrong in a detail, it is one more mate of what is paired with `source`.
References: image–text matching, ViLBERT, arXiv 1908.02265, section 3.2; foils, NegCLIP, arXiv 2210.01936, section 4.
"""

from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.nn.losses.routing import mismatch_loss
from mmfuse.objectives.objective import Terms, mean_over_pairs
from mmfuse.routing.consensus import Consensus
from mmfuse.types import Batch, Tokens

FOIL, FOILED = "foil", "source"  # the role of what is wrong in a detail, and of what it is like


class Matching:
    """Cross-entropy of telling real pairs from mixed ones, a mean over the pairs of modalities that are there.

    Its metrics are the accuracy of each pair, and that of foils; real and mixed ones weigh the same in both.
    """

    def __init__(self, between: Sequence[tuple[str, str]], mates: int):
        """Args: pairs of modalities, as the model has them; how many mixed pairs there are for each real one."""
        self.between, self.mates = [tuple(pair) for pair in between], mates

    def __call__(self, model: Multimodal, memory: Memory, batch: Batch, key: Array) -> Terms:
        consensus = cast(Consensus, model.consensus)  # validated: it has heads
        values, weights, metrics = [], [], {}
        for index, (a, b) in enumerate(self.between):
            rows, columns = memory.agreement.tokens[a], memory.agreement.tokens[b]
            there = [_there(side) for side in (rows, columns)]
            allowed = there[0][:, None] & there[1][None] & (batch.concept[:, None] != batch.concept[None])
            mates = draw_mates(jax.random.fold_in(key, index), allowed, self.mates).T
            others = [(rows, Tokens(*(array[mate] for array in columns))) for mate in mates]
            counted = [jnp.ones(len(allowed))] * self.mates
            if foiled := FOIL in memory.tokens and FOILED in (a, b):
                foil = consensus.project(FOILED, memory.tokens[FOIL])
                others.append((foil, columns) if a == FOILED else (rows, foil))
                counted.append(_there(foil).astype(jnp.float32))
            real = memory.agreement.mismatch[a, b]
            mixed, share = jnp.stack([consensus.mismatch((a, b), *sides) for sides in others]), jnp.stack(counted)
            share = share / share.sum(axis=0, keepdims=True)
            loss = (mismatch_loss(mixed, swapped=True) * share).sum(axis=0)
            right = jnp.where(mixed > 0, share, 0).sum(axis=0)
            values.append((mismatch_loss(real, swapped=False) + loss) / 2)
            weights.append((there[0] & there[1] & (allowed.sum(axis=1) >= self.mates)).astype(jnp.float32))
            metrics[f"{a}_{b}"] = ((real < 0).astype(jnp.float32) + right) / 2, weights[-1]
            if foiled:
                metrics[f"{a}_{b}/{FOIL}"] = (mixed[-1] > 0).astype(jnp.float32), weights[-1] * counted[-1]
        return Terms(*mean_over_pairs(values, weights), metrics)


def _there(side):
    """Which examples have a token."""
    return (side.segment > 0).any(axis=1)


def draw_mates(key: Array, allowed: Bool[Array, "B N"], number: int) -> Int[Array, "B {number}"]:
    """For each row columns that are allowed, each as likely, none twice; any where there are too few."""
    lot = jax.random.uniform(key, allowed.shape)
    return jax.lax.top_k(jnp.where(allowed, lot, lot - 1), number)[1]
