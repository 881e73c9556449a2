"""What does a scene look like?

Painting from the left to the right, so that of two overlapping objects the right one is in front: background, objects
with anti-aliased edges, then the light on everything. Stripes and dots are a darker or a lighter tone of the object's
own colour.
"""

import functools
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8

from input_pipeline.sources.scenes.shapes import coverage
from input_pipeline.sources.scenes.world import Light, Scene

# Seen in full light. Far enough apart to stay the nearest of their own kind at every brightness that `world` draws.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 120, 0),
    "yellow": (240, 220, 50),
    "green": (30, 150, 50),
    "cyan": (50, 205, 215),
    "blue": (35, 70, 220),
    "purple": (125, 40, 165),
    "pink": (250, 140, 200),
}
GROUND: dict[str, tuple[int, int, int]] = {
    "white": (240, 240, 240),
    "grey": (140, 140, 145),
    "black": (28, 28, 32),
    "beige": (215, 198, 165),
}
# Stripes and dots: the colours that are dark themselves carry light ones, which stay visible before a black background.
_LIGHT_INK = {"red", "green", "blue", "purple"}


def render(scene: Scene) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "n h w"]]:
    """Returns the picture, and for each object the mask of its visible pixels (those it covers more than half)."""
    canvas = scene.canvas
    picture = np.empty((canvas, canvas, 3), np.float32)
    picture[:] = GROUND[scene.background]
    masks = np.zeros((len(scene.objects), canvas, canvas), bool)
    for index, thing in enumerate(scene.objects):
        (y0, y1), (x0, x1) = _window(thing.box[1::2], canvas), _window(thing.box[::2], canvas)
        alpha = coverage(thing.shape, thing.centre, thing.radius, (y0, y1), (x0, x1))
        patch = picture[y0:y1, x0:x1]
        left, top = (canvas // 2 - round(middle) for middle in thing.centre)
        surface = _surface(thing.colour, thing.texture, canvas)[y0 + top : y1 + top, x0 + left : x1 + left]
        patch += alpha[:, :, None] * (surface - patch)
        solid = alpha > 0.5
        masks[:index, y0:y1, x0:x1] &= ~solid
        masks[index, y0:y1, x0:x1] = solid
    picture *= _illumination(scene.light, canvas)[:, :, None]
    return np.rint(picture.clip(0, 255)).astype(np.uint8), masks


def _window(side: tuple[float, ...], canvas: int) -> tuple[int, int]:
    return max(math.floor(side[0]), 0), min(math.ceil(side[1]), canvas)


@functools.cache
def _surface(colour: str, texture: str, canvas: int) -> Float[np.ndarray, "h w 3"]:
    """Returns a canvas full of one colour and texture, from whose middle objects are cut out."""
    y, x = (np.mgrid[:canvas, :canvas].astype(np.float32) - canvas // 2) * (64 / canvas)
    ink = {
        "solid": np.zeros_like(x),
        "striped": _edge(np.sin(2 * np.pi * (x + y) / 5.66) - 0.5),
        "dotted": _edge(np.cos(2 * np.pi * x / 4) + np.cos(2 * np.pi * y / 4) - 0.7),
    }[texture]
    base = np.array(PALETTE[colour], np.float32)
    tone = 0.55 * base + (110 if colour in _LIGHT_INK else 0)
    return base + ink[:, :, None] * (tone - base)


def _edge(height: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return (height * 1.5 + 0.5).clip(0, 1)


def _illumination(light: Light, canvas: int) -> Float[np.ndarray, "h w"]:
    axis = (np.arange(canvas, dtype=np.float32) + 0.5) * np.float32(2 / canvas) - 1
    across, down = light.slope * math.cos(light.angle), light.slope * math.sin(light.angle)
    return np.float32(light.brightness) * (1 + np.float32(across) * axis + np.float32(down) * axis[:, None])
