"""What does a released model want to be done to a picture and a text before it sees them?

    picture ─ resize (Pillow, antialiased) ─ crop the middle ─ (value − center) / scale
    text    ─ the tokenizer's ids, begin and end among them ─ cut and padded to the model's length

As `preprocessor_config.json` and `tokenizer.json` say. Pictures are RGB with 8 bits (`decode_image` makes them).
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

from mmfuse.types import CheckpointError
from mmfuse.weights.tensors import check_hash, read_json

PREPROCESSOR, TOKENIZER, SETTINGS = "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"


FACTOR = 1 / 255  # by which pixels are multiplied before their mean is taken off
# What CLIP was trained with, as our towers take it: of values 0…255.
OPENAI_PIXELS = {
    "center": tuple(round(mean / FACTOR, 6) for mean in (0.48145466, 0.4578275, 0.40821073)),
    "scale": tuple(round(std / FACTOR, 6) for std in (0.26862954, 0.26130258, 0.27577711)),
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
            height, width = self._extent(*image.shape[:2])
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(self.resample)))
        if self.crop is not None:
            image = _middle(image, self.crop)
        center, scale = (np.array(numbers, np.float32) for numbers in (self.center, self.scale))
        return (image.astype(np.float32) - center) / scale

    def _extent(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size or (height, width)
        short, long = min(height, width), max(height, width)
        other = int(self.size * long / short)
        return (other, self.size) if width <= height else (self.size, other)


def load_preprocessor(folder: str | Path) -> Preprocessor:
    """Reads `preprocessor_config.json`.

    Raises:
      CheckpointError: it is missing, or does not say what is needed.
    """
    path = Path(folder) / PREPROCESSOR
    config = read_json(path)
    with _understanding(path):
        return Preprocessor(
            _size(config["size"]) if config.get("do_resize", True) else None,
            int(config.get("resample", Image.Resampling.BICUBIC)),
            _pair(config["crop_size"]) if config.get("do_center_crop", False) else None,
            **_pixels(config),
        )


def load_pixels(folder: str | Path) -> dict[str, tuple[float, ...]]:
    """Of `preprocessor_config.json` what a tower has to know: `center` and `scale` of each channel, of values 0…255."""
    path = Path(folder) / PREPROCESSOR
    config = read_json(path)
    with _understanding(path):
        return _pixels(config)


def _pixels(config):
    factor = config.get("rescale_factor", FACTOR) if config.get("do_rescale", True) else 1.0
    mean, std = (config["image_mean"], config["image_std"]) if config.get("do_normalize", True) else ([0.0], [1.0])
    # rounded, so that what is written comes back: 1e-6 of 255 levels is far below a level
    center, scale = (tuple(round(number / factor, 6) for number in numbers) for numbers in (mean, std))
    return {"center": center, "scale": scale}


@contextmanager
def _understanding(path: Path):
    try:
        yield
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} cannot be understood: {error!r}.") from error


def preprocessor_config(tower: ConfigDict, *, crops: bool) -> dict[str, Any]:
    """What `load_preprocessor` reads, for an image tower: the shorter side is resized and the middle kept, or the whole
    picture is resized where not `crops`."""
    (height, width), channels = tower.image, tower.channels
    extent = {"height": height, "width": width}
    numbers = {key: [round(number * FACTOR, 9) for number in each(tower[key], channels)] for key in ("center", "scale")}
    return {
        "image_processor_type": "CLIPImageProcessor" if crops else "SiglipImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": max(height, width)} if crops else extent,
        "resample": int(Image.Resampling.BICUBIC),
        **({"do_center_crop": True, "crop_size": extent} if crops else {"do_center_crop": False}),
        "do_rescale": True,
        "rescale_factor": FACTOR,
        "do_normalize": True,
        "image_mean": numbers["center"],
        "image_std": numbers["scale"],
        "do_convert_rgb": True,
    }


def each(number: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """One number for each channel."""
    return tuple(number) if isinstance(number, Sequence) else (number,) * channels


class Texts(NamedTuple):
    """From texts to ids and their mask, both (B, length).

    Attributes:
      bpe: the tokenizer; it puts begin and end around a text.
      length: of every row: longer texts are cut before their end, shorter ones padded.
      pad: the id of padding.
    """

    bpe: tokenizers.Tokenizer
    length: int
    pad: int

    def __call__(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
        """Ids, and 1 where they are not padding."""
        rows = [encoding.ids for encoding in self.bpe.encode_batch(list(texts))]
        ids = np.full((len(rows), self.length), self.pad, np.int32)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        return ids, mask


def load_texts(folder: str | Path, *, length: int) -> Texts:
    """Reads `tokenizer.json`, and from `tokenizer_config.json` what pads; `length` as the model has places.

    Raises:
      CheckpointError: a file is missing, or cannot be read.
    """
    path = Path(folder) / TOKENIZER
    check_hash(path)
    settings = read_json(path.with_name(SETTINGS))
    try:
        bpe = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    word = settings.get("pad_token")
    pad = bpe.token_to_id(word["content"] if isinstance(word, Mapping) else str(word))
    if pad is None:
        raise CheckpointError(f"{path.with_name(SETTINGS)} has {word!r} for 'pad_token', which is not in {path.name}.")
    bpe.no_padding()
    bpe.enable_truncation(length)
    return Texts(bpe, length, pad)


def _size(size: Any) -> int | tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["shortest_edge"]) if "shortest_edge" in size else _pair(size)
    return int(size)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size["height"]), int(size["width"])) if isinstance(size, Mapping) else (int(size), int(size))


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
