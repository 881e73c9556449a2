"""What is in a scene?

One to five objects: shape × colour × size × texture, placed with little overlap on a square canvas, before a plain
background, in a light. A scene is a pure function of its generator; pictures, sounds and texts are made elsewhere.

No two objects of a scene share both shape and colour, so "the red circle" is one object; half of the objects take the
shape or the colour of another one, so that either alone often is not. Objects stand in order of x, and their x differ
by `MARGIN` at least: an object's index is its place from the left.

One (shape, colour) pair in four, two of each shape and of each colour, is held out: `test_systematic` has these pairs
and no others, the other splits have none of them.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from input_pipeline.sources.scenes.shapes import EXTENTS

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = {"small": 0.09, "medium": 0.125, "large": 0.168}  # radius, in canvases
TEXTURES = ("solid", "striped", "dotted")
VALUES = {"size": tuple(SIZES), "texture": TEXTURES, "colour": COLOURS, "shape": SHAPES}  # in the order of speech
BACKGROUNDS = ("white", "grey", "black", "beige")
MOST_OBJECTS = 5

MARGIN = 0.07  # canvases; closer centres are not said to be left of or above one another
_SPACING = 1.0  # centres are at least this share of the sum of the radii apart: at most corners overlap
_TRIES = 20  # for a free spot, before the layout begins again

Pair = tuple[str, str]  # shape, colour

_ALL = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
HELD_OUT: tuple[Pair, ...] = tuple(p for p in _ALL if (SHAPES.index(p[0]) + COLOURS.index(p[1])) % 4 == 0)
_SEEN = tuple(pair for pair in _ALL if pair not in HELD_OUT)
PAIRS: dict[str, tuple[Pair, ...]] = {
    "train": _SEEN,
    "validation": _SEEN,
    "test": _SEEN,
    "test_systematic": HELD_OUT,
}


class SceneObject(NamedTuple):
    """One object; `centre` (x, y), `radius` and `box` (x0, y0, x1, y1) in pixels. The box ignores occlusion."""

    shape: str
    colour: str
    size: str
    texture: str
    centre: tuple[float, float]
    radius: float
    box: tuple[float, float, float, float]


class Light(NamedTuple):
    """Brightness at the middle; `slope` is its relative rise from there to the edge that lies at `angle` (radians)."""

    brightness: float
    slope: float
    angle: float


class Scene(NamedTuple):
    """Objects from left to right, the background's name, and the light; positions in pixels of `canvas`."""

    split: str
    canvas: int
    objects: tuple[SceneObject, ...]
    background: str
    light: Light


def sample_scene(split: str, canvas: int, rng: random.Random, number: tuple[int, int] = (1, MOST_OBJECTS)) -> Scene:
    """Returns the scene that `rng` leads to, with a `number` of objects between the two.

    The canvas (pixels) scales it and changes nothing else.
    """
    pairs = _sample_pairs(PAIRS[split], rng.randint(*number), rng)
    sizes = [rng.choice(tuple(SIZES)) for _ in pairs]
    textures = [rng.choice(TEXTURES) for _ in pairs]
    radii = [SIZES[size] * rng.uniform(0.97, 1.03) for size in sizes]
    extents = [EXTENTS[shape] for shape, _ in pairs]
    objects = [
        _at_scale(canvas, pair, size, texture, centre, radius)
        for pair, size, texture, centre, radius in zip(pairs, sizes, textures, _place(radii, extents, rng), radii)
    ]
    objects.sort(key=lambda thing: thing.centre[0])
    light = Light(rng.uniform(0.85, 1.05), rng.uniform(0.0, 0.12), rng.uniform(0.0, math.tau))
    return Scene(split, canvas, tuple(objects), rng.choice(BACKGROUNDS), light)


def alter(scene: Scene, rng: random.Random) -> Scene:
    """Returns a near miss: the same scene, but for one attribute of one object, which has another value.

    Its shape and colour are still a pair of the split, and that of no other object. A size keeps the centre.
    """
    index = rng.randrange(len(scene.objects))
    thing, taken = scene.objects[index], {one[:2] for one in scene.objects}
    free = {pair for pair in PAIRS[scene.split] if pair not in taken} | {thing[:2]}
    told: dict[str, str] = {name: getattr(thing, name) for name in VALUES}
    others = [[told | {name: value} for value in VALUES[name] if value != told[name]] for name in VALUES]
    fit = [[other for other in altered if (other["shape"], other["colour"]) in free] for altered in others]
    other = rng.choice(rng.choice([altered for altered in fit if altered]))
    pair, radius = (other["shape"], other["colour"]), thing.radius * SIZES[other["size"]] / SIZES[thing.size]
    changed = _at_scale(1, pair, other["size"], other["texture"], thing.centre, radius)  # pixels already
    return scene._replace(objects=(*scene.objects[:index], changed, *scene.objects[index + 1 :]))


def _sample_pairs(allowed: Sequence[Pair], count: int, rng: random.Random) -> list[Pair]:
    """Returns distinct pairs; each but the first shares shape or colour with an earlier one, half of the time."""
    pairs = [rng.choice(allowed)]
    while len(pairs) < count:
        shape, colour = rng.choice(pairs)
        kin = [p for p in allowed if p not in pairs and (p[0] == shape or p[1] == colour)]
        pairs.append(rng.choice(kin if kin and rng.random() < 0.5 else [p for p in allowed if p not in pairs]))
    return pairs


def _place(
    radii: Sequence[float], extents: Sequence[tuple[float, ...]], rng: random.Random
) -> list[tuple[float, float]]:
    """Returns a centre for each object, in canvases; begins again until all of them have found a place."""
    while True:
        centres: list[tuple[float, float]] = []
        for radius, extent in zip(radii, extents):
            others = [(x, y, (_SPACING * (radius + other)) ** 2) for (x, y), other in zip(centres, radii)]
            spot = _free_spot(radius, extent, others, rng)
            if spot is None:
                break
            centres.append(spot)
        else:
            return centres


def _free_spot(
    radius: float, extent: tuple[float, ...], others: Sequence[tuple[float, float, float]], rng: random.Random
) -> tuple[float, float] | None:
    """Returns a centre that keeps its distance from `others`: (x, y, least squared distance)."""
    left, top, right, bottom = (radius * side for side in extent)
    for _ in range(_TRIES):
        x = rng.uniform(0.01 - left, 0.99 - right)
        y = rng.uniform(0.01 - top, 0.99 - bottom)
        if all(abs(x - u) >= MARGIN and (x - u) ** 2 + (y - v) ** 2 >= least for u, v, least in others):
            return x, y
    return None


def _at_scale(
    canvas: int, pair: Pair, size: str, texture: str, centre: tuple[float, float], radius: float
) -> SceneObject:
    x, y, r = centre[0] * canvas, centre[1] * canvas, radius * canvas
    left, top, right, bottom = EXTENTS[pair[0]]
    return SceneObject(*pair, size, texture, (x, y), r, (x + left * r, y + top * r, x + right * r, y + bottom * r))
