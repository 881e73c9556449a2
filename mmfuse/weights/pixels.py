"""How does a picture of any size become what a released model sees?

    integers ─ resized, antialiased as Pillow does it ─ the middle, or patches ─ (value − center) / scale

Numbers are of levels 0…255, as our towers take them.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image


class Preprocessor(NamedTuple):
    """From a picture of any size to normalised pixels.

    Attributes:
      size: the height and width that it is resized to; one number for the shorter side; None: it is left as it is.
      resample: Pillow's number of the filter.
      crop: the height and width of the middle that is kept, zeros around where there is less; None: all of it.
      center, scale: of each channel.
      even: where the middle lies between two pixels, it starts at the even one, as torchvision has it; if not, at the
        first.
    """

    size: int | tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None
    center: tuple[float, ...]
    scale: tuple[float, ...]
    even: bool = False

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "H W 3"]:
        """Normalised pixels, as `embed_image` takes them."""
        if self.size is not None:
            image = _resized(image, self._extent(*image.shape[:2]), self.resample)
        if self.crop is not None:
            image = _middle(image, self.crop, self.even)
        return _normalised(image, self)

    def _extent(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size or (height, width)
        short, long = min(height, width), max(height, width)
        other = int(self.size * long / short)
        return (other, self.size) if width <= height else (self.size, other)


class FlexiblePreprocessor(NamedTuple):
    """From a picture of any size to normalised patches: of NaFlex, which keeps the picture's shape.

    Reference: Tschannen et al. 2025, arXiv 2502.14786.

    Attributes:
      patch: side of a patch in pixels.
      places: how many patches there are at most, P; what is not filled is padding.
      resample, center, scale: see `Preprocessor`.
    """

    patch: int
    places: int
    resample: int
    center: tuple[float, ...]
    scale: tuple[float, ...]

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[Float[np.ndarray, "P phwc"], Int[np.ndarray, "P"], Int[np.ndarray, "2"]]:
        """Patches row by row, their mask, and rows and columns of the grid, as `embed_patches` takes them."""
        rows, columns = shape = self._grid(*image.shape[:2])
        pixels = _normalised(_resized(image, (rows * self.patch, columns * self.patch), self.resample), self)
        cut = pixels.reshape(rows, self.patch, columns, self.patch, -1).swapaxes(1, 2).reshape(rows * columns, -1)
        patches = np.zeros((self.places, cut.shape[1]), np.float32)
        patches[: len(cut)] = cut
        return patches, (np.arange(self.places) < len(cut)).astype(np.int32), np.array(shape, np.int32)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """The largest grid with the picture's shape, by halving an interval of scales as the reference does."""

        def grid(scale):
            rows, columns = (max(1, math.ceil(extent * scale / self.patch)) for extent in (height, width))
            return rows, columns

        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            scale = (low + high) / 2
            low, high = (scale, high) if math.prod(grid(scale)) <= self.places else (low, scale)
        return grid(low)


def _resized(image, extent, resample):
    height, width = extent
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(resample)))


def _normalised(image, settings):
    center, scale = (np.array(numbers, np.float32) for numbers in (settings.center, settings.scale))
    return (image.astype(np.float32) - center) / scale


def _middle(image, crop, even):
    """The middle of a picture; what it lacks is zero, one row more above than below."""
    canvas = np.zeros((*crop, image.shape[2]), image.dtype)
    places = [_overlap(extent, wanted, even) for extent, wanted in zip(image.shape, crop)]
    (to_rows, rows), (to_columns, columns) = places
    canvas[to_rows, to_columns] = image[rows, columns]
    return canvas


def _overlap(extent, wanted, even):
    start = round((extent - wanted) / 2) if even else (extent - wanted) // 2
    if start >= 0:
        return slice(0, wanted), slice(start, start + wanted)
    return slice(-start, extent - start), slice(None)
