"""What does a released model want to be done to a picture before it sees it?

Its folder says so: `preprocessor_config.json` of transformers, or `open_clip_config.json`. What is done then is in
`pixels.py`. Pictures are RGB with 8 bits (`decode_image` makes them); texts are in `texts.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from PIL import Image

from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse.types import CheckpointError
from mmfuse.weights.pixels import FlexiblePreprocessor, Preprocessor
from mmfuse.weights.tensors import read_json, understanding

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # since transformers 5: holds the same under "image_processor"
OPEN_CLIP = "open_clip_config.json"
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


def load_preprocessor(folder: str | Path) -> Preprocessor | FlexiblePreprocessor:
    """Reads `preprocessor_config.json`, or this part of `processor_config.json`; or `open_clip_config.json`.

    Raises:
      CheckpointError: it is missing, or does not say what is needed.
    """
    path, config = _settings(Path(folder))
    if config is None and (Path(folder) / OPEN_CLIP).is_file():
        return _of_open_clip(Path(folder) / OPEN_CLIP)
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
            as_pair(config["crop_size"]) if config.get("do_center_crop", False) else None,
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


def _of_open_clip(path):
    config = read_json(path)
    with understanding(path):
        settings = config.get("preprocess_cfg") or {}
        extent = as_pair(config["model_cfg"]["vision_cfg"].get("image_size", 224))
        mode, squares = settings.get("resize_mode") or "shortest", extent[0] == extent[1]
        if mode not in ("shortest", "squash") or (mode == "shortest" and not squares):
            raise CheckpointError(
                f"{path}: resize_mode '{mode}' to {extent} is not known; there are 'squash', and 'shortest' to squares."
            )
        bilinear = settings.get("interpolation") == "bilinear"
        return Preprocessor(
            extent if mode == "squash" else extent[0],
            int(Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC),
            None if mode == "squash" else extent,
            **open_clip_pixels(settings),
            even=True,
        )


def open_clip_pixels(settings: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """`center` and `scale` of values 0…255, of a `preprocess_cfg`."""
    names = {"center": "mean", "scale": "std"}
    return {
        ours: as_levels(each(f"preprocess_cfg.{theirs}", settings[theirs], RGB))
        if settings.get(theirs)
        else OPENAI_PIXELS[ours]
        for ours, theirs in names.items()
    }


def as_pair(size: float | int | Sequence[int] | Mapping[str, int]) -> tuple[int, int]:
    """Height and width, in one or two numbers or by these names."""
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


def preprocessor_config(
    tower: ConfigDict, kind: str, resizing: Resizing | GridResizing | None = None
) -> dict[str, Any]:
    """What `load_preprocessor` reads, for an image tower.

    Args:
      tower: its config.
      kind: "clip", "siglip", or "siglip2", which resizes to a grid of patches.
      resizing: None: as released, the shorter side and then the middle for "clip", the whole picture for "siglip", as
        many patches as the table of positions has for "siglip2".
    """
    if kind == "siglip2":
        places = math.prod(size // patch for size, patch in zip(tower.image, tower.patch))
        grid = resizing if isinstance(resizing, GridResizing) else GridResizing(tower.patch[0], places)
        resizes = {"patch_size": grid.patch, "max_num_patches": grid.places, "resample": grid.resample}
    else:
        assert not isinstance(resizing, GridResizing)  # which needs the tower of a "siglip2"
        squares = Resizing(max(tower.image), crop=tuple(tower.image))
        resizing = resizing or (squares if kind == "clip" else Resizing(tuple(tower.image)))
        kind = "siglip" if resizing.crop is None and not isinstance(resizing.size, int) else "clip"
        resizes = _resizes(resizing)
    return {
        "image_processor_type": PROCESSORS[kind],
        "do_resize": True,
        **resizes,
        "do_rescale": True,
        "rescale_factor": FACTOR,
        "do_normalize": True,
        "image_mean": as_shares(each("center", tower.center, tower.channels)),
        "image_std": as_shares(each("scale", tower.scale, tower.channels)),
        "do_convert_rgb": True,
    }


def open_clip_resizing(resizing: Resizing | GridResizing) -> dict[str, str]:
    """This part of a `preprocess_cfg`. Raises CheckpointError where open_clip has no such resizing."""
    assert isinstance(resizing, Resizing)  # open_clip has no tower for grids
    modes = {True: "shortest", False: "squash"}
    shortest = isinstance(resizing.size, int)
    filters = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
    wanted = (resizing.size,) * 2 if shortest else None
    if resizing.size is None or resizing.crop != wanted or resizing.resample not in filters:
        raise CheckpointError(f"open_clip has nothing like {resizing}: write the folder for transformers, --format=hf.")
    return {"resize_mode": modes[shortest], "interpolation": filters[Image.Resampling(resizing.resample)]}


def _resizes(resizing):
    def sides(extent):
        return {"height": extent[0], "width": extent[1]}

    crop = {} if resizing.crop is None else {"crop_size": sides(resizing.crop)}
    size = resizing.size
    if size is not None:
        size = {"shortest_edge": size} if isinstance(size, int) else sides(size)
    return {
        "do_resize": size is not None,
        **({} if size is None else {"size": size}),
        "do_center_crop": bool(crop),
        **crop,
        "resample": resizing.resample,
    }


def each(name: str, number: float | int | Sequence[float | int], channels: int) -> tuple[float | int, ...]:
    """One number for each channel. Raises ValueError, which names the setting, where there are more or fewer."""
    numbers = tuple(number) if isinstance(number, Sequence) else (number,) * channels
    if len(numbers) != channels:
        raise ValueError(f"{name} is {list(numbers)}, and there are {channels} channels: write a number for each")
    return numbers


def _size(size: Any) -> int | tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["shortest_edge"]) if "shortest_edge" in size else as_pair(size)
    return int(size)
