"""A file and a string: the same pixels, ids and number as by the released preprocessing."""

import io
import json

import jax.numpy as jnp
import numpy as np
import open_clip
import pytest
import tokenizers
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPProcessor, CLIPTokenizer, Siglip2Tokenizer
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from input_pipeline.transforms.image import decode_image
from mmfuse.weights import load_pretrained
from mmfuse.weights.preprocessing import load_preprocessor
from mmfuse.weights.texts import load_texts
from tests.parity import references

SIZES = ((31, 47), (60, 33), (19, 19), (8, 90))
TEXTS = ["A photo of a cat's  toy,", "", "naïve CAFÉ 北京 123!?", "the toy " * 20, "photo\tof\nthe <|endoftext|> toy"]


def picture(height, width):
    """Smooth colours with some noise."""
    random = np.random.default_rng(height)
    ramp = np.linspace(0, 200, height)[:, None, None] + np.linspace(0, 50, width)[None, :, None] * [[[1, 0.5, 0]]]
    return (ramp + random.integers(0, 6, (height, width, 3))).astype(np.uint8)


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 21, "width": 24}),
        CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 25, "width": 24}),
        SiglipImageProcessorPil(size={"height": 23, "width": 17}),
        SiglipImageProcessorPil(size={"height": 40, "width": 40}, resample=2, rescale_factor=0.01),
        SiglipImageProcessorPil(size={"height": 23, "width": 17}, do_normalize=False),
    ],
    ids=["crop", "pad", "squash", "bilinear", "rescale"],
)
def test_pixels_are_those_of_the_reference(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    ours = load_preprocessor(tmp_path)
    for size in SIZES:
        theirs = processor(Image.fromarray(picture(*size)), return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(ours(picture(*size)), theirs.transpose(1, 2, 0), atol=2e-6, err_msg=str(size))


def test_the_reference_that_resizes_with_torch_differs_by_a_level_at_most(tmp_path):
    processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor.save_pretrained(tmp_path)
    ours = load_preprocessor(tmp_path)
    for size in SIZES:
        theirs = processor(Image.fromarray(picture(*size)), return_tensors="np")["pixel_values"][0]
        levels = np.abs(ours(picture(*size)) - theirs.transpose(1, 2, 0)) * np.array(ours.scale)
        assert levels.max() < 1.01


@pytest.mark.parametrize("patch, places", [(5, 12), (3, 100), (16, 1)])
def test_patches_are_those_of_the_reference(tmp_path, patch, places):
    processor = Siglip2ImageProcessorPil(patch_size=patch, max_num_patches=places, image_mean=[0.5, 0.4, 0.3])
    processor.save_pretrained(tmp_path)
    ours = load_preprocessor(tmp_path)
    for size in (*SIZES, (200, 3)):
        theirs = processor(Image.fromarray(picture(*size)), return_tensors="np")
        names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
        for name, got in zip(names, ours(picture(*size)), strict=True):
            np.testing.assert_allclose(got, theirs[name][0], atol=2e-6, err_msg=f"{name} of {size}")


def test_a_processor_may_keep_it_in_a_file_of_its_own(tokenizer, tmp_path):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 21, "width": 24})
    CLIPProcessor(processor, tokenizer).save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert load_preprocessor(tmp_path)[:3] == (24, Image.Resampling.BICUBIC, (21, 24))


