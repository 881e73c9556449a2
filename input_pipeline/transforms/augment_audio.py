"""What may happen to a sound in training, so that a model hears what it is and not how it was recorded?

    setting          what happens to the waveform, drawn anew each time
    shift_seconds    it moves by up to so much, either way; what leaves at one end comes back at the other
    gain_db          it becomes up to so many dB louder or softer
    noise_db         (least, most): white noise so many dB above the sound's own rms (below, if negative)
    band_masks       so many bands of pitch are removed, each up to `band_share` of the mel scale wide
    time_masks       so many spans become silent, each up to `time_share` of the sound long

They happen in this order; what is not set does not happen. The two masks are those of SpecAugment, made in the waveform
because the log-mel spectrogram is made on the device: a masked part of it shows silence, where the paper writes the
mean. Time is not warped. Augment before padding: shares are of the sound, and padding is to stay silent.

Reference: Park et al. 2019 (SpecAugment), arXiv 1904.08779, section 2.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32

from input_pipeline.names import nearest
from mmfuse.types import AUDIO_RATE, ConfigError

AudioChange = Callable[[Float32[np.ndarray, "f"], np.random.Generator], Float32[np.ndarray, "f"]]

NUMBER, WHOLE, PAIR = "a number", "a whole number", "(least, most), both"
SETTINGS = {  # name → what is written, least, most
    "shift_seconds": (NUMBER, 0, 60),
    "gain_db": (NUMBER, 0, 60),
    "noise_db": (PAIR, -120, 20),
    "band_masks": (WHOLE, 0, 100),
    "band_share": (NUMBER, 0, 1),
    "time_masks": (WHOLE, 0, 100),
    "time_share": (NUMBER, 0, 1),
}
MASKS = {"band_masks": "band_share", "time_masks": "time_share"}  # each needs the other
ROUND_LENGTH = 1 << 14  # samples; the Fourier transform of a prime length takes 25 times as long


def make_audio_change(settings: Mapping[str, Any]) -> AudioChange:
    """Returns `augment(waveform, rng) → waveform` of the same length, in [−1, 1]: what is louder is clipped.

    Args:
      settings: those of the table above.

    Raises:
      ConfigError: a setting that is not there, out of its range, or without the other half of its pair.
    """
    _check(settings)
    steps = [make(settings) for name, make in STEPS.items() if name in settings]

    def augment(waveform: Float32[np.ndarray, "f"], rng: np.random.Generator) -> Float32[np.ndarray, "f"]:
        for step in steps:
            waveform = step(waveform, rng)
        return waveform.clip(-1, 1)

    return augment


def shift(waveform: Float32[np.ndarray, "f"], rng: np.random.Generator, *, most: int) -> Float32[np.ndarray, "f"]:
    """Moves a sound by up to `most` samples, around its ends, so that nothing of a short one is lost."""
    return np.roll(waveform, rng.integers(-most, most, endpoint=True))


def gain(waveform: Float32[np.ndarray, "f"], rng: np.random.Generator, *, most: float) -> Float32[np.ndarray, "f"]:
    """Makes a sound up to `most` dB louder or softer."""
    return waveform * np.float32(_ratio(rng.uniform(-most, most)))


def add_noise(
    waveform: Float32[np.ndarray, "f"], rng: np.random.Generator, *, least: float, most: float
) -> Float32[np.ndarray, "f"]:
    """Adds white noise whose rms is `least` to `most` dB above that of the sound; silence stays silent."""
    rms = np.sqrt(np.mean(np.square(waveform)))
    level = rms * np.float32(_ratio(rng.uniform(least, most)))
    return waveform + level * rng.standard_normal(len(waveform), np.float32)


def mask_bands(
    waveform: Float32[np.ndarray, "f"], rng: np.random.Generator, *, number: int, share: float
) -> Float32[np.ndarray, "f"]:
    """Removes bands of pitch, up to a `share` of the mel scale each, from the spectrum of the whole sound."""
    length = -(-len(waveform) // ROUND_LENGTH) * ROUND_LENGTH
    spectrum = np.fft.rfft(waveform, length)
    for span in _spans(rng, number, share):
        low, high = (round(_hz(part) / (AUDIO_RATE / 2) * len(spectrum)) for part in span)
        spectrum[low:high] = 0
    return np.fft.irfft(spectrum)[: len(waveform)]


def mask_times(
    waveform: Float32[np.ndarray, "f"], rng: np.random.Generator, *, number: int, share: float
) -> Float32[np.ndarray, "f"]:
    """Silences spans of a sound, up to a `share` of its length each."""
    waveform = waveform.copy()
    for start, end in _spans(rng, number, share):
        waveform[round(start * len(waveform)) : round(end * len(waveform))] = 0
    return waveform


def _spans(rng: np.random.Generator, number: int, share: float) -> Iterator[tuple[float, float]]:
    """Parts of [0, 1]: the width is uniform in [0, share], the start wherever it fits. They may overlap."""
    for _ in range(number):
        width = rng.uniform(0, share)
        start = rng.uniform(0, 1 - width)
        yield start, start + width


def _hz(part: float) -> float:
    """The frequency at a part of the mel scale, 0 → 0 Hz, 1 → half the rate; mel = 2595 log₁₀(1 + hz / 700)."""
    return 700 * ((1 + AUDIO_RATE / 2 / 700) ** part - 1)


def _ratio(db: float) -> float:
    return 10 ** (db / 20)


def _check(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name not in SETTINGS:
            hint = nearest(name, SETTINGS)
            raise ConfigError(f"audio augmentation has no '{name}'{hint} There are: {', '.join(SETTINGS)}.")
        form, least, most = SETTINGS[name]
        if not _fits(value, form, least, most):
            raise ConfigError(f"{name} of audio augmentation is {value!r}: write {form} from {least} to {most}.")
    for masks, share in MASKS.items():
        if (masks in settings) != (share in settings):
            raise ConfigError(f"audio augmentation has one of {masks} and {share}: write both, or neither.")


def _fits(value: Any, form: str, least: int, most: int) -> bool:
    is_pair, kind = isinstance(value, tuple | list), int if form == WHOLE else int | float
    parts = value if is_pair else (value,)
    if is_pair != (form == PAIR) or not all(isinstance(part, kind) and not isinstance(part, bool) for part in parts):
        return False
    return len(parts) == 1 + is_pair and least <= parts[0] <= parts[-1] <= most


# In the order in which they happen: setting → what it makes.
STEPS: Mapping[str, Callable[[Mapping[str, Any]], AudioChange]] = {
    "shift_seconds": lambda given: partial(shift, most=round(given["shift_seconds"] * AUDIO_RATE)),
    "gain_db": lambda given: partial(gain, most=float(given["gain_db"])),
    "noise_db": lambda given: partial(add_noise, least=float(given["noise_db"][0]), most=float(given["noise_db"][1])),
    "band_masks": lambda given: partial(mask_bands, number=given["band_masks"], share=float(given["band_share"])),
    "time_masks": lambda given: partial(mask_times, number=given["time_masks"], share=float(given["time_share"])),
}
