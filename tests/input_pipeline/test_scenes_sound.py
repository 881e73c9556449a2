"""Can the code that `sound.py` documents be read from the waveform, with a Fourier transform alone?"""

import random

import numpy as np
import pytest

from input_pipeline.sources.scenes.sound import BANDS, LOUDNESS, TIMBRES, synthesise
from input_pipeline.sources.scenes.world import SIZES, sample_scene

RATE, SLOT = 16_000, 6_400


@pytest.fixture(scope="module")
def heard():
    scenes = [sample_scene("train", 64, random.Random(index)) for index in range(70)]
    return [(scene.objects, synthesise(scene.objects, random.Random(index))) for index, scene in enumerate(scenes)]


def slots(wave):
    return [slot for slot in wave.reshape(-1, SLOT) if np.abs(slot).max() > 0]


def spectrum(slot):
    padded = np.abs(np.fft.rfft(slot * np.hanning(SLOT), 4 * SLOT))
    return np.fft.rfftfreq(4 * SLOT, 1 / RATE), padded


def pitch(slot):
    hertz, strength = spectrum(slot)
    return hertz[strength.argmax()]


def partials(slot):
    hertz, strength = spectrum(slot)
    near = [strength[np.abs(hertz - number * pitch(slot)) < 20].max() for number in range(1, 6)]
    return tuple(number for number, value in enumerate(near, 1) if value > 0.25 * near[0])


def test_form(heard):
    for _, wave in heard:
        assert wave.shape == (32_000,) and wave.dtype == np.float32
        assert np.abs(wave).max() <= 1


def test_bands_do_not_touch():
    edges = [edge for band in sorted(BANDS.values()) for edge in band]
    assert edges == sorted(edges) and len(set(edges)) == 16


def test_pitches_tell_the_colours_from_left_to_right(heard):
    for objects, wave in heard:
        colours = [
            next(colour for colour, (low, high) in BANDS.items() if low - 2 <= pitch(slot) <= high + 2)
            for slot in slots(wave)
        ]
        assert colours == [thing.colour for thing in objects]


def test_partials_tell_the_shapes(heard):
    shapes = {sounding: shape for shape, sounding in TIMBRES.items()}
    assert len(shapes) == len(TIMBRES)
    for objects, wave in heard:
        assert [shapes[partials(slot)] for slot in slots(wave)] == [thing.shape for thing in objects]


def test_loudness_tells_the_sizes(heard):
    """Textures damp a tone, at most to 0.6 of its amplitude and by a known factor."""
    damping = {"solid": 0.97, "striped": 0.64, "dotted": 0.64}
    for objects, wave in heard:
        for thing, slot in zip(objects, slots(wave)):
            level = np.sqrt(np.sum(slot**2) / 5_120) / damping[thing.texture]
            nearest = min(SIZES, key=lambda size: abs(np.log(level / LOUDNESS[size])))
            assert nearest == thing.size


def test_beats_tell_the_textures(heard):
    """The squared waveform swells at the rate of the beats; 0 where it does not swell."""
    beats = {"solid": 0.0, "striped": 12.5, "dotted": 31.25}
    hertz = np.fft.rfftfreq(SLOT, 1 / RATE)
    for objects, wave in heard:
        for thing, slot in zip(objects, slots(wave)):
            swelling = np.abs(np.fft.rfft(slot**2))
            strength = {rate: swelling[np.abs(hertz - rate).argmin()] for rate in (12.5, 31.25)}
            strongest = max(strength, key=lambda rate: strength[rate])
            found = strongest if strength[strongest] > 0.4 * swelling[0] else 0.0
            assert found == beats[thing.texture], (thing, strength, swelling[0])
