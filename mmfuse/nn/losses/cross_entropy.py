"""How surprised is a model by the next token?

Logits over a vocabulary are by far the largest array of a step, so they are made for a chunk of tokens at a time and
made again in the backward pass.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


def cross_entropy(logits: Float[Array, "*S V"], targets: Int[Array, "*S"]) -> Float[Array, "*S"]:
    """−log softmax(logits)[target], in float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def chunked_cross_entropy(
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    readout: Callable[[Float[Array, "B t D"]], Float[Array, "B t V"]],
    *,
    chunk: int,
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """Cross-entropy of every token, and whether the target is the likeliest one.

    Args:
      hidden: what predicts.
      targets: what comes.
      readout: makes logits.
      chunk: tokens of each row whose logits are in memory at once; the last chunk is padded.
    """
    length = targets.shape[1]
    padding = -length % chunk

    def split(array):
        padded = jnp.pad(array, ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(len(array), -1, chunk, *array.shape[2:]), 1, 0)

    @jax.checkpoint
    def measure(xs):
        logits = readout(xs[0])
        return cross_entropy(logits, xs[1]), logits.argmax(axis=-1) == xs[1]

    pieces = jax.lax.map(measure, (split(hidden), split(targets)))
    joined = [jnp.moveaxis(piece, 0, 1).reshape(len(targets), -1)[:, :length] for piece in pieces]
    return joined[0], joined[1]
