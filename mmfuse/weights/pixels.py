"""How does a picture of any size become what a released model sees?

    integers ─ resized, antialiased as Pillow does it ─ the middle, or patches ─ (value − center) / scale

Numbers are of levels 0…255, as our towers take them. Resizing is in `input_pipeline/transforms/resizing.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from input_pipeline.transforms.resizing import Resizing, resample


class Preprocessor(NamedTuple):
    """From a picture of any size to normalised pixels.

    Attributes:
      size, resample, crop, even: see `Resizing`.
      center, scale: of each channel.
    """

    size: int | tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None
    center: tuple[float, ...]
    scale: tuple[float, ...]
    even: bool = False

    @property
    def resizing(self) -> Resizing:
        """What is done to the integers."""
        return Resizing(self.size, self.resample, self.crop, self.even)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "H W 3"]:
        """Normalised pixels, as `embed_image` takes them."""
        return _normalised(self.resizing(image), self)


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
        pixels = _normalised(resample(image, rows * self.patch, columns * self.patch, self.resample), self)
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


def _normalised(image, settings):
    center, scale = (np.array(numbers, np.float32) for numbers in (settings.center, settings.scale))
    return (image.astype(np.float32) - center) / scale
