"""How does sound become tokens?

The waveform becomes a log-mel spectrogram on the device, which a vision transformer then reads as a picture with time
as rows and pitch as columns:

    frames of n samples, each 1/rate·hop later ─ Hann window ─ |rfft|² ─ mel filters ─ log₁₀ max(·, 1e−10)

Reference: Gong et al. 2021 (AST), arXiv 2104.01778; the mel scale and filters of Slaney 1998, as in librosa.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from mmfuse.towers.tower import TowerOutput
from mmfuse.towers.vit import ViT
from mmfuse.types import AUDIO_RATE

# The Slaney mel scale: linear below 1 kHz (200/3 Hz a mel), logarithmic above (27 steps for a factor of 6.4).
_LINEAR_HZ, _BREAK_HZ, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


def hz_to_mel(hz: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Slaney's mel scale."""
    high = _BREAK_HZ / _LINEAR_HZ + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, high)


def mel_to_hz(mel: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The inverse of `hz_to_mel`."""
    high = _BREAK_HZ * np.exp(_STEP * (mel - _BREAK_HZ / _LINEAR_HZ))
    return np.where(mel < _BREAK_HZ / _LINEAR_HZ, mel * _LINEAR_HZ, high)


def mel_filters(bands: int, window: int, *, rate: int = AUDIO_RATE) -> Float[np.ndarray, "bins bands"]:
    """Triangles of equal area, evenly spaced in mel from 0 Hz to half the rate."""
    edges = mel_to_hz(np.linspace(0.0, hz_to_mel(np.array([rate / 2]))[0], bands + 2))
    hz = np.fft.rfftfreq(window, 1 / rate)[:, None]
    low, peak, high = edges[None, :-2], edges[None, 1:-1], edges[None, 2:]
    triangles = np.maximum(0, np.minimum((hz - low) / (peak - low), (high - hz) / (high - peak)))
    return (triangles * 2 / (high - low)).astype(np.float32)


def log_mel(
    waveform: Float[Array, "B f"], filters: Float[np.ndarray, "bins bands"], *, window: int, hop: int
) -> Float[Array, "B frames bands"]:
    """log₁₀ of the mel energies, floored at −10; frames = f // hop, the last ones padded with silence."""
    frames, overlap = waveform.shape[1] // hop, -(-window // hop)
    padded = jnp.pad(waveform[:, : frames * hop], ((0, 0), (0, overlap * hop))).reshape(len(waveform), -1, hop)
    # a frame is a few hops behind one another: slices, where an index of every sample would be a huge constant
    framed = jnp.concatenate([padded[:, i : i + frames] for i in range(overlap)], axis=-1)[..., :window]
    hann = np.hanning(window + 1)[:-1].astype(np.float32)
    spectrum = jnp.fft.rfft(framed * hann[None, None])
    energy = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.log10(jnp.maximum(energy @ filters, 1e-10))


class AudioTower(nnx.Module):
    """A waveform's log-mel spectrogram, read by a vision transformer with one channel."""

    def __init__(self, vit: ViT, *, bands: int, window: int, hop: int):
        """Args: `bands` mel bands of frames of `window` samples, one every `hop` samples."""
        self.vit, self.bands, self.window, self.hop = vit, bands, window, hop

    def __call__(self, values: Float[Array, "B f"], size: Int[Array, "B 1"], probe: dict | None = None) -> TowerOutput:
        """Reads waveforms in [−1, 1], of which the first `size` samples are valid."""
        extent = jnp.concatenate([-(-size // self.hop), jnp.full_like(size, self.bands)], axis=1)
        return self.vit(self.spectrogram(values)[..., None], extent, probe=probe)

    def spectrogram(self, values: Float[Array, "B f"]) -> Float[Array, "B frames bands"]:
        """What the transformer reads."""
        return log_mel(values, mel_filters(self.bands, self.window), window=self.window, hop=self.hop)
