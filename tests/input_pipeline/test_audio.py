"""Does every sound file become the same waveform, and do bad ones become reasons?"""

import io
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import audio_seconds, decode_audio, fit_audio
from mmfuse.types import AUDIO_RATE


def tone(rate=AUDIO_RATE, seconds=0.25, frequency=440.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encode(wave, rate=AUDIO_RATE, file_format="WAV", subtype="FLOAT"):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


def reason_of(data, max_seconds=9.0):
    with pytest.raises(BadRecord) as bad:
        decode_audio(data, max_seconds=max_seconds)
    return bad.value.reason


@pytest.mark.parametrize(("rate", "up", "down"), [(44_100, 160, 441), (48_000, 1, 3), (8_000, 2, 1)])
def test_the_filter_that_is_kept_is_scipys_own(rate, up, down):
    wave = tone(rate) + np.random.default_rng(0).normal(0, 0.01, round(rate * 0.25)).astype(np.float32)
    expected = resample_poly(wave, up, down)
    for _ in range(2):  # the second time it is not designed again
        np.testing.assert_array_equal(decode_audio(encode(wave, rate), max_seconds=9.0), expected)


@pytest.mark.parametrize(
    ("file_format", "subtype", "tolerance"),
    [("WAV", "FLOAT", 0), ("WAV", "PCM_16", 1e-4), ("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", 0.05)],
)
def test_formats_at_our_rate(file_format, subtype, tolerance):
    wave = decode_audio(encode(tone(), AUDIO_RATE, file_format, subtype), max_seconds=9.0)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave, tone(), atol=tolerance)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 44_101])
def test_resampling_keeps_the_tone(rate):
    """Against the tone sampled at our rate: the filter's ends apart, which see silence beyond them."""
    wave = decode_audio(encode(tone(rate), rate), max_seconds=9.0)
    assert len(wave) == pytest.approx(0.25 * AUDIO_RATE, abs=2)
    np.testing.assert_allclose(wave[300:-300], tone()[300 : len(wave) - 300], atol=0.005)


def test_what_is_too_high_for_our_rate_is_filtered():
    wave = decode_audio(encode(tone(48_000, frequency=11_000), 48_000), max_seconds=9.0)
    assert np.abs(wave[300:-300]).max() < 0.01


def test_a_rate_without_common_factors_keeps_its_tone_and_needs_no_giant_filter():
    wave = decode_audio(encode(tone(191_999), 191_999), max_seconds=9.0)
    assert len(wave) == pytest.approx(0.25 * AUDIO_RATE, abs=2)
    np.testing.assert_allclose(wave[300:-300], tone()[300 : len(wave) - 300], atol=0.005)


def test_a_long_sound_of_many_channels_is_averaged_piece_by_piece():
    channels = np.random.default_rng(0).uniform(-1, 1, (2 * AUDIO_RATE + 77, 3)).astype(np.float32)
    expected = channels.mean(axis=1)
    np.testing.assert_array_equal(decode_audio(encode(channels), max_seconds=9.0), expected)
    np.testing.assert_array_equal(decode_audio(encode(channels), max_seconds=1.5), expected[:24_000])


def test_channels_are_averaged():
    channels = np.stack([tone(), 0 * tone(), -0.5 * tone()], axis=1)
    np.testing.assert_allclose(decode_audio(encode(channels), max_seconds=9.0), tone() / 6, atol=1e-6)


