"""Small models and batches for the tests of the model side. Sizes differ from one another, so that no axis can pass
for another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build import make_model
from mmfuse.types import Batch, Signal, Text

EXAMPLES, IMAGES, TEXTS, LENGTH, VOCABULARY = 3, 2, 2, 7, 13
IMAGE, SAMPLES = (6, 10), 96


def _shake(module, seed=0):
    state = nnx.state(module, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    random = np.random.default_rng(seed)
    # in numpy, which compiles no sum for each shape
    moved = [jnp.asarray(np.asarray(leaf) + 0.3 * random.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves]
    nnx.update(module, jax.tree.unflatten(tree, moved))
    return module


@pytest.fixture(scope="session")
def shake():
    """Moves all parameters of a module off their initial values: gates open, and biases and norms do something."""
    return _shake


@pytest.fixture(scope="session")
def model_config():
    towers = {
        "image": parts.vit(12, 2, 3, image=IMAGE, patch=(2, 5), position="sincos", class_token=True, pool="first"),
        "audio": parts.audio(8, 1, 2, samples=SAMPLES, patch=(2, 3), bands=6, window=32, hop=16, pool="attention"),
        "text": parts.text(20, 2, 5, length=LENGTH, causal=True, pool="eos", position="rotary"),
    }
    single = parts.decoder(
        24, 4, 6, length=16, memories=("image", "audio", "source"), cross_every=2, key_heads=2, position="rotary"
    )
    dual = {"embedding": 11, "temperature": 0.07, "bias": -10.0}
    model = {"dtype": "float32", "towers": towers, "dual": dual, "single": single}
    return ConfigDict({"tokenizer": {"vocabulary": VOCABULARY}, "model": model})


@pytest.fixture(scope="session")
def model(model_config):
    """Both heads over three towers, every parameter away from its initial value. Not to be changed."""
    return _shake(nnx.jit(lambda: make_model(model_config, nnx.Rngs(0)))())


def _text(random, lengths):
    """Texts of given lengths (B C), of ids that are no special token."""
    lengths = np.asarray(lengths)
    segment = (np.arange(LENGTH) < lengths[..., None]).astype(np.int32)
    ids = np.where(segment > 0, random.integers(3, VOCABULARY, segment.shape), 0).astype(np.int32)
    return Text(ids, segment, segment.astype(np.float32))


@pytest.fixture(scope="session")
def batch():
    """Three examples. The first has two images and a sound, the second one image, the third a sound alone.

    Not to be changed.
    """
    random = np.random.default_rng(1)
    image = Signal(
        random.uniform(0, 255, (EXAMPLES, IMAGES, *IMAGE, 3)).astype(np.float32),
        np.array([[True, True], [True, False], [False, False]]),
        np.array([[0, 3], [2, 0], [0, 0]]),
        np.array([[IMAGE, (4, 10)], [(6, 5), (0, 0)], [(0, 0), (0, 0)]]),
    )
    audio = Signal(
        random.uniform(-1, 1, (EXAMPLES, 1, SAMPLES)).astype(np.float32),
        np.array([[True], [False], [True]]),
        np.zeros((EXAMPLES, 1), np.int32),
        np.array([[[SAMPLES]], [[0]], [[40]]]),
    )
    text = {
        "caption": _text(random, [[5, 7], [3, 0], [6, 2]]),
        "target": _text(random, [[7, 4], [5, 6], [2, 7]]),
        "prompt": _text(random, [[2, 5], [7, 1], [3, 0]]),
    }
    concept, origin = np.arange(EXAMPLES, dtype=np.int32), np.zeros((EXAMPLES, 2), np.int32)
    return jax.tree.map(
        jnp.asarray, Batch({"image": image, "audio": audio}, text, np.ones(EXAMPLES, bool), concept, origin)
    )
