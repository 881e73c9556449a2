"""A decoder over images that writes what it is told, whatever it sees, or only where it sees nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build import make_model
from mmfuse.training.state import TrainState
from mmfuse.types import EOS

VOCABULARY, WIDTH, LENGTH, IMAGE = 300, 302, 24, (4, 6)


@functools.cache
def _model():
    towers = {"image": parts.vit(8, 1, 2, image=IMAGE, patch=(2, 3))}
    single = parts.decoder(WIDTH, 1, 1, length=LENGTH, memories=("image",), mlp=8)
    model = {"dtype": "float32", "towers": towers, "single": single}
    config = ConfigDict({"tokenizer": {"vocabulary": VOCABULARY}, "model": model})
    return nnx.split(make_model(config, nnx.Rngs(0)), nnx.Param)


def merge(state):
    """The model of a state."""
    return nnx.merge(_model()[0], state.trainable)


def state_that_writes(text, tokenizer, after="", only_blind=False):
    """Blocks that add nothing, one-hot embeddings, and positions that say which token comes next.

    `after` is the prompt; behind one that is longer, the beginning of the text is left out. With `only_blind` an image,
    whatever it shows, makes the text end before it has begun.
    """
    whole = nnx.merge(*_model())
    single = whole.single
    for block in ("self0", "cross"):
        for part in (single.stack.segments[0].unit[block].attention.out, single.stack.segments[0].unit[block].mlp.down):
            nnx.update(part, jax.tree.map(jnp.zeros_like, nnx.state(part)))
    if only_blind:
        cross = single.stack.segments[0].unit["cross"]
        cross.attention_gate[...] = jnp.full_like(cross.attention_gate[...], 10)
        values = cross.attention.value
        values.kernel[...], values.bias[...] = jnp.zeros_like(values.kernel[...]), jnp.ones_like(values.bias[...])
        cross.attention.out.kernel[...] = cross.attention.out.kernel[...].at[..., EOS].set(1)
    single.embed.embedding[...] = jnp.eye(VOCABULARY, WIDTH)
    start = len(tokenizer.encode(after))  # where BOS stands
    ids = [*tokenizer.encode(text), EOS]
    table = np.zeros((LENGTH, WIDTH), np.float32)
    table[np.arange(start, start + len(ids)), ids] = 10
    single.position.table[...] = jnp.asarray(table)
    return TrainState(nnx.state(whole, nnx.Param), {}, {}, {}, jnp.int32(0), jnp.int32(0))
