"""Folders of released models, so small that real runs of them are tests: weights, tokenizer and preprocessing."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image
from tokenizers import pre_tokenizers

from input_pipeline.sources.digits import CAPTIONS, Digits
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse.build import make_model
from mmfuse.models.multimodal import Multimodal
from mmfuse.weights import save_pretrained
from mmfuse.weights.pretrained import FAMILIES
from mmfuse.weights.tensors import as_json, write_files

NAMES, FRAMES = CAPTIONS["en"]
SENTENCES = [frame.format(name) for frame in FRAMES for name in NAMES.split()]
SIZES = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3}
THEIRS = {
    "clip": {
        "vision_config": SIZES | {"image_size": 12, "patch_size": 4},
        "text_config": SIZES | {"vocab_size": 514, "max_position_embeddings": 45, "eos_token_id": 513},
        "projection_dim": 8,
    },
    "siglip": {
        "vision_config": SIZES | {"image_size": 10, "patch_size": 5},
        "text_config": SIZES | {"vocab_size": 90, "max_position_embeddings": 16},
    },
    "siglip2": {
        "vision_config": SIZES | {"num_patches": 9, "patch_size": 4},
        "text_config": SIZES | {"vocab_size": 90, "max_position_embeddings": 16},
    },
}


def write_model(folder: Path, kind: str) -> tuple[Multimodal, ConfigDict]:
    """Writes a CLIP, a SigLIP, or a NaFlex of SigLIP 2 with every weight drawn anew; returns it and its config."""
    config = ConfigDict(FAMILIES[kind].to_ours(THEIRS[kind]))
    model = nnx.jit(lambda: make_model(config, nnx.Rngs(0)))()
    leaves, tree = jax.tree.flatten(nnx.state(model))
    random = np.random.default_rng(1)
    moved = [jnp.asarray(np.asarray(leaf) + 0.2 * random.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves]
    nnx.update(model, jax.tree.unflatten(tree, moved))
    resizing = {"clip": Resizing(13, crop=(12, 12)), "siglip": Resizing((10, 10), resample=2)}
    resizing["siglip2"] = GridResizing(patch=4, places=7)
    save_pretrained(folder, model, config, resizing=resizing[kind])
    write_files(folder, letters() if kind == "clip" else pieces())
    return model, config


def write_tar(path: Path, numbers: range) -> str:
    """Writes handwritten digits, some of them narrow, with a sentence each; returns the path."""
    source = Digits("train")
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            example, image = source[number], io.BytesIO()
            Image.fromarray(example.signals["image"][:, 2 * number % 5 :]).save(image, "PNG")
            text = next(caption.text for caption in example.captions if caption.language == "en")
            own = f"{number:06b}".translate(str.maketrans("01", "ae"))  # in letters that all tokenizers here know
            for ending, content in (("png", image.getvalue()), ("txt", f"{own} {text}".encode())):
                entry = tarfile.TarInfo(f"{number:05d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return str(path)


def letters() -> dict[str, bytes]:
    """A tokenizer with the files of CLIP's, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 45}
    return {
        "vocab.json": as_json({word: id for id, word in enumerate(words)}),
        "merges.txt": b"#version: 0.2\n",
        "tokenizer_config.json": as_json(settings),
    }


def train_pieces(sentences: Sequence[str], **settings) -> bytes:
    """A sentencepiece model with the ids of the released SigLIP: padding 0, the end 1, the unknown 2."""
    written = io.BytesIO()
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=written,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
        **settings,
    )
    return written.getvalue()


def pieces() -> dict[str, bytes]:
    """A sentencepiece tokenizer as the released SigLIP has it."""
    settings = {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return {
        "spiece.model": train_pieces(SENTENCES, vocab_size=60),
        "tokenizer_config.json": as_json({**settings, "model_max_length": 16}),
    }
