"""How else could a training image have looked?

Random changes, drawn from the generator that is passed and from nothing else. A config names those it wants, each with
its settings; they happen in the order of `TABLE`, the crop before the image is resized. Images are uint8 (h w 3) and
stay so.

Flips belong where left and right mean the same: not where there is text, nor where captions speak of sides.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from input_pipeline.names import require_known
from input_pipeline.transforms.randaugment import randaugment
from mmfuse.types import ConfigError

cv2.setNumThreads(0)  # the loader's threads are the parallelism

Picture = UInt8[np.ndarray, "h w 3"]
WHITE = 255
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luminance of ITU-R BT.601
CROP_ATTEMPTS = 10
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a crop, where a config says no other


def random_crop(
    image: Picture,
    rng: np.random.Generator,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> UInt8[np.ndarray, "g v 3"]:
    """Cuts out a share `scale` of the area with an aspect of `ratio` (width / height, log-uniform).

    A crop that does not fit is drawn again; after ten times the largest centred crop of an allowed aspect is taken.
    Source: Szegedy et al. 2015, arXiv 1409.4842; as `RandomResizedCrop` of torchvision draws it.
    """
    height, width = image.shape[:2]
    for _ in range(CROP_ATTEMPTS):
        area, aspect = rng.uniform(*scale) * height * width, math.exp(rng.uniform(*np.log(ratio)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return image[top : top + h, left : left + w]
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    top, left = (height - h) // 2, (width - w) // 2
    return image[top : top + h, left : left + w]


def flip(image: Picture, rng: np.random.Generator, share: float = 0.5) -> Picture:
    """Mirrors left and right in a `share` of cases."""
    return np.ascontiguousarray(image[:, ::-1]) if rng.random() < share else image


def affine(
    image: Picture,
    rng: np.random.Generator,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    stretch: float = 0.0,
    shear: float = 0.0,
    fill: float = WHITE,
) -> Picture:
    """Turns, shears and scales about the centre, and moves.

    Args:
      degrees, shear: at most so many degrees either way.
      translate: at most so large a share of height and width.
      scale: from and to, log-uniform.
      stretch: width and height are further multiplied by at most e^±stretch.
      fill: value of what comes into view.
    """
    height, width = image.shape[:2]
    angle, slant = np.radians(rng.uniform(-1, 1, 2) * (degrees, shear))
    size = np.exp(rng.uniform(*np.log(scale)) + rng.uniform(-stretch, stretch, 2) / 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, np.tan(slant)], [0.0, 1.0]]) @ np.diag(size)
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = center - matrix @ center + rng.uniform(-translate, translate, 2) * (width, height)
    matrix = np.concatenate([matrix, offset[:, None]], axis=1)
    flags, border = cv2.INTER_LINEAR, cv2.BORDER_CONSTANT
    return cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=border, borderValue=(fill,) * 3)


def warp(
    image: Picture, rng: np.random.Generator, share: float = 1.0, strength: float = 0.05, cells: int = 4
) -> Picture:
    """Moves the knots of a grid of `cells`² by N(0, strength · side), and what lies between smoothly with them.

    Source: elastic deformation, Simard et al. 2003, with a coarse grid in the place of a filtered field.
    """
    if rng.random() >= share:
        return image
    height, width = image.shape[:2]
    knots = rng.normal(0.0, strength, (cells + 1, cells + 1, 2)) * (width, height)
    moved = cv2.resize(knots.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns + moved[..., 0], rows + moved[..., 1]
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def jitter(
    image: Picture,
    rng: np.random.Generator,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Picture:
    """Multiplies brightness, contrast and saturation by 1 ± at most so much, and turns the hue by ± a share of a turn.

    Source: Howard 2013, arXiv 1312.5402.
    """
    factors = 1 + rng.uniform(-1, 1, 3) * (brightness, contrast, saturation)
    turn = rng.uniform(-hue, hue)
    pixels = image.astype(np.float32) * np.float32(factors[0])
    pixels = _blend(np.float32((pixels @ GREY).mean()), pixels, factors[1])
    pixels = _to_uint8(_blend((pixels @ GREY)[..., None], pixels, factors[2]))
    if hue:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # 256 hues; the sum wraps
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return pixels


def grey(image: Picture, rng: np.random.Generator, share: float = 0.1) -> Picture:
    """Takes the colour away in a `share` of cases."""
    return np.repeat(_to_uint8(image @ GREY)[..., None], 3, axis=2) if rng.random() < share else image


def shade(image: Picture, rng: np.random.Generator, strength: float = 0.3) -> Picture:
    """Lights the image from a side: 1 − a at one edge, 1 + a at the opposite one, a up to `strength`."""
    height, width = image.shape[:2]
    angle, amount = rng.uniform(0, 2 * np.pi), rng.uniform(0, strength)
    rows, columns = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    slope = np.float32(np.sin(angle)) * rows[:, None] + np.float32(np.cos(angle)) * columns[None]
    return _to_uint8(image * (1 + np.float32(amount) * slope)[..., None])


def outline(image: Picture, rng: np.random.Generator, share: float = 0.2, width: int = 1) -> Picture:
    """Draws dark lines of about `width` pixels where the luminance changes, in a `share` of cases.

    Half of the drawings lose their colours as well, by a random amount.
    """
    if rng.random() >= share:
        return image
    light = _to_uint8(image @ GREY)
    edges = cv2.morphologyEx(light, cv2.MORPH_GRADIENT, np.ones((width + 1, width + 1), np.uint8)).astype(np.float32)
    lines = np.clip(edges * np.float32(rng.uniform(2, 6) / 255), 0, 1)[..., None]
    paper = _blend(np.float32(WHITE), image.astype(np.float32), 1.0 if rng.random() < 0.5 else rng.random())
    return _to_uint8(paper * (1 - lines))


def blur(
    image: Picture, rng: np.random.Generator, share: float = 0.2, sigma: tuple[float, float] = (0.1, 1.5)
) -> Picture:
    """Gaussian, of a standard deviation in pixels from `sigma`."""
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(*sigma)) if rng.random() < share else image


def erase(
    image: Picture,
    rng: np.random.Generator,
    share: float = 0.25,
    area: tuple[float, float] = (0.02, 0.2),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Picture:
    """Paints a rectangle of a random colour over a share `area` of the image. Source: Zhong 2017, arXiv 1708.04896."""
    if rng.random() >= share:
        return image
    height, width = image.shape[:2]
    size, aspect = rng.uniform(*area) * height * width, math.exp(rng.uniform(*np.log(ratio)))
    w, h = min(width, round(math.sqrt(size * aspect))), min(height, round(math.sqrt(size / aspect)))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    image = image.copy()
    image[top : top + h, left : left + w] = rng.integers(0, 256, 3)
    return image


Change = Callable[[Picture, np.random.Generator], Picture]

AFTER_RESIZE: dict[str, Callable[..., np.ndarray]] = {
    "flip": flip,
    "affine": affine,
    "warp": warp,
    "randaugment": randaugment,
    "jitter": jitter,
    "grey": grey,
    "shade": shade,
    "outline": outline,
    "blur": blur,
    "erase": erase,
}
TABLE = {"crop": random_crop, **AFTER_RESIZE}


class ImageChanges(NamedTuple):
    """What happens before an image is resized, if anything does, and what happens after."""

    crop: Callable[..., np.ndarray] | None
    rest: Change
    least: float = 1.0  # share of the sides of a square that is left of it before it is resized


def make_image_changes(settings: Mapping[str, Mapping[str, Any]]) -> ImageChanges:
    """Reads the settings of a config.

    Args:
      settings: name of a change in `TABLE` → its arguments; those that are not named do not happen.

    Raises:
      ConfigError: a change or an argument that is not there, or a value that does not have the form of its default.
    """
    for name, arguments in settings.items():
        _check(name, arguments)
    made = {name: functools.partial(change, **settings[name]) for name, change in TABLE.items() if name in settings}
    crop = made.pop("crop", None)
    return ImageChanges(
        crop,
        lambda image, rng: functools.reduce(lambda image, change: change(image, rng), made.values(), image),
        _least_side(**settings["crop"]) if crop else 1.0,
    )


def _least_side(scale=SCALE, ratio=RATIO):
    return math.sqrt(scale[0] * min(ratio[0], 1 / ratio[1]))


def _check(name, arguments):
    require_known("augmentation of images", name, TABLE)
    parameters = dict(list(inspect.signature(TABLE[name]).parameters.items())[2:])
    for key, value in arguments.items():
        require_known(f"argument of augment.image.{name}", key, parameters)
        most = 1 if key == "share" or (name, key) == ("randaugment", "strength") else math.inf
        if isinstance(parameters[key].default, tuple):
            pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))
            good, form = pair and 0 < value[0] <= value[1], "two numbers above 0, the smaller first"
        elif parameters[key].annotation is int:
            good, form = _is_number(value, int) and value >= 0, "a whole number, 0 or more"
        else:
            good, form = _is_number(value) and 0 <= value <= most, f"a number from 0 to {most}"
        if not good:
            raise ConfigError(f"augment.image.{name}.{key} is {value!r}: write {form}.")


def _is_number(value, kind=int | float):
    return isinstance(value, kind) and not isinstance(value, bool)


def _blend(low, high, share):
    """low + share · (high − low)."""
    return low + np.float32(share) * (high - low)


def _to_uint8(pixels):
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
