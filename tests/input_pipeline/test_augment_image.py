"""How images are changed in training."""

import inspect

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from input_pipeline.fits import ImageFit
from input_pipeline.sources.scenes import Scenes
from input_pipeline.streams import Recipe, evaluation_stream, training_stream
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import train_tokenizer
from input_pipeline.transforms import augment_image, randaugment
from input_pipeline.transforms.augment_image import AFTER_RESIZE, make_image_changes
from mmfuse.types import ConfigError

H, W = 23, 31
PICTURE = np.random.default_rng(7).integers(0, 256, (H, W, 3), np.uint8)
SMOOTH = cv2.GaussianBlur(cv2.resize(PICTURE, (62, 46), interpolation=cv2.INTER_CUBIC), (0, 0), 3)


def rng(seed=0):
    return np.random.default_rng(seed)


def change(settings, image, seed=0):
    return make_image_changes(settings).rest(image, rng(seed))


@pytest.mark.parametrize("name", AFTER_RESIZE)
def test_every_change_keeps_shape_and_type_leaves_its_input_and_follows_its_generator(name):
    always = {"share": 1.0} if name in ("flip", "warp", "grey", "outline", "blur", "erase") else {}
    strong = {"affine": {"degrees": 20.0}, "jitter": {"brightness": 0.5}}.get(name, always)
    before = SMOOTH.copy()
    changed = [change({name: strong}, SMOOTH, seed) for seed in (0, 0, *range(1, 6))]
    np.testing.assert_array_equal(SMOOTH, before)
    assert all(image.shape == SMOOTH.shape and image.dtype == np.uint8 for image in changed)
    np.testing.assert_array_equal(changed[0], changed[1])
    assert any((image != SMOOTH).any() for image in changed)
    if name not in ("flip", "grey"):  # which have nothing to draw once they happen
        assert any((image != changed[0]).any() for image in changed)


@pytest.mark.parametrize("name", ("flip", "warp", "grey", "outline", "blur", "erase"))
def test_a_share_is_how_often(name):
    settings = {name: {"share": 0.3} | ({"sigma": (1.0, 2.0)} if name == "blur" else {})}
    happened = [(change(settings, SMOOTH, seed) != SMOOTH).any() for seed in range(300)]
    assert 0.2 < np.mean(happened) < 0.4  # ± 3.8 standard deviations


def test_without_settings_nothing_happens():
    changes = make_image_changes({})
    assert changes.crop is None
    np.testing.assert_array_equal(changes.rest(PICTURE, rng()), PICTURE)


def test_a_crop_is_a_window_of_the_wanted_area_and_aspect():
    image = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80)
    image = np.stack([image & 255, image >> 8, image & 255], axis=-1).astype(np.uint8)
    areas, aspects, corners = [], [], set()
    for seed in range(400):
        crop = augment_image.random_crop(image, rng(seed), scale=(0.2, 0.6), ratio=(0.5, 2.0))
        h, w = crop.shape[:2]
        top, left = divmod(int(crop[0, 0, 0]) + 256 * int(crop[0, 0, 1]), 80)
        np.testing.assert_array_equal(crop, image[top : top + h, left : left + w])
        areas.append(h * w / 4800), aspects.append(w / h), corners.add((top, left))
    assert 0.19 < min(areas) < 0.23 and 0.55 < max(areas) < 0.61
    assert 0.48 < min(aspects) < 0.6 and 1.7 < max(aspects) < 2.1
    assert abs(np.median(np.log(aspects))) < 0.15 and len(corners) > 300


def test_a_crop_that_never_fits_is_the_largest_of_an_allowed_aspect_in_the_middle():
    column = np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(4, axis=1)
    crop = augment_image.random_crop(column, rng(), scale=(1.0, 1.0), ratio=(0.5, 2.0))
    assert crop.shape == (8, 4, 3) and crop[0, 0, 0] == 46


def test_a_flip_mirrors_left_and_right():
    np.testing.assert_array_equal(change({"flip": {"share": 1.0}}, PICTURE), PICTURE[:, ::-1])


