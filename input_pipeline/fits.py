"""How does a signal become as large as its bucket?

Decoded if need be, changed at random as a config says, and resized, cut or padded. Decoding draws no random number, so
a signal may be decoded once and used in many epochs, see `decoded.py`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from input_pipeline.collate import Fitted
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import decode_audio, fit_audio
from input_pipeline.transforms.augment_audio import make_audio_change
from input_pipeline.transforms.augment_image import make_image_changes
from input_pipeline.transforms.image import decode_image, resize_image
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse.types import AUDIO_RATE


class Fit(Protocol):
    """What fits the signals of one modality; it raises `BadRecord`."""

    def decode(self, value: Any, shape: tuple[int, ...], /) -> np.ndarray:
        """As much of an encoded signal as the bucket `shape` can need; one that is decoded, as it is."""
        ...

    def __call__(self, value: Any, shape: tuple[int, ...], rng: np.random.Generator, /) -> Fitted:
        """The signal, encoded or decoded, in the bucket `shape`."""
        ...


class ImageFit:
    """Resizes images to (height, width), and changes them as `augment` says.

    `resizing` is whose way of resizing it is; None: our own. One that keeps the picture's shape may make it smaller
    than the bucket; where it is longer, the record is refused.
    """

    def __init__(self, augment: Mapping[str, Any], resizing: Resizing | GridResizing | None = None):
        self.changes, self.resizing = make_image_changes(augment), resizing

    def decode(self, value: Any, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
        if not isinstance(value, bytes):
            return value
        needed = math.ceil(shape[0] / self.changes.least), math.ceil(shape[1] / self.changes.least)
        return decode_image(value, at_least=None if self.resizing else needed)

    def __call__(self, value: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Fitted:
        image = self.decode(value, shape)
        if self.changes.crop:
            image = self.changes.crop(image, rng)
        resized = self.resizing(image) if self.resizing else resize_image(image, *shape)
        if resized.shape[0] > shape[0] or resized.shape[1] > shape[1]:
            raise BadRecord("too long a picture")
        return Fitted(self.changes.rest(resized, rng), resized.shape[:2])


class AudioFit:
    """Cuts waveforms to (samples,), changes them as `augment` says, and pads them."""

    def __init__(self, augment: Mapping[str, Any]):
        self.change = make_audio_change(augment)

    def decode(self, value: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "f"]:
        return decode_audio(value, max_seconds=shape[0] / AUDIO_RATE) if isinstance(value, bytes) else value

    def __call__(self, value: Any, shape: tuple[int, ...], rng: np.random.Generator) -> Fitted:
        values, size = fit_audio(self.change(self.decode(value, shape)[: shape[0]], rng), *shape)
        return Fitted(values, (size,))


FITS: Mapping[str, Callable[[Mapping[str, Any]], Fit]] = {"image": ImageFit, "audio": AudioFit}
