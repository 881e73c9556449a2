"""What is exported, as other libraries load it: a file and a string give the number that they give here."""

import json

import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import safetensors.torch
import tokenizers
import torch
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, CLIPTokenizerFast, PreTrainedTokenizerFast, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from input_pipeline.tokenizers import train_tokenizer
from input_pipeline.transforms.resizing import Resizing
from mmfuse.build import make_model
from mmfuse.types import CheckpointError
from mmfuse.weights import load_pretrained, save_pretrained
from mmfuse.weights.preprocessing import load_preprocessor
from mmfuse.weights.pretrained import FORMATS
from mmfuse.weights.texts import CLEAN, load_texts
from mmfuse.weights.tokenizer import ReleasedTokenizer
from tests import small_released
from tests.parity.references import scramble
from tests.parity.test_open_clip import CONFIGS, tiny_tower  # noqa: F401 (a fixture)
from tests.parity.test_pieces import odd_texts
from tests.parity.test_preprocessing import SIZES, picture, tokenizer  # noqa: F401 (a fixture)

TEXTS = [
    "the handwritten digit four",
    "  A  Digit,\twritten\nby hand!  ",
    "don't 3.14 naïve cafe\u0301 北京 नमस्ते 👍🏽",
    "the digit " * 30,
    "",
]
CONTROLS = ["<eos> is </s> text <pad>", "<bos>"]
PARTS = {"clip": (CLIPModel, CLIPImageProcessorPil), "siglip": (SiglipModel, SiglipImageProcessorPil)}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.filterwarnings("ignore:This sequence already has")
def test_transformers_gives_the_same_number_for_a_file_and_a_string(kind, tmp_path):
    folder = tmp_path / kind
    small_released.write_model(folder, kind)
    model, config = load_pretrained(folder)
    spell, prepare = load_texts(folder, length=config.model.towers.text.length), load_preprocessor(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    words = theirs(TEXTS + CONTROLS, padding="max_length", truncation=True, return_tensors="pt")
    ids, mask = spell(TEXTS + CONTROLS)
    np.testing.assert_array_equal(ids, words["input_ids"])
    np.testing.assert_array_equal(mask, words["attention_mask"])

    model_class, processor_class = PARTS[kind]
    images = [picture(*size) for size in SIZES]
    pixels = processor_class.from_pretrained(folder)([Image.fromarray(image) for image in images], return_tensors="pt")
    if kind == "siglip":  # it was trained without
        del words["attention_mask"]
    with torch.no_grad():
        expected = model_class.from_pretrained(folder)(**pixels, **words).logits_per_image
    image = model.embed_image(jnp.asarray(np.stack([prepare(image) for image in images])))
    text = model.embed_text(jnp.asarray(ids), jnp.asarray(mask) if kind == "clip" else None)
    np.testing.assert_allclose(model.similarity(image, text), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "resizing", [Resizing(24, crop=(24, 24), even=True), Resizing((24, 24)), Resizing((24, 24), resample=2)]
)
def test_open_clip_gives_the_same_number_for_a_file_and_a_string(resizing, tmp_path):
    sizes = {"vision_cfg": {"image_size": 24, "patch_size": 8, "width": 64, "layers": 1}}
    words = {"text_cfg": {"context_length": 20, "vocab_size": 303, "width": 16, "heads": 4, "layers": 2}}
    config = ConfigDict(FORMATS["open_clip"]["CLIP"].to_ours({"model_cfg": {"embed_dim": 8, **sizes, **words}}))
    words = train_tokenizer(small_released.SENTENCES, vocab_size=303)
    config.model.towers.text.eos = 2  # of our tokenizer; the highest id is a word
    parts = {"form": "open_clip", "tokenizer": words, "resizing": resizing}
    save_pretrained(tmp_path, make_model(config, nnx.Rngs(3)), config, **parts)

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    np.testing.assert_array_equal(load_texts(tmp_path, length=20)(TEXTS)[0], ids)
    images = [picture(*size) for size in SIZES]
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        expected, _ = model.eval().get_logits(pixels, ids)
    ours, _ = load_pretrained(tmp_path)
    prepare = load_preprocessor(tmp_path)
    image = ours.embed_image(jnp.asarray(np.stack([prepare(image) for image in images])))
    text = ours.embed_text(jnp.asarray(ids.numpy().astype(np.int32)))
    np.testing.assert_allclose(ours.similarity(image, text), expected, rtol=0, atol=2e-4)


def test_the_tokenizer_of_a_clip_is_passed_on_to_its_own_class(tokenizer, tmp_path):  # noqa: F811
    tokenizer.save_pretrained(tmp_path / "theirs")
    model, config = small_released.write_model(tmp_path / "clip", "clip")
    save_pretrained(tmp_path / "out", model, config, tokenizer=ReleasedTokenizer(tmp_path / "theirs"))
    expected = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=20)["input_ids"]
    for loaded in (CLIPTokenizerFast, AutoTokenizer):
        again = loaded.from_pretrained(tmp_path / "out")
        assert again(TEXTS, padding="max_length", truncation=True, max_length=20)["input_ids"] == expected
    assert load_texts(tmp_path / "out", length=20)(TEXTS)[0].tolist() == expected
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["tokenizer_class"] == "CLIPTokenizer"