def dot(row, column):
    image = np.full((41, 61, 3), 255, np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 0
    return image


def center_of(image):
    weight = 255.0 - image[..., 0]
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return (weight * rows).sum() / weight.sum(), (weight * columns).sum() / weight.sum()


def test_an_affine_map_turns_scales_and_moves_within_its_bounds_and_fills_with_white():
    # 15 pixels right of the centre: the distance tells the scale, the angle the turn
    turns, sizes = [], []
    for seed in range(200):
        row, column = center_of(change({"affine": {"degrees": 30.0, "scale": (0.5, 1.2)}}, dot(20, 45), seed))
        turns.append(np.degrees(np.arctan2(row - 20, column - 30)))
        sizes.append(np.hypot(row - 20, column - 30) / 15)
    assert -30.5 < min(turns) < -26 and 26 < max(turns) < 30.5
    assert 0.49 < min(sizes) < 0.56 and 1.12 < max(sizes) < 1.22
    moved = np.array([center_of(change({"affine": {"translate": 0.2}}, dot(20, 30), seed)) for seed in range(200)])
    # of 41 rows and 61 columns
    np.testing.assert_allclose(np.abs(moved - (20, 30)).max(axis=0), (8.2, 12.2), atol=0.7)
    corner = change({"affine": {"scale": (0.5, 0.5)}}, np.zeros((41, 61, 3), np.uint8))
    assert (corner[0] == 255).all() and (corner[20, 30] == 0).all()


def test_a_shear_slants_and_a_stretch_changes_the_aspect():
    above = [center_of(change({"affine": {"shear": 45.0}}, dot(10, 30), seed)) for seed in range(60)]
    assert max(abs(column - 30) for _, column in above) > 8 and max(abs(row - 10) for row, _ in above) < 0.5
    ratios = []
    for seed in range(100):
        right, below = (change({"affine": {"stretch": 0.4}}, image, seed) for image in (dot(20, 40), dot(30, 30)))
        ratios.append(np.log((center_of(right)[1] - 30) / (center_of(below)[0] - 20)))
    assert 0.3 < np.abs(ratios).max() < 0.45


def test_a_warp_is_smooth_and_of_the_wanted_strength():
    column = np.tile(np.linspace(0, 255, 128, dtype=np.float32)[None, :, None], (128, 1, 3)).astype(np.uint8)
    moves = []
    for seed in range(60):
        warped = change({"warp": {"strength": 0.05, "cells": 3}}, column, seed).astype(float)
        moves.append((warped - column)[32:96, 32:96, 0] / 255)  # as a share of the width
        assert np.abs(np.diff(warped[..., 0], axis=0)).max() < 12
    # between four knots of a cubic the mean square of the weights is well below 1
    assert 0.02 < np.std(moves) < 0.05


def test_jitter_is_what_pillow_does():
    for seed in range(5):
        factor = 1 + rng(seed).uniform(-1, 1, 3) * 0.6
        names = {"brightness": ImageEnhance.Brightness, "saturation": ImageEnhance.Color}
        for index, (name, enhance) in zip((0, 2), names.items()):
            wanted = np.asarray(enhance(Image.fromarray(PICTURE)).enhance(factor[index]), int)
            assert np.abs(change({"jitter": {name: 0.6}}, PICTURE, seed) - wanted).max() <= 2
        grey = np.asarray(Image.fromarray(PICTURE).convert("L")).mean()
        wanted = np.clip(grey + factor[1] * (PICTURE - grey), 0, 255)
        assert np.abs(change({"jitter": {"contrast": 0.6}}, PICTURE, seed) - wanted).max() <= 2


def test_hue_turns_colours_and_leaves_greys():
    red, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 90, np.uint8)
    red[..., 0] = 200
    turned = np.array([change({"jitter": {"hue": 1 / 3}}, red, seed)[0, 0] for seed in range(100)])
    assert (turned.max(axis=1) == 200).all() and turned[:, 1].max() > 180 and turned[:, 2].max() > 180
    np.testing.assert_array_equal(change({"jitter": {"hue": 0.5}}, grey), grey)


def test_grey_is_luminance():
    wanted = np.asarray(Image.fromarray(PICTURE).convert("L"), int)
    assert np.abs(change({"grey": {"share": 1.0}}, PICTURE)[..., 1] - wanted).max() <= 1


def test_shade_is_a_slope_of_light_around_one():
    flat = np.full((40, 40, 3), 100, np.uint8)
    for seed in range(20):
        shaded = change({"shade": {"strength": 0.5}}, flat, seed).astype(float)
        assert abs(shaded.mean() - 100) < 1 and np.ptp(shaded) <= 2 * 50 * np.sqrt(2) + 1
        np.testing.assert_allclose(shaded + shaded[::-1, ::-1], 200, atol=1.01)


def test_an_outline_is_dark_where_the_light_changes():
    half = np.full((20, 20, 3), 220, np.uint8)
    half[:, 10:] = (60, 90, 60)
    drawn = change({"outline": {"share": 1.0, "width": 1}}, half)
    assert drawn[:, 9:11].min() < 40 and drawn[5, 9:11].min() < drawn[5, 3].min()
    assert (drawn[:, :8] == drawn[0, 0]).all()


def test_an_erased_rectangle_has_the_wanted_area_and_one_colour():
    shares = []
    for seed in range(200):
        erased = change({"erase": {"share": 1.0, "area": (0.1, 0.3), "ratio": (0.5, 2.0)}}, SMOOTH, seed)
        where = (erased != SMOOTH).any(axis=2)
        rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
        window = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (window == window[0, 0]).all()
        shares.append(window[..., 0].size / where.size)
    assert 0.09 < min(shares) < 0.13 and 0.26 < max(shares) < 0.32


def test_blur_keeps_the_mean_and_lowers_the_variance():
    blurred = change({"blur": {"share": 1.0, "sigma": (1.0, 1.0)}}, PICTURE)
    assert abs(blurred.mean() - PICTURE.mean()) < 3 and blurred.std() < 0.5 * PICTURE.std()


