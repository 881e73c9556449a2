"""Log-mel spectrograms against scipy and a written-out filter bank; how much of a waveform counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.signal
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build_towers import TOWERS
from mmfuse.towers.audio import hz_to_mel, log_mel, mel_filters, mel_to_hz
from mmfuse.types import AUDIO_RATE, MODALITIES

random = np.random.default_rng(0)


def test_the_scale_of_slaney():
    """Linear with 15 mel per kHz up to 1 kHz, then 27 mel for a factor of 6.4."""
    hz = np.array([0.0, 200.0, 1000.0, 6400.0])
    np.testing.assert_allclose(hz_to_mel(hz), [0, 3, 15, 42])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz)


def test_filters_are_triangles_of_equal_area():
    bands, window = 7, 256
    edges = [
        float(mel_to_hz(np.array([mel]))[0]) for mel in np.linspace(0, hz_to_mel(np.array([8000.0]))[0], bands + 2)
    ]
    expected = np.zeros((window // 2 + 1, bands))
    for index, band in np.ndindex(expected.shape):
        hz, (low, peak, high) = index * AUDIO_RATE / window, edges[band : band + 3]
        if low < hz <= peak:
            expected[index, band] = (hz - low) / (peak - low) * 2 / (high - low)
        elif peak < hz < high:
            expected[index, band] = (high - hz) / (high - peak) * 2 / (high - low)
    np.testing.assert_allclose(mel_filters(bands, window), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("samples, window, hop", [(480, 128, 48), (500, 96, 96), (480, 40, 60)])
def test_log_mel_is_scipy_s_spectrogram_through_the_filters(samples, window, hop):
    bands = 7
    waveform = random.uniform(-1, 1, (2, samples)).astype(np.float32)
    frames = samples // hop
    filters = mel_filters(bands, window)
    hann = scipy.signal.get_window("hann", window)
    heard = np.pad(waveform[:, : frames * hop].astype(np.float64), ((0, 0), (0, window)))
    expected = np.zeros((2, frames, bands))
    for b, frame in np.ndindex(2, frames):
        power = np.abs(scipy.fft.rfft(hann * heard[b, frame * hop : frame * hop + window])) ** 2
        expected[b, frame] = np.log10(np.maximum(power @ filters, 1e-10))
    got = log_mel(jnp.asarray(waveform), filters, window=window, hop=hop)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("hz", [440.0, 1500.0, 5000.0])
def test_a_tone_lights_the_band_that_contains_it(hz):
    bands, window, hop = 23, 1024, 320
    tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(3200) / AUDIO_RATE)
    spectrogram = log_mel(jnp.asarray(tone[None], jnp.float32), mel_filters(bands, window), window=window, hop=hop)
    edges = mel_to_hz(np.linspace(0, hz_to_mel(np.array([8000.0]))[0], bands + 2))
    nearest = np.abs(edges[1:-1] - hz).argmin()
    np.testing.assert_array_equal(spectrogram[0, :6].argmax(axis=-1), nearest)


def test_silence_is_the_floor():
    got = log_mel(jnp.zeros((1, 96)), mel_filters(5, 32), window=32, hop=16)
    np.testing.assert_array_equal(got, np.full((1, 6, 5), -10.0, np.float32))


@pytest.fixture(scope="module")
def tower(shake):
    config = ConfigDict(parts.audio(12, 1, 3, samples=96, patch=(2, 3), bands=6, window=32, hop=16))
    return shake(TOWERS["audio"](config, None, jnp.float32, nnx.Rngs(0)))


def test_frames_beyond_the_size_are_padding(tower):
    size = jnp.array([[96], [64], [65], [1], [0]])
    out = tower(jnp.zeros((5, 96)), size)
    valid = np.repeat(np.arange(3)[None] < [[3], [2], [3], [1], [0]], 2, axis=1)  # two patches for each pair of frames
    np.testing.assert_array_equal(out.tokens.segment > 0, valid)
    np.testing.assert_array_equal(out.tokens.position[0], [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])
    assert (out.tokens.modality == MODALITIES.index("audio")).all()


def test_sound_behind_the_last_valid_window_is_not_heard(tower):
    waveform = jnp.asarray(random.uniform(-1, 1, (1, 96)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda waveform: tower(waveform, jnp.array([[32]])).pooled.sum()))(waveform)
    felt = np.asarray(gradient)[0] != 0
    assert felt[1:48].all() and not felt[48:].any()  # two frames, of which the last one begins at 16 and ends at 48
    assert np.isfinite(gradient).all()
