"""What folders say of pictures and texts: by hand, and refused where it makes no sense.

That the numbers are those of the reference is shown in tests/parity.
"""

import json

import numpy as np
import pytest
import tokenizers
from ml_collections import ConfigDict

from configs import parts
from input_pipeline.transforms.resizing import Resizing
from mmfuse.types import CheckpointError
from mmfuse.weights.preprocessing import load_pixels, load_preprocessor, open_clip_resizing, preprocessor_config
from mmfuse.weights.texts import load_texts

PICTURES = {"size": 4, "image_mean": [0.5, 0.4, 0.0], "image_std": [0.5, 1.0, 0.1]}
GRIDS = PICTURES | {"patch_size": 2, "max_num_patches": 9, "image_std": [1.0] * 3, "image_mean": [0.0] * 3}
RAMP = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3)


def says(folder, file, **content):
    (folder / file).write_text(json.dumps(content))
    return folder


def test_the_middle_is_kept_and_normalised(tmp_path):
    settings = PICTURES | {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 4, "width": 7}}
    prepare = load_preprocessor(says(tmp_path, "preprocessor_config.json", **settings))
    kept = np.zeros((4, 7, 3))
    kept[:, 1:6] = RAMP[1:5]  # 3 rows too many, 2 columns too few
    np.testing.assert_allclose(prepare(RAMP), (kept / 255 - [0.5, 0.4, 0]) / [0.5, 1, 0.1], atol=1e-5)


def test_a_grid_is_the_largest_of_the_shape_and_what_is_not_filled_is_padding(tmp_path):
    prepare = load_preprocessor(says(tmp_path, "preprocessor_config.json", **GRIDS))
    picture = np.kron([[10, 20], [30, 40], [50, 60], [70, 80]], np.ones((2, 2)))[..., None].repeat(3, 2)
    patches, mask, shape = prepare(picture.astype(np.uint8))
    np.testing.assert_array_equal(shape, [4, 2])  # 4 × 2 of 9
    np.testing.assert_array_equal(mask, [1] * 8 + [0])
    np.testing.assert_allclose(patches * 255, np.array([10, 20, 30, 40, 50, 60, 70, 80, 0])[:, None].repeat(12, 1))


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_what_is_written_for_a_tower_is_read(tmp_path, kind):
    tower = ConfigDict(parts.vit(8, 1, 2, image=(8, 8), patch=(2, 2), center=(1.0, 2.0, 3.5), scale=51.0))
    says(tmp_path, "preprocessor_config.json", **preprocessor_config(tower, kind))
    assert load_pixels(tmp_path, 3) == {"center": (1.0, 2.0, 3.5), "scale": (51.0,) * 3}
    prepared = load_preprocessor(tmp_path)(RAMP)
    assert prepared[0].shape == (16, 12) if kind == "siglip2" else prepared.shape == (8, 8, 3)


@pytest.mark.parametrize(
    "resizing",
    [Resizing(9, crop=(8, 8)), Resizing((8, 8), resample=2), Resizing(None, crop=(8, 8)), Resizing(8, 2, (8, 8))],
)
def test_resizing_that_is_written_is_read(tmp_path, resizing):
    tower = ConfigDict(parts.vit(8, 1, 2, image=(8, 8), patch=(2, 2)))
    for kind in ("clip", "siglip"):
        says(tmp_path, "preprocessor_config.json", **preprocessor_config(tower, kind, resizing))
        assert load_preprocessor(tmp_path).resizing == resizing


@pytest.mark.parametrize("resizing", [Resizing(8, crop=(8, 8), even=True), Resizing((8, 6), resample=2)])
def test_resizing_that_is_written_for_open_clip_is_read(tmp_path, resizing):
    height, width = resizing.extent
    model = {"vision_cfg": {"image_size": height if height == width else [height, width]}}
    says(tmp_path, "open_clip_config.json", model_cfg=model, preprocess_cfg=open_clip_resizing(resizing))
    read = load_preprocessor(tmp_path).resizing
    assert read._replace(even=resizing.even) == resizing
    np.testing.assert_array_equal(read(RAMP), resizing(RAMP))


