"""Does the picture show what the truth says?"""

import random

import numpy as np
import pytest

from input_pipeline.sources.scenes.image import PALETTE, render
from input_pipeline.sources.scenes.world import BACKGROUNDS, TEXTURES, Light, Scene, sample_scene

DAYLIGHT = Light(brightness=1.0, slope=0.0, angle=0.0)


@pytest.fixture(scope="module")
def rendered():
    scenes = [sample_scene("train", 64, random.Random(index)) for index in range(200)]
    return [(scene, *render(scene)) for scene in scenes]


def test_colour_of_the_masked_pixels_is_the_object_s(rendered):
    names, palette = list(PALETTE), np.array(list(PALETTE.values()))
    right: dict[str, list[bool]] = {texture: [] for texture in TEXTURES}
    for scene, picture, masks in rendered:
        for thing, mask in zip(scene.objects, masks):
            middle = np.median(picture[mask], axis=0)
            nearest = names[np.square(palette - middle).sum(axis=1).argmin()]
            right[thing.texture].append(nearest == thing.colour)
    share = {texture: float(np.mean(hits)) for texture, hits in right.items()}
    # The second tone of a stripe may prevail on a small object.
    assert share["solid"] >= 0.99 and min(share["striped"], share["dotted"]) >= 0.97, share


def test_masks_fill_their_boxes_and_are_disjoint(rendered):
    for scene, picture, masks in rendered:
        assert picture.shape == (64, 64, 3)
        assert masks.shape == (len(scene.objects), 64, 64)
        assert masks.sum(axis=0).max() == 1
        for thing, mask in zip(scene.objects, masks):
            rows, columns = np.nonzero(mask)
            found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(found, thing.box, atol=2.5)


def test_at_least_four_fifths_of_every_object_are_visible_and_readable(rendered):
    for scene, _, masks in rendered:
        for thing, mask in zip(scene.objects, masks):
            alone = render(scene._replace(objects=(thing,)))[1]
            assert mask.sum() >= 0.8 * alone.sum()
            assert mask.sum() >= 40


def test_the_right_one_of_two_overlapping_objects_is_in_front():
    scene = next(s for s in (sample_scene("train", 64, random.Random(i)) for i in range(99)) if len(s.objects) == 2)
    left, right = scene.objects
    over = left._replace(shape=right.shape, centre=right.centre, radius=right.radius, box=right.box)
    picture, masks = render(Scene("train", 64, (over, right._replace(texture="solid")), "grey", DAYLIGHT))
    assert not masks[0].any()
    assert (picture[masks[1]] == PALETTE[right.colour]).all(axis=1).mean() > 0.6


def test_textures_differ_and_keep_two_tones(rendered):
    big = next(thing for scene, *_ in rendered for thing in scene.objects if thing.size == "large")
    looks = {}
    for texture in TEXTURES:
        picture, masks = render(Scene("train", 64, (big._replace(texture=texture),), "grey", DAYLIGHT))
        looks[texture] = picture[masks[0]].astype(float)
    spread = {texture: values.std(axis=0).max() for texture, values in looks.items()}
    assert spread["striped"] > 2 * spread["solid"] and spread["dotted"] > 2 * spread["solid"]
    assert np.abs(looks["striped"] - looks["dotted"]).mean() > 10


def test_light_rises_towards_its_angle():
    down = Scene("train", 61, (), "grey", Light(brightness=0.9, slope=0.1, angle=np.pi / 2))
    picture = render(down)[0].astype(float)
    assert np.diff(picture[:, 30, 0]).min() >= 0
    np.testing.assert_allclose(picture[-1] / picture[0], 1.1 / 0.9, rtol=0.03)
    np.testing.assert_allclose(picture[30], np.broadcast_to(0.9 * np.array([140, 140, 145]), (61, 3)), atol=1)


def test_backgrounds_look_different():
    looks = {render(Scene("train", 37, (), name, DAYLIGHT))[0].tobytes() for name in BACKGROUNDS}
    assert len(looks) == len(BACKGROUNDS)
