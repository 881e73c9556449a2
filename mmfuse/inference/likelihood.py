"""How likely does a model find a text that is already there?

The text is read at once (teacher forcing), so it may be one that the model would not have written; of several texts the
likeliest is the model's choice among them.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from mmfuse.models.memory import Memory
from mmfuse.models.single_tower import SingleTower
from mmfuse.nn.losses.cross_entropy import chunked_cross_entropy
from mmfuse.types import PAD, Text

CHUNK = 16  # tokens of each text whose logits are in memory at once


def log_likelihood(
    model: SingleTower, memory: Memory, prompt: Text, answer: Int[Array, "B C t"]
) -> Float[Array, "B C"]:
    """log p(answer | prompt, memory), the sum of log p(token | all before it) over the tokens of each answer.

    Args:
      model: the decoder.
      memory: what `encode` made of the same batch.
      prompt: C prompts for each example, padded on the right.
      answer: token ids up to and with EOS, then PAD, as `generate` gives them.

    Returns:
      At most 0; exactly 0 for an answer without tokens.
    """
    ids, segment, said = (array.reshape(-1, array.shape[-1]) for array in (prompt.ids, prompt.segment, answer))
    cache = model.empty_cache(memory, rows=len(ids), length=ids.shape[1] + said.shape[1])
    read = model.decode(model.read(ids, segment, cache), memory, cache)
    last = jnp.maximum((segment > 0).sum(axis=1) - 1, 0)
    before = jnp.take_along_axis(read.hidden, last[:, None, None], axis=1)
    there = (said != PAD).astype(segment.dtype)
    after = model.decode(model.read(said, there, read.cache), memory, read.cache).hidden
    predicting = jnp.concatenate([before, after[:, :-1]], axis=1)
    loss, _ = chunked_cross_entropy(predicting, said, model.readout, chunk=CHUNK)
    return -jnp.where(there > 0, loss, 0).sum(axis=1).reshape(answer.shape[:2])