@pytest.fixture
def siglip_folder(tiny_tower, tmp_path):  # noqa: F811
    """A SigLIP as open_clip keeps them: its tokenizer gets texts without capitals and punctuation."""
    bpe = tokenizers.Tokenizer(tokenizers.models.Unigram())
    bpe.normalizer, bpe.pre_tokenizer = tokenizers.normalizers.NFKC(), tokenizers.pre_tokenizers.Metaspace()
    special = {"special_tokens": ["<pad>", "</s>", "<unk>"], "unk_token": "<unk>"}
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=53, show_progress=False, **special)
    bpe.train_from_iterator(["the digit four, written by hand\n"] * 9, trainer)
    bpe.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>").save_pretrained(tmp_path)
    config = dict(CONFIGS["siglip"])
    words = {"hf_tokenizer_name": "any", "tokenizer_kwargs": {"clean": "canonicalize", "padding_side": "left"}}
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    theirs = {"model_cfg": config | {"text_cfg": config["text_cfg"] | words}, "preprocess_cfg": pixels}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(theirs))
    del config["custom_text"]
    reference = scramble(open_clip.CustomTextCLIP(**config))
    safetensors.torch.save_file(reference.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def their_logits(folder):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = torch.stack([preprocess(Image.fromarray(picture(*size))) for size in SIZES])
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS + CONTROLS)
    with torch.no_grad():
        return model.eval().get_logits(pixels, ids)[0]


def test_a_siglip_of_open_clip_gives_the_same_number_and_is_passed_on_with_its_tokenizer(siglip_folder):
    expected = their_logits(siglip_folder)
    model, config = load_pretrained(siglip_folder)
    prepare, spell = load_preprocessor(siglip_folder), load_texts(siglip_folder, length=9)
    image = model.embed_image(jnp.asarray(np.stack([prepare(picture(*size)) for size in SIZES])))
    text = model.embed_text(jnp.asarray(spell(TEXTS + CONTROLS)[0]))
    np.testing.assert_allclose(model.similarity(image, text), expected, rtol=0, atol=2e-4)

    kept = siglip_folder / "kept"  # as a run keeps it
    ReleasedTokenizer(siglip_folder).save(kept)
    words = ReleasedTokenizer(kept)
    save_pretrained(siglip_folder / "out", model, config, form="open_clip", tokenizer=words, resizing=prepare.resizing)
    np.testing.assert_allclose(their_logits(siglip_folder / "out"), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(load_texts(siglip_folder / "out", length=9)(TEXTS)[0], spell(TEXTS)[0])
    with pytest.raises(CheckpointError, match="transformers has no 'canonicalize' before a tokenizer"):
        save_pretrained(siglip_folder / "hf", model, config, tokenizer=words)


@pytest.mark.parametrize("name", CLEAN)
def test_texts_are_cleaned_as_open_clip_does_it(name, monkeypatch):
    monkeypatch.setattr(open_clip.tokenizer, "basic_clean", str.strip)  # which mends HTML and Unicode
    clean = open_clip.tokenizer.get_clean_fn(name)
    for text in [*odd_texts(500), "ΟΔΟΣ, Σίσυφος_and_more"]:
        assert CLEAN[name](text) == clean(text)
