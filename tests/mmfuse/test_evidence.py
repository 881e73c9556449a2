"""What probes say of a raw signal, against numpy example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.routing.evidence import LengthProbe, LevelProbe, LightProbe
from mmfuse.types import Signal, Text

HEIGHT, WIDTH, SAMPLES = 19, 13, 947  # 20 parts of 47 samples, and 7 samples that belong to none
SIZES = ((19, 13), (8, 13), (19, 5), (11, 7))
LENGTHS = (947, 500, 61, 0)


def signal(values, sizes):
    rows = len(values)
    mask, anchor = np.ones((rows, 1), bool), np.zeros((rows, 1), np.int32)
    return jax.tree.map(jnp.asarray, Signal(values[:, None], mask, anchor, np.asarray(sizes, np.int32)[:, None]))


def pictures():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (len(SIZES), HEIGHT, WIDTH, 3), dtype=np.uint8)
    images[1, :, 4:] = 90  # flat for the most part
    return images


def sounds():
    waves = np.random.default_rng(1).normal(0, 0.1, (len(LENGTHS), SAMPLES)).astype(np.float32)
    waves[0, 200:400] = 0
    return waves


def test_light_contrast_roughness_and_flatness_of_a_quarter_of_the_rows():
    images = pictures()
    found = LightProbe()(signal(images, SIZES))
    for image, (height, width), row in zip(images, SIZES, found, strict=True):
        grey = image[:height:4, :width].astype(np.float64).mean(axis=-1)
        steps, contrast = np.diff(grey, axis=1), np.sqrt(grey.var() + 1)
        rough = np.sqrt(np.square(steps).mean()) / contrast
        flat = (abs(steps) < 2).mean()
        np.testing.assert_allclose(
            row, [grey.mean() / 64 - 2, np.log2(contrast) - 4, 2 * rough - 1, 2 * flat - 1], 2e-5
        )


def test_levels_silence_and_roughness_of_a_quarter_of_each_part():
    waves = sounds()
    found = LevelProbe()(signal(waves, [(length,) for length in LENGTHS]))
    for wave, length, row in zip(waves.astype(np.float64), LENGTHS, found, strict=True):
        heard = np.where(np.arange(SAMPLES) < length, wave, 0)[: 47 * 20].reshape(20, 47)[:, :11]
        steps = np.diff(wave[: 47 * 20].reshape(20, 47)[:, :11], axis=1)
        steps = np.where(np.arange(47 * 20).reshape(20, 47)[:, 1:11] < length, steps, 0)
        power = np.square(heard).mean(axis=1)
        rough = np.sqrt(np.square(steps).mean() / max(power.mean(), 1e-8))
        decades = [np.log10(max(value, 1e-8)) / 2 + 1 for value in (power.mean(), power.min(), power.max())]
        silent = (power < 1e-6).mean()
        np.testing.assert_allclose(row, [decades[0], 2 * silent - 1, *decades[1:], 2 * rough - 1], rtol=1e-4, atol=1e-5)


def test_how_long_a_text_is_and_how_much_of_it_is_new():
    ids = np.array([[[7, 7, 8, 8, 8, 9, 3]], [[4, 5, 6, 6, 9, 9, 9]], [[1, 2, 3, 4, 5, 6, 7]]], np.int32)
    segment = (np.arange(7) < np.array([7, 4, 0])[:, None, None]).astype(np.int32)
    found = LengthProbe()(jax.tree.map(jnp.asarray, Text(ids, segment, segment.astype(np.float32))))
    np.testing.assert_allclose(found, [[1, 0], [8 / 7 - 1, 1 / 3], [-1, -1]], rtol=1e-6)


@pytest.mark.parametrize(
    "probe, values, sizes", [(LightProbe(), pictures(), SIZES), (LevelProbe(), sounds(), [(n,) for n in LENGTHS])]
)
def test_what_stands_beyond_the_end_changes_nothing(probe, values, sizes):
    other = values.copy()
    for row, size in zip(other, sizes, strict=True):
        beyond = np.ones(row.shape[: len(size)], bool)
        beyond[tuple(slice(length) for length in size)] = False
        row[beyond] = 77
    np.testing.assert_array_equal(probe(signal(values, sizes)), probe(signal(other, sizes)))
    assert (other != values).any()


@pytest.mark.parametrize(
    "probe, values, sizes",
    [
        (LightProbe(), np.zeros((4, 64, 64, 3), np.uint8), (64, 64)),
        (LevelProbe(), np.zeros((4, 32_000), np.float32), (32_000,)),
    ],
)
def test_a_probe_is_thin(probe, values, sizes):
    """Fewer than three operations for each number of the signal, as the compiler counts."""
    given = signal(values, [sizes] * len(values))
    flops = jax.jit(lambda signal: probe(signal)).lower(given).compile().cost_analysis()["flops"]
    assert flops < 3 * values.size
