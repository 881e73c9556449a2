"""Does each augmentation do what its name says, as strongly as it may and no more? Heard by tones and by the tower."""

import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.transforms.augment_audio import make_audio_change
from mmfuse.towers.audio import log_mel, mel_filters
from mmfuse.types import AUDIO_RATE, ConfigError

ALL = {
    "gain_db": 6.0,
    "shift_seconds": 0.1,
    "noise_db": (-60, -30),
    "time_masks": 2,
    "time_share": 0.1,
    "band_masks": 2,
    "band_share": 0.15,
}


def generator(seed):
    return np.random.default_rng((5, seed))


def augmented(waveform, seed=0, **settings):
    return make_audio_change(settings)(waveform, generator(seed))


def noise(samples=4001, level=0.1):
    return (level * np.random.default_rng(7).standard_normal(samples)).clip(-1, 1).astype(np.float32)


def decibel(ratio):
    return 20 * np.log10(ratio)


def runs(mask):
    """(start, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def test_without_settings_nothing_happens():
    np.testing.assert_array_equal(augmented(noise()), noise())


@pytest.mark.parametrize("samples", [1, 2, 4001, 40_000])
def test_form_is_kept_and_the_input_is_left_alone(samples):
    wave = noise(samples)
    for settings in (ALL, *({name: ALL[name]} for name in ("gain_db", "shift_seconds", "noise_db"))):
        out = augmented(wave, **settings)
        assert out.shape == wave.shape and out.dtype == np.float32 and np.isfinite(out).all()
    for kind in ("time", "band"):
        augmented(wave, **{f"{kind}_masks": 3, f"{kind}_share": 1.0})
    np.testing.assert_array_equal(wave, noise(samples))


def test_the_generator_decides():
    np.testing.assert_array_equal(augmented(noise(), 3, **ALL), augmented(noise(), 3, **ALL))
    assert not np.array_equal(augmented(noise(), 3, **ALL), augmented(noise(), 4, **ALL))


def test_gain_is_one_factor_even_in_decibels():
    factors = np.array([augmented(noise(), seed, gain_db=6.0)[:2] / noise()[:2] for seed in range(400)])
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-5)
    found = decibel(factors[:, 0])
    assert -6 <= found.min() < -5.8 and 5.8 < found.max() <= 6 + 1e-5
    assert abs(found.mean()) < 0.6 and found.std() == pytest.approx(12 / np.sqrt(12), rel=0.1)  # uniform


def test_what_is_too_loud_is_clipped():
    loud = np.array([0.9, -0.9, 0.1], np.float32)
    found = np.array([augmented(loud, seed, gain_db=20.0) for seed in range(50)])
    assert found[:, 0].max() == 1 and found[:, 1].min() == -1 and found[:, 2].max() > 0.5


def test_shift_goes_both_ways_by_whole_samples_around_the_ends():
    wave, most = noise(37), 3
    shifted = {tuple(augmented(wave, seed, shift_seconds=most / AUDIO_RATE).tolist()) for seed in range(100)}
    assert shifted == {tuple(np.concatenate([wave[by:], wave[:by]]).tolist()) for by in range(-most, most + 1)}


@pytest.mark.parametrize("level", [0.3, 0.001])
def test_noise_is_white_and_as_loud_against_the_sound_as_it_may_be(level):
    tone = (level * np.sin(np.arange(8000) / 5)).astype(np.float32)
    added = np.array([augmented(tone, seed, noise_db=(-40, -20)) for seed in range(60)], np.float64) - tone
    loudness = decibel(added.std(axis=1) / (level / np.sqrt(2)))
    assert -40.2 < loudness.min() < -38 and -22 < loudness.max() < -19.8
    assert np.unique(added[:, :3], axis=0).shape == (60, 3)
    power = (np.abs(np.fft.rfft(added / added.std(axis=1, keepdims=True))) ** 2)[:, 1:4000].reshape(60, 3, -1)
    np.testing.assert_allclose(power.mean(axis=(0, 2)) / power.mean(), 1, atol=0.02)  # low, middle, high


def test_silence_stays_silent():
    assert not augmented(np.zeros(100, np.float32), **ALL).any()


def test_time_masks_are_spans_of_silence_and_nothing_else():
    wave, widths, covered = np.ones(1009, np.float32) / 2, [], np.zeros(1009)
    for seed in range(600):
        out = augmented(wave, seed, time_masks=1, time_share=0.2)
        spans = runs(out == 0)
        assert len(spans) <= 1 and (out[out != 0] == 0.5).all()
        widths += [end - start for start, end in spans]
        covered += out == 0
    assert 195 < max(widths) <= 203 and min(widths) < 5 and np.mean(widths) == pytest.approx(101, abs=8)
    assert np.abs(covered[200:-200] / 600 - 0.1 / 0.9).max() < 0.06  # no part of the sound is spared
    assert covered[0] < covered[-1] + 20 and covered[-1] < covered[0] + 20


def test_masked_spans_are_silent_whatever_else_happens():
    longest = [max(end - start for start, end in runs(augmented(noise(), seed, **ALL) == 0)) for seed in range(20)]
    assert np.mean(longest) > 200  # the longer of two, each 200 in the mean


@pytest.mark.parametrize("masks", [0, 1, 3])
def test_so_many_masks(masks):
    found = [augmented(np.ones(1009, np.float32), seed, time_masks=masks, time_share=0.05) for seed in range(50)]
    assert max(len(runs(out == 0)) for out in found) == masks


def tones(count, samples=1 << 14):
    """`count` tones evenly spaced in mel, each on a bin of the spectrum, and those bins."""
    hz = 700 * (10 ** (np.linspace(100, 2830, count) / 2595) - 1)
    bins = np.unique(np.rint(hz * samples / AUDIO_RATE).astype(int))
    angle = 2 * np.pi * np.outer(bins, np.arange(samples)) / samples + np.square(bins)[:, None]
    return np.sin(angle).sum(axis=0).astype(np.float32) / len(bins), bins


def test_band_masks_remove_neighbouring_tones_and_leave_the_others():
    wave, bins = tones(90)
    before, shares, covered = np.abs(np.fft.rfft(wave))[bins], [], np.zeros(len(bins))
    for seed in range(300):
        left = np.abs(np.fft.rfft(augmented(wave, seed, band_masks=1, band_share=0.2)))[bins] / before
        gone = left < 1e-3
        assert len(runs(gone)) <= 1 and np.abs(left[~gone] - 1).max() < 1e-3
        shares.append(gone.mean())
        covered += gone
    # 90 tones span 2730 of the 2840 mel below half the rate
    assert 0.19 < max(shares) < 0.225 and min(shares) == 0 and np.mean(shares) == pytest.approx(0.1, abs=0.012)
    assert np.abs(covered[15:-15] / 300 - 0.1 / 0.9).max() < 0.08  # high or low alike
    several = [augmented(wave, seed, band_masks=3, band_share=0.05) for seed in range(60)]
    assert max(len(runs(np.abs(np.fft.rfft(out))[bins] < before / 1e3)) for out in several) == 3


@pytest.mark.parametrize("samples", [15_013, 16_384, 17_011])
def test_a_removed_band_is_gone_at_every_length(samples):
    """Half the rate has 2840 mel of O'Shaughnessy's scale; what is drawn does not depend on the length."""
    wave, rng = noise(samples), generator(1)
    left = np.abs(np.fft.rfft(augmented(wave, 1, band_masks=1, band_share=0.9))) / np.abs(np.fft.rfft(wave))
    width = rng.uniform(0, 0.9)
    low = rng.uniform(0, 1 - width)
    low, high = (round(700 * (10 ** (2840 * part / 2595) - 1) / 8000 * len(left)) for part in (low, low + width))
    assert np.median(left[low + 50 : high - 50]) < 0.02
    assert np.median(np.concatenate([left[: low - 50], left[high + 50 :]])) == pytest.approx(1, abs=0.02)


def test_the_tower_sees_the_masks_of_specaugment():
    """In the log-mel spectrogram of noise: some frames at the floor, or some bands far below what they were."""
    window, hop, bands = 512, 160, 40
    filters, wave = mel_filters(bands, window), noise(AUDIO_RATE)

    def seen(wave):
        return np.asarray(log_mel(jnp.asarray(wave[None]), filters, window=window, hop=hop))[0, :-4]

    silent = runs((seen(augmented(wave, 1, time_masks=1, time_share=0.5)) == -10).all(axis=1))
    hidden = seen(augmented(wave, 1, band_masks=1, band_share=0.5)) - seen(wave) < -2
    masked = runs(hidden.all(axis=0))
    assert len(silent) == len(masked) == 1
    width = generator(1).uniform(0, 0.5)
    assert silent[0][1] - silent[0][0] == pytest.approx(100 * width - window / hop, abs=2)
    assert masked[0][1] - masked[0][0] == pytest.approx(bands * width, abs=3)
    assert not np.delete(hidden, np.s_[masked[0][0] - 2 : masked[0][1] + 2], axis=1).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain": 6.0}, "audio augmentation has no 'gain'; did you mean 'gain_db'?"),
        ({"echo": 1}, "has no 'echo'. There are: shift_seconds, gain_db"),
        ({"gain_db": -1.0}, "gain_db of audio augmentation is -1.0: write a number from 0 to 60"),
        ({"gain_db": "6"}, "gain_db of audio augmentation is '6'"),
        ({"gain_db": True}, "gain_db of audio augmentation is True"),
        ({"gain_db": (1, 2)}, "gain_db of audio augmentation is .1, 2.: write a number"),
        ({"gain_db": (1,)}, "gain_db of audio augmentation is .1,.: write a number"),
        ({"gain_db": float("nan")}, "gain_db of audio augmentation is nan"),
        ({"shift_seconds": 61}, "shift_seconds of audio augmentation is 61: write a number from 0 to 60"),
        ({"noise_db": -30}, "noise_db of audio augmentation is -30: write .least, most., both from -120 to 20"),
        ({"noise_db": (-30, -60)}, "noise_db of audio augmentation is .-30, -60."),
        ({"noise_db": (-30, float("nan"))}, "noise_db of audio augmentation is .-30, nan."),
        ({"noise_db": (-60, -40, -30)}, "noise_db of audio augmentation is .-60, -40, -30."),
        ({"noise_db": ("a", "b")}, "noise_db of audio augmentation is .'a', 'b'."),
        ({"time_masks": 2}, "one of time_masks and time_share: write both"),
        ({"band_share": 0.1}, "one of band_masks and band_share: write both"),
        ({"time_masks": 1.5, "time_share": 0.1}, "time_masks of audio augmentation is 1.5: write a whole number"),
        ({"time_masks": 1, "time_share": 1.1}, "time_share of audio augmentation is 1.1: write a number from 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_audio_change(settings)


def test_lists_do_for_pairs():
    np.testing.assert_array_equal(augmented(noise(), noise_db=[-60, -30]), augmented(noise(), noise_db=(-60, -30)))
