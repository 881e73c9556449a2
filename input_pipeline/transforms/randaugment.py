"""Which fourteen operations does RandAugment draw from, and how far does each go?

Pillow does them. What comes into view is white. Source: Cubuk et al. 2019, arXiv 1909.13719.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

WHITE = (255, 255, 255)

# The amount is in [−1, 1], of the ranges in the paper's appendix.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, amount: image,
    "autocontrast": lambda image, amount: ImageOps.autocontrast(image),
    "equalize": lambda image, amount: ImageOps.equalize(image),
    "rotate": lambda image, amount: image.rotate(30 * amount, fillcolor=WHITE),
    "solarize": lambda image, amount: ImageOps.solarize(image, round(256 * (1 - abs(amount)))),
    "posterize": lambda image, amount: ImageOps.posterize(image, 8 - round(4 * abs(amount))),
    "colour": lambda image, amount: ImageEnhance.Color(image).enhance(1 + 0.9 * amount),
    "contrast": lambda image, amount: ImageEnhance.Contrast(image).enhance(1 + 0.9 * amount),
    "brightness": lambda image, amount: ImageEnhance.Brightness(image).enhance(1 + 0.9 * amount),
    "sharpness": lambda image, amount: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * amount),
    "shear_x": lambda image, amount: _pillow_affine(image, 1, 0.3 * amount, 0, 0, 1, 0),
    "shear_y": lambda image, amount: _pillow_affine(image, 1, 0, 0, 0.3 * amount, 1, 0),
    "translate_x": lambda image, amount: _pillow_affine(image, 1, 0, 0.45 * amount * image.width, 0, 1, 0),
    "translate_y": lambda image, amount: _pillow_affine(image, 1, 0, 0, 0, 1, 0.45 * amount * image.height),
}


def randaugment(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, number: int = 2, strength: float = 0.3
) -> UInt8[np.ndarray, "h w 3"]:
    """Applies `number` operations of the table, each by ±`strength` of its range."""
    drawn = Image.fromarray(image)
    for name in rng.choice(list(OPERATIONS), number):
        drawn = OPERATIONS[name](drawn, float(rng.choice((-strength, strength))))
    return np.asarray(drawn)


def _pillow_affine(image, *coefficients):
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=WHITE)
