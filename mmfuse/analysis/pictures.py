"""How does a page hold pictures and sounds without other files?

As data URIs: small pictures losslessly, larger ones as JPEG, sounds as MP3, heat as bytes.
"""

import base64
import io

import numpy as np
import soundfile
from jaxtyping import Float, UInt8
from PIL import Image

from mmfuse.types import AUDIO_RATE

LOSSLESS = 128 * 128  # pixels up to which a picture is a PNG
# From silence to loud: dark blue, violet, orange, cream. Brightness rises evenly.
LOUDNESS = np.array([(16, 16, 48), (110, 40, 120), (232, 112, 60), (255, 244, 200)])


def picture_uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as it is."""
    kind, options = ("png", {}) if pixels.shape[0] * pixels.shape[1] <= LOSSLESS else ("jpeg", {"quality": 85})
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return _uri(f"image/{kind}", file.getvalue())


def spectrogram_uri(energy: Float[np.ndarray, "frames bands"]) -> str:
    """A spectrogram, time to the right and pitch upwards, from its 5th percentile to its maximum."""
    low, high = np.percentile(energy, 5), energy.max()
    level = np.clip((energy - low) / max(high - low, 1e-6), 0, 1).T[::-1]
    stops = np.linspace(0, 1, len(LOUDNESS))
    return picture_uri(np.stack([np.interp(level, stops, stop) for stop in LOUDNESS.T], axis=-1).astype(np.uint8))


def sound_uri(waveform: Float[np.ndarray, "f"]) -> str:
    """A sound at `AUDIO_RATE`."""
    file = io.BytesIO()
    soundfile.write(file, waveform, AUDIO_RATE, format="MP3")
    return _uri("audio/mpeg", file.getvalue())


def heat_bytes(heat: Float[np.ndarray, "rows columns"]) -> str:
    """Heat in 256 levels from nothing to its maximum, row by row, in base64."""
    levels = np.round(255 * heat / max(heat.max(), 1e-12)).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def _uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
