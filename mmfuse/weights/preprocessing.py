"""What does a released model want to be done to a picture before it sees it?

    of one size         resize (Pillow, antialiased) ─ crop the middle ─ (value − center) / scale
    of its own shape    resize to the largest grid of so many patches ─ (value − center) / scale ─ cut and padded

As `preprocessor_config.json` says. Pictures are RGB with 8 bits (`decode_image` makes them); texts are in `texts.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

from mmfuse.types import CheckpointError
from mmfuse.weights.tensors import read_json, understanding

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # since transformers 5: holds the same under "image_processor"
PROCESSORS = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor", "siglip2": "Siglip2ImageProcessor"}
RGB = 3  # channels of a picture that is read
FACTOR = 1 / 255  # by which pixels are multiplied before their mean is taken off


def as_levels(numbers: Iterable[float | int], factor: float | int = FACTOR) -> tuple[float, ...]:
    """What holds for pixels times `factor`, for levels 0…255, as our towers take it.

    Rounded, so that what is written comes back: 1e-6 of 255 levels is far below a level.
    """
    return tuple(round(number / factor, 6) for number in numbers)


def as_shares(levels: Iterable[float | int]) -> list[float]:
    """What holds for levels 0…255, for pixels of 0…1."""
    return [round(level * FACTOR, 9) for level in levels]


# What CLIP was trained with.
OPENAI_PIXELS = {
    "center": as_levels((0.48145466, 0.4578275, 0.40821073)),
    "scale": as_levels((0.26862954, 0.26130258, 0.27577711)),
}


class Preprocessor(NamedTuple):
    """From a picture of any size to normalised pixels.

    Attributes:
      size: the height and width that it is resized to; one number for the shorter side; None: it is left as it is.
      resample: Pillow's number of the filter.
      crop: the height and width of the middle that is kept, zeros around where there is less; None: all of it.
      center, scale: of each channel.
    """

    size: int | tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None
    center: tuple[float, ...]
    scale: tuple[float, ...]

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "H W 3"]:
        """Normalised pixels, as `embed_image` takes them."""
        if self.size is not None:
            image = _resized(image, self._extent(*image.shape[:2]), self.resample)
        if self.crop is not None:
            image = _middle(image, self.crop)
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


def load_preprocessor(folder: str | Path) -> Preprocessor | FlexiblePreprocessor:
    """Reads `preprocessor_config.json`, or this part of `processor_config.json`.

    Raises:
      CheckpointError: it is missing, or does not say what is needed.
    """
    path, config = _settings(Path(folder))
    if config is None:
        raise CheckpointError(f"{path} is missing: copy the whole folder.")
    with understanding(path):
        resizes = config.get("do_resize", True)
        if "max_num_patches" in config:
            if not resizes:
                raise CheckpointError(f"{path}: do_resize is false, and pictures of any size would not fill patches.")
            resample = int(config.get("resample", Image.Resampling.BILINEAR))
            return FlexiblePreprocessor(
                config["patch_size"], config["max_num_patches"], resample, **_pixels(config, RGB)
            )
        return Preprocessor(
            _size(config["size"]) if resizes else None,
            int(config.get("resample", Image.Resampling.BICUBIC)),
            _pair(config["crop_size"]) if config.get("do_center_crop", False) else None,
            **_pixels(config, RGB),
        )


def load_pixels(folder: Path, channels: int) -> dict[str, tuple[float, ...]]:
    """What a tower has to know of it: `center` and `scale` of each channel, of values 0…255; {} where it is missing.

    Raises:
      CheckpointError: it is not of so many channels.
    """
    path, config = _settings(folder)
    with understanding(path):
        return {} if config is None else _pixels(config, channels)


def _settings(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    if (folder / PROCESSOR).is_file():
        part = read_json(folder / PROCESSOR).get("image_processor")
        if isinstance(part, dict):
            return folder / PROCESSOR, part
    path = folder / PREPROCESSOR
    return path, read_json(path) if path.is_file() else None


def _pixels(config, channels):
    factor = config.get("rescale_factor", FACTOR) if config.get("do_rescale", True) else 1.0
    given = config if config.get("do_normalize", True) else {"image_mean": 0.0, "image_std": 1.0}
    mean, std = (each(name, given[name], channels) for name in ("image_mean", "image_std"))
    if min(std) <= 0:
        raise ValueError(f"image_std is {std}: write numbers above 0")
    return {"center": as_levels(mean, factor), "scale": as_levels(std, factor)}


def preprocessor_config(tower: ConfigDict, kind: str) -> dict[str, Any]:
    """What `load_preprocessor` reads, for an image tower.

    Args:
      tower: its config.
      kind: "clip": the shorter side is resized and the middle kept; "siglip": the whole picture is resized; "siglip2":
        to a grid of patches.
    """
    (height, width), channels = tower.image, tower.channels
    extent = {"height": height, "width": width}
    places = math.prod(size // patch for size, patch in zip(tower.image, tower.patch))
    resizes = {
        "clip": {"size": {"shortest_edge": max(height, width)}, "do_center_crop": True, "crop_size": extent},
        "siglip": {"size": extent},
        "siglip2": {"patch_size": tower.patch[0], "max_num_patches": places},
    }
    return {
        "image_processor_type": PROCESSORS[kind],
        "do_resize": True,
        **resizes[kind],
        "resample": int(Image.Resampling.BILINEAR if kind == "siglip2" else Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": FACTOR,
        "do_normalize": True,
        "image_mean": as_shares(each("center", tower.center, channels)),
        "image_std": as_shares(each("scale", tower.scale, channels)),
        "do_convert_rgb": True,
    }


def each(name: str, number: float | int | Sequence[float | int], channels: int) -> tuple[float | int, ...]:
    """One number for each channel. Raises ValueError, which names the setting, where there are more or fewer."""
    numbers = tuple(number) if isinstance(number, Sequence) else (number,) * channels
    if len(numbers) != channels:
        raise ValueError(f"{name} is {list(numbers)}, and there are {channels} channels: write a number for each")
    return numbers


def _size(size: Any) -> int | tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["shortest_edge"]) if "shortest_edge" in size else _pair(size)
    return int(size)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size["height"]), int(size["width"])) if isinstance(size, Mapping) else (int(size), int(size))


def _resized(image, extent, resample):
    height, width = extent
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(resample)))


def _normalised(image, settings):
    center, scale = (np.array(numbers, np.float32) for numbers in (settings.center, settings.scale))
    return (image.astype(np.float32) - center) / scale


def _middle(image, crop):
    """The middle of a picture; what it lacks is zero, one row more above than below."""
    canvas = np.zeros((*crop, image.shape[2]), image.dtype)
    places = [_overlap(extent, wanted) for extent, wanted in zip(image.shape, crop)]
    (to_rows, rows), (to_columns, columns) = places
    canvas[to_rows, to_columns] = image[rows, columns]
    return canvas


def _overlap(extent, wanted):
    start = (extent - wanted) // 2
    if start >= 0:
        return slice(0, wanted), slice(start, start + wanted)
    return slice(-start, extent - start), slice(None)
