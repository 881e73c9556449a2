"""Where did the model look for each word of a text?

A text that is there, generated or true, is read once more with a probe on every layer (teacher forcing). What a token
was made of is seen at the place that predicts it, one before its own: a text of T tokens has t = T − 1 traced ones, and
row i of a trace belongs to token i + 1. Padding looks nowhere and is looked at by nobody.

Letters as in `types.py`; R = B·C texts, row r belongs to example r // C. What the weights add up to over many layers is
for `rollout.py` to say.
"""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from mmfuse.models.memory import Memory
from mmfuse.models.multimodal import Multimodal
from mmfuse.models.single_tower import Decoded, SingleTower
from mmfuse.nn.losses.cross_entropy import chunked_cross_entropy
from mmfuse.stack.block import SelfBlock
from mmfuse.stack.stack import Stack
from mmfuse.types import PAD, Batch, Text, Tokens

CHUNK = 16  # tokens whose logits are in memory at once


class Layer(NamedTuple):
    """Attention weights of one block of the decoder: over the text, or over each of the memories that it fuses."""

    text: Float[Array, "R N t t"] | None
    memory: dict[str, Float[Array, "R N t S"]] | None


class Trace(NamedTuple):
    """What is known of each token of R texts but the first.

    Attributes:
      layers: of the decoder, from the first to the last.
      towers: memory name → self-attention of its tower by layer and item, (L B I N P P); none of a convnet.
      tokens: memory name → what the fusion layers looked at.
      log_probability: of each token, given those before it.
      decided: whether each modality that has a gate takes part, and how likely that was.
    """

    layers: list[Layer]
    towers: dict[str, Float[Array, "L B I N P P"]]
    tokens: dict[str, Tokens]
    log_probability: Float[Array, "R t"]
    decided: dict[str, tuple[Bool[Array, "B"], Float[Array, "B"]]]


def trace(model: Multimodal, batch: Batch, text: Text) -> Trace:
    """Reads texts and tells, by layer and head, what every token of them was predicted from.

    Args:
      model: with a decoder.
      batch: signals of B examples.
      text: C texts for each of them, one to a row, padded on the right.
    """
    names = [name for name in model.single.memories if name in batch.signals]
    watched = {name: _watch(stack) for name in names if (stack := _stack_of(model.towers[name])) is not None}
    memory = model.encode(batch, probe=watched)
    decoded, log_probability = _read(model.single, memory, text, _watch(model.single.stack))
    tokens = {name: memory.tokens[name] for name in model.single.memories if name in memory.tokens}
    predicted = (text.segment > 0).reshape(len(log_probability), -1)[:, None, 1:, None]
    layers = []
    for fuses, weights in _in_order(model.single.stack, decoded.trace):
        weights = jnp.where(predicted, _by_text(weights, len(log_probability))[:, :, :-1], 0)
        layers.append(Layer(None, _by_memory(weights, tokens)) if fuses else Layer(weights[..., :-1], None))
    towers = {
        name: _by_item(_in_order(_stack_of(model.towers[name]), memory.trace[name]), batch.signals[name].item_mask)
        for name in watched
    }
    return Trace(layers, towers, tokens, log_probability, memory.decided)


def log_probability(model: SingleTower, memory: Memory, text: Text) -> Float[Array, "R t"]:
    """ln p of every token of each text but the first, given those before it and the memory."""
    return _read(model, memory, text, None)[1]


def looks(traced: Trace) -> dict[str, Float[Array, "L R N t S"]]:
    """Memory name → attention over its tokens, in each of the L layers that fuse.

    For a layer, head and token, the weights over all memories sum to 1, or to 0 where there is nothing to look at.
    """
    fused = [layer.memory for layer in traced.layers if layer.memory is not None]
    return {name: jnp.stack([memory[name] for memory in fused]) for name in traced.tokens}


def written_text(prompt: Text, written: Int[Array, "B C t"]) -> Text:
    """Prompts and what was written after them as texts to be read; the weight is on what was written.

    Args:
      prompt: padded on the right.
      written: up to and with EOS, then PAD, as `generate` gives it.
    """
    length = (prompt.segment > 0).sum(axis=-1, keepdims=True)
    place = jnp.arange(prompt.ids.shape[-1] + written.shape[-1])[None, None]
    behind = jnp.clip(place - length, 0, written.shape[-1] - 1)
    answer = jnp.take_along_axis(written, behind, axis=-1)
    asked = place < length
    answered = ~asked & (place - length < written.shape[-1]) & (answer != PAD) & (length > 0)
    padded = jnp.pad(prompt.ids, ((0, 0), (0, 0), (0, written.shape[-1])))
    ids = jnp.where(asked, padded, jnp.where(answered, answer, PAD))
    return Text(ids, (asked | answered).astype(jnp.int32), answered.astype(jnp.float32))


def _read(model, memory, text, probe) -> tuple[Decoded, Float[Array, "R t"]]:
    ids, segment = (array.reshape(-1, array.shape[-1]) for array in (text.ids, text.segment))
    decoded = model.decode(model.read(ids, segment), memory, probe=probe)
    loss, _ = chunked_cross_entropy(decoded.hidden[:, :-1], ids[:, 1:], model.readout, chunk=CHUNK)
    return decoded, jnp.where(segment[:, 1:] > 0, -loss, 0.0)


def _watch(stack: Stack) -> dict:
    """A probe that looks at all blocks and moves nothing."""
    return {str(index): {name: jnp.zeros(1) for name in segment.order} for index, segment in enumerate(stack.segments)}


def _stack_of(tower: nnx.Module) -> Stack | None:
    return next((module for _, module in nnx.iter_modules(tower) if isinstance(module, Stack)), None)


def _in_order(stack, found) -> list[tuple[bool, Array]]:
    """(whether it fuses, weights) of every block in the order in which values flow."""
    return [
        (not isinstance(segment.unit[name], SelfBlock), found[str(index)][name][repeat])
        for index, segment in enumerate(stack.segments)
        for repeat in range(segment.repeats)
        for name in segment.order
    ]


def _by_text(weights, rows):
    """Fusion blocks lay the texts of an example behind one another: (B N C·T S) becomes (R N T S)."""
    examples, heads, _, keys = weights.shape
    return weights.reshape(examples, heads, rows // examples, -1, keys).swapaxes(1, 2).reshape(rows, heads, -1, keys)


def _by_memory(weights, tokens):
    """The memories stand behind one another on the last axis."""
    ends = list(itertools.accumulate(memory.segment.shape[1] for memory in tokens.values()))
    return dict(zip(tokens, jnp.split(weights, ends[:-1], axis=-1)))


def _by_item(layers, item_mask):
    weights = jnp.stack([weights for _, weights in layers])
    return weights.reshape(len(layers), *item_mask.shape, *weights.shape[2:])