@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_an_operation_without_strength_is_none_and_with_it_does_something(name):
    operation, image = randaugment.OPERATIONS[name], Image.fromarray(SMOOTH)
    if name not in ("autocontrast", "equalize"):  # which have no strength
        np.testing.assert_array_equal(operation(image, 0.0), SMOOTH)
    assert (np.asarray(operation(image, 0.8)) != SMOOTH).any() == (name != "identity")


def test_randaugment_draws_every_operation(monkeypatch):
    seen = []
    spies = {name: lambda image, amount, name=name: seen.append((name, amount)) or image for name in "abc"}
    monkeypatch.setattr(randaugment, "OPERATIONS", spies)
    for seed in range(40):
        change({"randaugment": {"number": 3, "strength": 0.4}}, PICTURE, seed)
    assert len(seen) == 120 and {*seen} == {(name, sign * 0.4) for name in "abc" for sign in (-1, 1)}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"flipp": {}}, "did you mean 'flip'"),
        ({"flip": {"shar": 0.5}}, "did you mean 'share'"),
        ({"flip": {"share": 1.5}}, "augment.image.flip.share is 1.5: write a number from 0 to 1"),
        ({"affine": {"degrees": -3.0}}, "degrees is -3.0"),
        ({"affine": {"scale": 0.5}}, "scale is 0.5: write two numbers above 0"),
        ({"crop": {"scale": (0.9, 0.1)}}, "the smaller first"),
        ({"crop": {"scale": (0.0, 0.1)}}, "above 0"),
        ({"crop": {"scale": ("0.1", "0.2")}}, r"scale is \('0.1', '0.2'\): write two numbers above 0"),
        ({"randaugment": {"strength": 9.0}}, "randaugment.strength is 9.0: write a number from 0 to 1"),
        ({"randaugment": {"number": 1.5}}, "number is 1.5: write a whole number, 0 or more"),
        ({"warp": {"cells": 2.5}}, "cells is 2.5: write a whole number"),
        ({"outline": {"width": -1}}, "width is -1: write a whole number"),
        ({"affine": {"degrees": "10"}}, "degrees is '10': write a number"),
        ({"affine": {"degrees": (10.0,)}}, "write a number"),
        ({"flip": {"share": True}}, "share is True: write a number"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_image_changes(settings)


def test_every_default_is_a_setting_that_fits():
    for name, made in augment_image.TABLE.items():
        parameters = [*inspect.signature(made).parameters.values()][2:]
        make_image_changes({name: {parameter.name: parameter.default for parameter in parameters}})
    make_image_changes({"affine": {"fill": 127.5, "degrees": 10}, "crop": {"scale": [1, 1]}})


def test_a_crop_is_cut_before_the_image_is_resized():
    image = np.zeros((80, 80, 3), np.uint8)
    image[:, ::2] = 255  # stripes that would be grey after shrinking to a quarter
    fit = ImageFit({"crop": {"scale": (1 / 16, 1 / 16), "ratio": (1.0, 1.0)}})
    fitted = fit(image, (20, 20), rng()).values
    assert {*np.unique(fitted)} == {0, 255}


TEXT = {"caption": TextSpec("captions", 1, 16)}
AUGMENT = {"image": {"affine": {"translate": 0.3}, "erase": {}}, "audio": {"gain_db": 12.0}}


def test_a_stream_is_changed_by_seed_and_step_alone_and_an_evaluation_not_at_all():
    source, tokenizer = Scenes("train"), train_tokenizer(["a red ball"] * 3, vocab_size=300)
    signals = {"image": (32, 32), "audio": (4000,)}
    plain, changed = (Recipe(signals, TEXT, tokenizer, augment) for augment in ({}, AUGMENT))
    first, again, other = (
        training_stream({"s": source}, {"s": 1.0}, recipe, rows=7, seed=3)[5].batch.signals
        for recipe in (changed, changed, plain)
    )
    for name in signals:
        np.testing.assert_array_equal(first[name].values, again[name].values)
        assert (first[name].values != other[name].values).any()
    assert evaluation_stream("s", source, plain, rows=7)[0].batch.signals["image"].values.any()


@pytest.mark.parametrize("settings", [{}, {"scale": (0.6, 1.0)}, {"scale": (0.3, 0.9), "ratio": (0.5, 1.6)}])
def test_what_a_crop_leaves_at_least_of_a_square(settings):
    changes, rng = make_image_changes({"crop": settings}), np.random.default_rng(0)
    sides = [min(changes.crop(np.zeros((211, 211, 3), np.uint8), rng).shape[:2]) / 211 for _ in range(4000)]
    assert changes.least - 0.01 < min(sides) < changes.least + 0.05
    assert make_image_changes({}).least == 1


def test_a_large_photograph_is_not_decoded_whole_to_be_cropped(monkeypatch):
    decoded = []

    def decode(data, *, at_least):
        decoded.append(at_least)
        return np.zeros((300, 300, 3), np.uint8)

    monkeypatch.setattr("input_pipeline.fits.decode_image", decode)
    fitted = ImageFit({"crop": {"scale": (0.5, 1.0), "ratio": (0.5, 2.0)}})(b"", (40, 50), np.random.default_rng(0))
    assert decoded == [(80, 100)] and fitted.values.shape == (40, 50, 3)
