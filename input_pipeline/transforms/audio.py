"""How do encoded bytes become a waveform of the wanted length?

WAV, FLAC and Ogg become one channel at `AUDIO_RATE`, in [-1, 1]. The header is checked before anything is decoded, and
no more is decoded than is kept. Spectrograms are the business of the audio tower.
"""

import io
import math
import zlib
from fractions import Fraction
from functools import lru_cache

import numpy as np
import soundfile
from jaxtyping import Float32

from input_pipeline.transforms import BadRecord
from mmfuse.types import AUDIO_RATE

MAX_CHANNELS = 8
RATES = range(4_000, 192_001)  # Hz
# The filter grows with the denominator. The usual rates have theirs; odd ones are off by at most 0.4 ms in eight
# seconds, where 191,999 Hz took 300 MB and 2 s.
MAX_DENOMINATOR = 10_000
UNKNOWN_SIZE = 0x7FFF_F000  # a WAV that was written to a pipe says this or more
MAX_FRAMES = 1 << 48  # libsndfile says more where the header of a FLAC does not know
LAST_PAGE = 4  # a flag in the header of an Ogg page
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # the bits of each byte from back to front


def decode_audio(data: bytes, *, max_seconds: float) -> Float32[np.ndarray, "f"]:
    """Decodes the first `max_seconds` of a sound: the mean of its channels, resampled to `AUDIO_RATE`, in [-1, 1].

    Raises:
      BadRecord: "not WAV, FLAC or Ogg", "audio rate or channels", "audio of unknown length", "empty audio",
        "truncated audio", "damaged audio", "audio is not finite".
    """
    _check_container(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.samplerate not in RATES or file.channels > MAX_CHANNELS:
                raise BadRecord("audio rate or channels")
            rate, frames = file.samplerate, min(_frames(file), math.ceil(max_seconds * file.samplerate))
            # a second at a time: many channels are much memory
            blocks = [_read_mean(file, min(rate, frames - start)) for start in range(0, frames, rate)]
            wave = np.concatenate(blocks or [np.zeros(0, np.float32)])
    except soundfile.SoundFileError:
        raise BadRecord("damaged audio") from None
    if not len(wave):
        raise BadRecord("empty audio")
    if not np.isfinite(wave).all():
        raise BadRecord("audio is not finite")
    return _resample(wave, rate)[: round(max_seconds * AUDIO_RATE)]


def fit_audio(wave: Float32[np.ndarray, "f"], samples: int) -> tuple[Float32[np.ndarray, "{samples}"], int]:
    """Cuts a waveform at `samples`, or fills it with silence; returns it with the number of samples that are sound."""
    size = min(len(wave), samples)
    return np.pad(wave[:size], (0, samples - size)), size


def audio_seconds(data: bytes) -> float:
    """Returns the duration in seconds that the header of a sound tells.

    Raises:
      BadRecord: "damaged audio", "audio of unknown length".
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return _frames(file) / file.samplerate
    except soundfile.SoundFileError:
        raise BadRecord("damaged audio") from None


def _frames(file: soundfile.SoundFile) -> int:
    if file.frames > MAX_FRAMES:
        raise BadRecord("audio of unknown length")
    return file.frames


def _read_mean(file: soundfile.SoundFile, frames: int) -> Float32[np.ndarray, "{frames}"]:
    """The mean over the channels of the next frames."""
    block = file.read(frames, dtype="float32", always_2d=True)
    if len(block) < frames:
        raise BadRecord("damaged audio")
    with np.errstate(invalid="ignore"):  # infinities of both signs, or a NaN that signals: told later
        return block.mean(axis=1)


def _resample(wave: Float32[np.ndarray, "f"], rate: int) -> Float32[np.ndarray, "g"]:
    if rate != AUDIO_RATE:
        from scipy.signal import resample_poly  # takes over half a second to import, and few need it

        ratio = Fraction(AUDIO_RATE, rate).limit_denominator(MAX_DENOMINATOR)
        wave = resample_poly(wave, *ratio.as_integer_ratio(), window=_low_pass(max(ratio.as_integer_ratio())))
    return wave.clip(-1, 1)  # files of floats and the resampling filter may overshoot


@lru_cache(maxsize=16)
def _low_pass(factor: int) -> Float32[np.ndarray, "_"]:
    """The filter that `resample_poly` designs for its larger factor, anew for each sound, which takes a fifth of it."""
    from scipy.signal import firwin

    return firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0)).astype(np.float32)


def _check_container(data: bytes) -> None:
    """Tells the formats apart by their first bytes, and finds the cuts that libsndfile does not mind."""
    if data.startswith(b"RIFF") and data[8:12] == b"WAVE":
        size = int.from_bytes(data[4:8], "little")
        whole = size >= UNKNOWN_SIZE or size + 8 <= len(data)
    elif data.startswith(b"OggS"):
        whole = _has_all_pages(data)
    elif data.startswith(b"fLaC"):
        whole = True  # its decoder minds
    else:
        raise BadRecord("not WAV, FLAC or Ogg")
    if not whole:
        raise BadRecord("truncated audio")


def _has_all_pages(data: bytes) -> bool:
    """Whether the last page of an Ogg is there, and all before it; what follows a last page may be anything.

    A page is 27 bytes, with the flags at 5, the checksum at 22 and the number of segments at 26, their sizes, and the
    segments. libogg passes over a page whose checksum is wrong, and libsndfile does not say that samples are missing.
    Reference: RFC 3533, section 6.

    Raises:
      BadRecord: "damaged audio".
    """
    place, last = 0, False
    while data.startswith(b"OggS", place):
        if place + 27 > len(data):
            return False
        sizes = data[place + 27 : place + 27 + data[place + 26]]
        end = place + 27 + len(sizes) + sum(sizes)
        if len(sizes) < data[place + 26] or end > len(data):
            return False
        page = data[place : place + 22] + bytes(4) + data[place + 26 : end]
        if _ogg_checksum(page) != int.from_bytes(data[place + 22 : place + 26], "little"):
            raise BadRecord("damaged audio")
        place, last = end, bool(data[place + 5] & LAST_PAGE)
    if place < len(data) and not last:
        raise BadRecord("damaged audio")
    return last


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 that takes bits from the highest and inverts none, of zlib's, which does both the other way round."""
    crc = zlib.crc32(page.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)
