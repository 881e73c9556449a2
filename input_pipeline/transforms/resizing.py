"""How does a picture come to its size, as released models are used to?

    the sides, antialiased as Pillow does it ─ the middle
    or as many patches as there are places for, in nearly its own shape

To the level what their own preprocessing does. Our own resizing, which is faster, is in `image.py`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.image import MAX_PIXELS

Picture = UInt8[np.ndarray, "h w 3"]


class Resizing(NamedTuple):
    """From a picture of any size to one of a fixed size.

    Attributes:
      size: the height and width that it is resized to; one number for the shorter side; None: it is left as it is.
      resample: Pillow's number of the filter.
      crop: the height and width of the middle that is kept, zeros around where there is less; None: all of it.
      even: where the middle lies between two pixels, it starts at the even one, as torchvision has it; if not, at the
        first.
    """

    size: int | tuple[int, int] | None
    resample: int = int(Image.Resampling.BICUBIC)
    crop: tuple[int, int] | None = None
    even: bool = False

    @property
    def extent(self) -> tuple[int, int] | None:
        """Height and width of what comes out; None: it depends on the picture."""
        return self.crop or (None if isinstance(self.size, int) else self.size)

    def __call__(self, image: Picture) -> UInt8[np.ndarray, "g v 3"]:
        """The picture, resized and cut.

        Raises:
          BadRecord: its shorter side would come to its size, and the longer one to more than memory should hold.
        """
        if self.size is not None:
            image = resample(image, *self._sides(*image.shape[:2]), self.resample)
        return image if self.crop is None else _middle(image, self.crop, self.even)

    def _sides(self, height, width):
        if not isinstance(self.size, int):
            return self.size
        short, long = min(height, width), max(height, width)
        other = int(self.size * long / short)
        if other * self.size > MAX_PIXELS:
            raise BadRecord("too long a picture")
        return (other, self.size) if width <= height else (self.size, other)


class GridResizing(NamedTuple):
    """From a picture of any size to one of whole patches that keeps its shape: of NaFlex.

    Reference: Tschannen et al. 2025, arXiv 2502.14786.

    Attributes:
      patch: side of a patch in pixels.
      places: how many patches there are at most.
      resample: Pillow's number of the filter.
    """

    patch: int
    places: int
    resample: int = int(Image.Resampling.BILINEAR)

    def __call__(self, image: Picture) -> UInt8[np.ndarray, "g v 3"]:
        """The picture, resized."""
        rows, columns = self.grid(*image.shape[:2])
        return resample(image, rows * self.patch, columns * self.patch, self.resample)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns: the largest grid with the picture's shape, by halving an interval of scales as the
        reference does."""

        def grid(scale):
            rows, columns = (max(1, math.ceil(extent * scale / self.patch)) for extent in (height, width))
            return rows, columns

        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            scale = (low + high) / 2
            low, high = (scale, high) if math.prod(grid(scale)) <= self.places else (low, scale)
        return grid(low)


def resample(image: Picture, height: int, width: int, how: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Resizes by Pillow's filter of this number, which is as wide as is needed against aliasing."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(how)))


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