@pytest.fixture(scope="module")
def tokenizer():
    """A CLIP's tokenizer, its merges learned from a few words."""
    plain = CLIPTokenizer()._tokenizer
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer, bpe.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789,!?'")
    bpe.train_from_iterator(["a photo of the toy cat"] * 9 + letters, trainer)
    learned = json.loads(bpe.to_str())["model"]
    vocab = learned["vocab"]
    for word in ("<|startoftext|>", "<|endoftext|>"):
        vocab[word] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=[tuple(merge) for merge in learned["merges"]])


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        (24, {}),
        (23, {"interpolation": "bilinear", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}),
        ([24, 24], {"resize_mode": "shortest", "interpolation": "random"}),
        (24, {"resize_mode": "squash"}),
        ([24, 31], {"resize_mode": "squash", "interpolation": "bilinear", "mean": 0.5}),
    ],
)
def test_pixels_are_those_of_open_clip(size, settings, tmp_path):
    config = {"model_cfg": {"vision_cfg": {"image_size": size}}, "preprocess_cfg": settings}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    wanted = dict.fromkeys(("mean", "std", "resize_mode", "interpolation")) | settings
    theirs = open_clip.image_transform(size, is_train=False, **wanted)
    ours = load_preprocessor(tmp_path)
    for height, width in (*SIZES, (24, 27), (30, 24), (50, 33)):
        image = picture(height, width)
        expected = theirs(Image.fromarray(image)).numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(ours(image), expected, atol=2e-6, err_msg=str((height, width)))


@pytest.mark.parametrize("length", [8, 30])
def test_ids_are_those_of_the_reference(tokenizer, tmp_path, length):
    tokenizer.save_pretrained(tmp_path)
    theirs = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    ids, mask = load_texts(tmp_path, length=length)(TEXTS)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, theirs["attention_mask"])


def test_a_vocabulary_and_merges_are_the_same_tokenizer(tokenizer, tmp_path):
    """As older folders of CLIP hold them."""
    tokenizer.save_pretrained(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    theirs = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=30, return_tensors="np")
    ids, mask = load_texts(tmp_path, length=30)(TEXTS)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, theirs["attention_mask"])


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("side", [{}, {"padding_side": "right", "truncation_side": "left"}])
def test_ids_of_siglip_2_are_those_of_the_reference(tmp_path, side, released):
    """Its class pads at the left, which its files do not say; nor do released ones say that it makes lower case."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "▁a", *"abcdefghijklmnopqrstuvwxyz,!?'0123456789"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {piece: id for id, piece in enumerate(pieces)}
    Siglip2Tokenizer(vocab=vocab, merges=[("▁", "a")], add_eos_token=True, **side).save_pretrained(tmp_path)
    if released:
        for name, change in (
            ("tokenizer.json", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}),
            ("tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer"}),
        ):
            path = tmp_path / name
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is Siglip2Tokenizer and any(text != text.lower() for text in TEXTS)
    theirs = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=21, return_tensors="np")
    ids, mask = load_texts(tmp_path, length=21)(TEXTS)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, theirs["attention_mask"])


def test_a_file_and_a_string_give_the_number_of_the_reference(tokenizer, tmp_path):
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 30, "eos_token_id": tokenizer.eos_token_id}
    vision, text = (24, 32, 2, 4, "quick_gelu"), (20, 24, 2, 4, "quick_gelu")
    reference = references.clip((vision, {"image_size": 24, "patch_size": 8}), (text, words), 16)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    for part in (reference, processor, tokenizer):
        part.save_pretrained(tmp_path)
    files = [io.BytesIO() for _ in SIZES]
    for file, size in zip(files, SIZES):
        Image.fromarray(picture(*size)).save(file, "PNG")
    pixels = processor([Image.open(file) for file in files], return_tensors="pt")
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=30, return_tensors="pt")
    with torch.no_grad():
        theirs = reference(**pixels, **ids)

    model, config = load_pretrained(tmp_path)
    prepare, spell = load_preprocessor(tmp_path), load_texts(tmp_path, length=config.model.towers.text.length)
    images = [decode_image(file.getvalue()) for file in files]
    image = model.embed_image(jnp.asarray(np.stack([prepare(image) for image in images])))
    text = model.embed_text(*map(jnp.asarray, spell(TEXTS)))
    np.testing.assert_allclose(model.similarity(image, text), theirs.logits_per_image, rtol=0, atol=2e-4)
    # integers are normalised by the tower, as the file says
    square = prepare._replace(center=(0.0,) * 3, scale=(1.0,) * 3)
    integers = np.stack([square(image) for image in images]).astype(np.uint8)
    np.testing.assert_allclose(model.embed_image(jnp.asarray(integers)), theirs.image_embeds, atol=1e-5)