@pytest.mark.parametrize("resizing", [Resizing(9, crop=(8, 8)), Resizing(None, crop=(8, 8)), Resizing((8, 8), 1)])
def test_resizing_that_open_clip_does_not_have_is_refused(resizing):
    with pytest.raises(CheckpointError, match="open_clip has nothing like Resizing"):
        open_clip_resizing(resizing)


def test_one_number_is_that_of_every_channel_and_may_be_whole(tmp_path):
    says(tmp_path, "preprocessor_config.json", size=4, image_mean=[0, 0, 1], image_std=1)
    assert load_pixels(tmp_path, 3) == {"center": (0.0, 0.0, 255.0), "scale": (255.0,) * 3}


def test_a_folder_that_does_not_say_changes_no_tower(tmp_path):
    assert load_pixels(says(tmp_path, "processor_config.json", processor_class="CLIPProcessor"), 3) == {}


@pytest.mark.parametrize(
    "file, changes, said",
    [
        ("processor_config.json", {}, "preprocessor_config.json is missing"),
        ("preprocessor_config.json", {"size": {}}, "cannot be understood: KeyError"),
        ("preprocessor_config.json", {"image_std": None}, "cannot be understood"),
        ("preprocessor_config.json", {"rescale_factor": 0}, "cannot be understood: ZeroDivisionError"),
        ("preprocessor_config.json", {"image_std": [0.5, 0, 1]}, r"image_std is \(0.5, 0, 1\): write numbers above 0"),
        ("preprocessor_config.json", {"image_std": [0.5]}, r"image_std is \[0.5\], and there are 3 channels"),
        ("preprocessor_config.json", {"image_mean": [0.5] * 4}, r"image_mean is \[.*\], and there are 3 channels"),
        ("preprocessor_config.json", GRIDS | {"do_resize": False}, "do_resize is false"),
    ],
)
def test_pictures_that_are_described_badly_are_refused(tmp_path, file, changes, said):
    with pytest.raises(CheckpointError, match=said):
        load_preprocessor(says(tmp_path, file, **PICTURES | changes))


@pytest.fixture
def words(tmp_path):
    """A folder with a tokenizer of whole words."""
    bpe = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    bpe.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize(
    ("size", "mode", "said"),
    [
        (24, "longest", r"resize_mode 'longest' to \(24, 24\) is not known"),
        ([24, 20], "shortest", r"resize_mode 'shortest' to \(24, 20\) is not known"),
        ([24, 20, 3], "squash", "open_clip_config.json cannot be understood"),
    ],
)
def test_resizing_of_open_clip_that_is_not_known_is_refused(tmp_path, size, mode, said):
    model = {"vision_cfg": {"image_size": size}}
    says(tmp_path, "open_clip_config.json", model_cfg=model, preprocess_cfg={"resize_mode": mode})
    with pytest.raises(CheckpointError, match=said):
        load_preprocessor(tmp_path)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [[2, 1, 0, 0], [1, 1, 1, 2]]),
        ({"padding_side": "left"}, [[0, 0, 2, 1], [1, 1, 1, 2]]),
        ({"tokenizer_class": "Siglip2Tokenizer", "truncation_side": "left"}, [[0, 0, 2, 1], [1, 1, 2, 2]]),
    ],
)
def test_texts_are_cut_and_padded_where_it_is_said(words, settings, expected):
    pad = {"content": "[PAD]", "special": True}
    spell = load_texts(says(words, "tokenizer_config.json", pad_token=pad, **settings), length=4)
    ids, mask = spell(["b a", "a a a b b"])
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(mask, np.array(expected) != 0)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({}, "cannot be understood: KeyError"),
        ({"pad_token": "[pad]"}, "pads with '.pad.', which is not in tokenizer.json"),
        ({"pad_token": "[PAD]", "padding_side": "top"}, "tokenizer_config.json cannot be understood"),
    ],
)
def test_texts_that_are_described_badly_are_refused(words, settings, said):
    with pytest.raises(CheckpointError, match=said):
        load_texts(says(words, "tokenizer_config.json", **settings), length=4)


def test_a_tokenizer_that_is_none_is_refused(words):
    (words / "tokenizer.json").write_text("{}")
    says(words, "tokenizer_config.json", pad_token="[PAD]")
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be read"):
        load_texts(words, length=4)
