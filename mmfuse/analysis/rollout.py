"""What do many layers of attention add up to?

A layer passes on half of what stood at a place and half of what the place attended to, so a layer mixes by
Â = (A + I) / 2, with A the mean over heads, and layers multiply. Rows stay distributions: each says out of which inputs
a place is made. It is attention that is counted: neither the size of the values nor a fusion's gate.

Reference: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv 2005.00928, section 4.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from mmfuse.analysis.trace import Trace


def rollout(attention: Float[Array, "L *B N S S"]) -> Float[Array, "*B S S"]:
    """Out of which inputs each token of a self-attending stack is made.

    Args:
      attention: weights of L layers from the first to the last; rows of padding may be zero.

    Returns:
      Rows sum to 1. A token that attends to nothing is itself.
    """
    mean = attention.mean(axis=-3)
    layers = mean + jnp.broadcast_to(jnp.eye(mean.shape[-1]), mean.shape)
    layers = layers / layers.sum(axis=-1, keepdims=True)
    return functools.reduce(lambda below, layer: layer @ below, layers)


def roll_out(traced: Trace) -> dict[str, Float[Array, "R t S"]]:
    """Out of which inputs of every modality each token of a text was predicted: through its decoder and the towers.

    Returns:
      Memory name → shares of its inputs, and `text` → shares of the tokens before; together they sum to 1.
    """
    rows, length = traced.log_probability.shape
    inputs = {name: _tower_inputs(attention, rows) for name, attention in traced.towers.items()}
    text = jnp.broadcast_to(jnp.eye(length), (rows, length, length))
    # Nothing before the first fusion: zeros would do, but on CPU a product with them was seen to read foreign memory.
    seen: dict[str, Array] = {}
    for layer in traced.layers:
        if layer.text is not None:
            weights = layer.text.mean(axis=1)
            looked = weights.sum(axis=-1, keepdims=True)
            text = (text + weights @ text) / (1 + looked)
            seen = {name: (part + weights @ part) / (1 + looked) for name, part in seen.items()}
        elif layer.memory is not None:
            each = {name: weights.mean(axis=1) for name, weights in layer.memory.items()}
            looked = jnp.stack([weights.sum(axis=-1, keepdims=True) for weights in each.values()]).sum(axis=0)
            text = text / (1 + looked)
            # the tokens of a tower without attention are their own inputs
            each |= {name: each[name] @ part for name, part in inputs.items()}
            seen = {name: (seen.get(name, 0) + part) / (1 + looked) for name, part in each.items()}
    return {"text": text, **seen}


def _tower_inputs(attention: Float[Array, "L A I N S S"], rows: int) -> Float[Array, "R I*S I*S"]:
    """For each text, out of which inputs the tokens of a memory are made; its items see nothing of one another."""
    shares = jax.vmap(lambda items: jax.scipy.linalg.block_diag(*items))(rollout(attention))
    return jnp.repeat(shares, rows // len(shares), axis=0)
