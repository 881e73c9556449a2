"""Are scenes laid out as `world.py` promises?"""

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from input_pipeline.sources.scenes.shapes import EXTENTS, OUTLINES, coverage
from input_pipeline.sources.scenes.world import (
    COLOURS,
    HELD_OUT,
    MARGIN,
    PAIRS,
    SHAPES,
    SIZES,
    TEXTURES,
    VALUES,
    alter,
    sample_scene,
)

SPLITS = ("train", "validation", "test", "test_systematic")


def scenes(split, count=400, canvas=53):
    return [sample_scene(split, canvas, random.Random(f"{split} {index}")) for index in range(count)]


def pairs(split):
    return {(thing.shape, thing.colour) for scene in scenes(split) for thing in scene.objects}


def test_held_out_pairs_occur_in_the_systematic_split_and_only_there():
    assert len(HELD_OUT) == 16
    assert pairs("test_systematic") == set(HELD_OUT)
    for split in SPLITS[:3]:
        assert pairs(split) == set(itertools.product(SHAPES, COLOURS)) - set(HELD_OUT)


def test_every_shape_and_colour_is_seen_and_held_out_equally_often():
    for position, names in enumerate((SHAPES, COLOURS)):
        assert Counter(pair[position] for pair in HELD_OUT) == dict.fromkeys(names, 2)
        assert Counter(pair[position] for pair in PAIRS["train"]) == dict.fromkeys(names, 6)


@pytest.mark.parametrize("split", ["train", "test_systematic"])
def test_layout_keeps_its_promises(split):
    for scene in scenes(split):
        assert len({(thing.shape, thing.colour) for thing in scene.objects}) == len(scene.objects)
        for left, right in itertools.pairwise(scene.objects):
            assert right.centre[0] - left.centre[0] >= MARGIN * scene.canvas
        for thing in scene.objects:
            assert min(thing.box) >= 0 and max(thing.box) <= scene.canvas


def test_attributes_are_drawn_evenly():
    many = scenes("train", 1500)
    things = [thing for scene in many for thing in scene.objects]
    counts = Counter(len(scene.objects) for scene in many)
    assert all(abs(counts[number] / 1500 - 0.2) < 0.04 for number in range(1, 6))
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("size", tuple(SIZES)), ("texture", TEXTURES)):
        shares = Counter(getattr(thing, name) for thing in things)
        assert all(abs(shares[value] / len(things) * len(values) - 1) < 0.15 for value in values), shares


def test_half_of_the_objects_share_shape_or_colour_with_another():
    several = [scene.objects for scene in scenes("train") if len(scene.objects) > 1]
    kin = sum(
        any(a.shape == b.shape or a.colour == b.colour for a, b in itertools.combinations(objects, 2))
        for objects in several
    )
    assert kin / len(several) > 0.6


def test_canvas_only_scales():
    small, large = (sample_scene("test", canvas, random.Random(7)) for canvas in (37, 74))
    for one, two in zip(small.objects, large.objects):
        assert one[:4] == two[:4]
        np.testing.assert_allclose(2 * np.array(one.box), two.box)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_sums_to_the_area_and_stays_in_the_box(shape):
    x, y = OUTLINES[shape].T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2  # the shoelace formula
    radius, centre = 7.3, (23.4, 19.7)
    share = coverage(shape, centre, radius, (0, 43), (0, 47))
    assert share.shape == (43, 47)
    np.testing.assert_allclose(share.sum(), area * radius**2, rtol=0.02)
    assert 1.7 <= area <= 2.7
    rows, columns = np.nonzero(share)
    box = np.array(EXTENTS[shape]) * radius + np.array(centre * 2)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(found, box, atol=1.05)


def test_coverage_is_that_of_a_disc():
    radius, centre = 9.1, (15.2, 14.6)
    fine = (np.arange(31 * 20) + 0.5) / 20
    inside = np.hypot(fine - centre[0], fine[:, None] - centre[1]) < 0.92 * radius
    oracle = inside.reshape(31, 20, 31, 20).mean(axis=(1, 3))
    np.testing.assert_allclose(coverage("circle", centre, radius, (0, 31), (0, 31)), oracle, atol=0.06)


@pytest.mark.parametrize("split", SPLITS)
def test_a_near_miss_differs_in_one_attribute_of_one_object(split):
    changed = Counter()
    for index, scene in enumerate(scenes(split, 200)):
        other = alter(scene, random.Random(index))
        assert (other.background, other.light, other.canvas) == (scene.background, scene.light, scene.canvas)
        differing = [pair for pair in zip(scene.objects, other.objects, strict=True) if pair[0] != pair[1]]
        ((before, after),) = differing
        (name,) = [name for name in VALUES if getattr(before, name) != getattr(after, name)]
        changed[name] += 1
        assert after.centre == before.centre
        assert after.radius / before.radius == pytest.approx(SIZES[after.size] / SIZES[before.size])
        left, top, _, _ = EXTENTS[after.shape]
        x, y = after.centre
        assert after.box[:2] == pytest.approx((x + left * after.radius, y + top * after.radius))
        assert after[:2] in PAIRS[split] and len({thing[:2] for thing in other.objects}) == len(other.objects)
    assert set(changed) == set(VALUES) and min(changed.values()) > 15