@pytest.mark.parametrize("rate", [AUDIO_RATE, 44_100])
def test_only_the_beginning_is_decoded(rate, monkeypatch):
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, *args, **more: read.append(args[0]) or original(self, *args, **more)
    )
    wave = decode_audio(encode(tone(rate, seconds=3.0), rate), max_seconds=0.1)
    assert len(wave) == 1600 and read == [rate // 10]


def test_loud_files_are_clipped():
    wave = decode_audio(encode(4 * tone()), max_seconds=9.0)
    np.testing.assert_allclose(wave, (4 * tone()).clip(-1, 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    wave = tone()
    wave[77] = bad
    assert reason_of(encode(wave)) == "audio is not finite"


def test_numbers_that_numpy_warns_of_are_not_finite():
    opposed = np.tile(np.float32([[np.inf, -np.inf]]), (100, 1))
    assert reason_of(encode(opposed)) == "audio is not finite"
    data, signalling = bytearray(encode(tone())), np.uint32(0x7FA00000).tobytes()
    data[-400:-396] = signalling
    assert reason_of(bytes(data)) == "audio is not finite"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not WAV, FLAC or Ogg"),
        (b"ID3mp3", "not WAV, FLAC or Ogg"),
        (b"RIFF\4\0\0\0AVI ", "not WAV, FLAC or Ogg"),
        (b"fLaC", "damaged audio"),
        (b"RIFF\4\0\0\0WAVE", "damaged audio"),
        (b"OggS", "truncated audio"),
        (encode(tone()[:0]), "empty audio"),
        (encode(tone(), 3_999), "audio rate or channels"),
        (encode(tone(), 192_001), "audio rate or channels"),
        (encode(np.zeros((50, 9), np.float32)), "audio rate or channels"),
    ],
    # names of their own: a file of floats holds the time at which it was written
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_audio_has_a_reason(data, reason):
    assert reason_of(data) == reason


@pytest.mark.parametrize(("file_format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_a_cut_sound_is_no_shorter_sound(file_format, subtype):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 30_000).astype(np.float32)
    data = encode(noise, AUDIO_RATE, file_format, subtype)
    for cut in (len(data) // 3, len(data) // 2, len(data) - 40):
        assert reason_of(data[:cut]) in ("truncated audio", "damaged audio")


def test_an_ogg_without_its_last_page_is_truncated():
    data = encode(np.random.default_rng(0).uniform(-0.5, 0.5, 30_000), AUDIO_RATE, "OGG", "VORBIS")
    assert reason_of(data[: data.rfind(b"OggS")]) == "truncated audio"


def pages(data):
    """Where the pages of an Ogg begin and end."""
    starts = [match.start() for match in re.finditer(b"OggS", data)]
    return list(zip(starts, [*starts[1:], len(data)], strict=True))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_bit_that_turned_in_any_page_of_an_ogg_is_noticed(subtype):
    """libsndfile leaves out what stood in the page, and hands out memory that nobody filled."""
    noise = np.random.default_rng(0).normal(0, 0.1, (47_000, 2)).astype(np.float32)
    data = encode(noise, 48_000, "OGG", subtype)
    assert len(decode_audio(data, max_seconds=9.0)) == pytest.approx(15_667, abs=1)
    assert len(pages(data)) > 4
    for start, end in pages(data):
        damaged = bytearray(data)
        damaged[(start + end) // 2] ^= 4
        assert reason_of(bytes(damaged)) == "damaged audio"
    first_lost = data[: pages(data)[2][0]] + data[pages(data)[2][0] + 1 :]
    assert reason_of(first_lost) == "damaged audio"


def test_what_follows_the_last_page_of_an_ogg_may_be_anything():
    data = encode(tone(), AUDIO_RATE, "OGG", "VORBIS")
    whole = decode_audio(data, max_seconds=9.0)
    np.testing.assert_array_equal(decode_audio(data + b"TAG" * 50, max_seconds=9.0), whole)


def test_a_sound_that_ends_before_its_header_says_is_damaged(monkeypatch):
    original = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, n, **more: original(self, n, **more)[: n - 1])
    assert reason_of(encode(tone())) == "damaged audio"


def test_a_flac_from_a_pipe_does_not_know_its_length():
    data = bytearray(encode(tone(), AUDIO_RATE, "FLAC", "PCM_16"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # how many samples there are, 36 bits
    assert reason_of(bytes(data)) == reason_of(bytes(data), 0.1) == "audio of unknown length"
    with pytest.raises(BadRecord, match="audio of unknown length"):
        audio_seconds(bytes(data))


def test_a_flac_that_promises_more_than_it_holds_is_truncated():
    data = bytearray(encode(tone(), AUDIO_RATE, "FLAC", "PCM_16"))
    assert int.from_bytes(data[22:26], "big") == len(tone())  # in the stream's first block
    data[22:26] = (len(tone()) + 100).to_bytes(4, "big")
    assert reason_of(bytes(data)) in ("truncated audio", "damaged audio")


def test_a_wav_from_a_pipe_does_not_know_its_size():
    data = bytearray(encode(tone(), subtype="PCM_16"))
    data[4:8] = data[40:44] = b"\xff" * 4
    assert len(decode_audio(bytes(data), max_seconds=9.0)) == len(tone())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_gives_a_waveform_or_a_reason(data):
    file_format, subtype = data.draw(st.sampled_from([("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]))
    encoded = bytearray(encode(tone()[:2000], AUDIO_RATE, file_format, subtype))
    places = st.tuples(st.integers(0, len(encoded) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=9)):
        encoded[place] = value
    try:
        wave = decode_audio(bytes(encoded), max_seconds=2.0)
        assert 0 < len(wave) <= 2 * AUDIO_RATE and np.abs(wave).max() <= 1
    except BadRecord:
        pass


@pytest.mark.parametrize(("samples", "size"), [(7, 7), (5, 5), (11, 7)])
def test_fit(samples, size):
    wave = np.arange(1, 8, dtype=np.float32)
    values, valid = fit_audio(wave, samples)
    assert valid == size and values.dtype == np.float32
    np.testing.assert_array_equal(values, [*wave[:size], *[0] * (samples - size)])
