"""How does a picture of any size become what a released model sees?

    integers ─ resized, antialiased as Pillow does it ─ the middle, or patches ─ (value − center) / scale

Numbers are of levels 0…255, as our towers take them. Resizing is in `input_pipeline/transforms/resizing.py`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from input_pipeline.transforms.resizing import GridResizing, Resizing


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

    Attributes:
      patch, places, resample: see `GridResizing`; there are P places, and what is not filled is padding.
      center, scale: see `Preprocessor`.
    """

    patch: int
    places: int
    resample: int
    center: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def resizing(self) -> GridResizing:
        """What is done to the integers."""
        return GridResizing(self.patch, self.places, self.resample)

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[Float[np.ndarray, "P phwc"], Int[np.ndarray, "P"], Int[np.ndarray, "2"]]:
        """Patches row by row, their mask, and rows and columns of the grid, as `embed_patches` takes them."""
        pixels = _normalised(self.resizing(image), self)
        rows, columns = shape = [extent // self.patch for extent in pixels.shape[:2]]
        cut = pixels.reshape(rows, self.patch, columns, self.patch, -1).swapaxes(1, 2).reshape(rows * columns, -1)
        patches = np.zeros((self.places, cut.shape[1]), np.float32)
        patches[: len(cut)] = cut
        return patches, (np.arange(self.places) < len(cut)).astype(np.int32), np.array(shape, np.int32)


def _normalised(image, settings):
    center, scale = (np.array(numbers, np.float32) for numbers in (settings.center, settings.scale))
    return (image.astype(np.float32) - center) / scale
