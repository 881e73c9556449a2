"""Are the rows of records that were decoded once those of records that are decoded anew, and when is that done?"""

import io

import cv2
import numpy as np
import pytest
import soundfile

from input_pipeline.decoded import Decoded, decode_once
from input_pipeline.streams import Recipe, training_stream
from input_pipeline.texts import TextSpec
from mmfuse.types import Caption, Example, Rejected

BUCKET = {"image": (11, 13), "audio": (701,)}
AUGMENT = {
    "image": {
        "crop": {"scale": (0.3, 1.0)},
        "flip": {},
        "jitter": {"brightness": 0.3, "contrast": 0.3},
        "randaugment": {},
    },
    "audio": {"shift_seconds": 0.01, "gain_db": 6.0},
}
SIDE, SAMPLES = 97, 907  # of what the files hold


class Files:
    """29 records: with a picture, a sound or both, in turn; number 8 is damaged and number 11 rejected."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 29

    def __getitem__(self, index):
        self.read += 1
        if index == 11:
            return Rejected("empty record", "eleven")
        rng, sound = np.random.default_rng(index), io.BytesIO()
        soundfile.write(sound, rng.uniform(-0.5, 0.5, SAMPLES).astype(np.float32), 16_000, format="FLAC")
        image = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        _, picture = cv2.imencode([".png", ".jpg"][index % 2], image)
        signals = {"image": picture.tobytes(), "audio": sound.getvalue() if index != 8 else b"fLaC, and no more"}
        if index % 3 < 2:
            del signals[["image", "audio"][index % 3]]
        return Example(f"key{index}", f"concept{index}", signals, (Caption(f"number {index}", "en"),))


@pytest.fixture(scope="module")
def recipe(tokenizer):
    return Recipe(BUCKET, {"caption": TextSpec("captions", 1, 7)}, tokenizer, AUGMENT)


def epochs(source, recipe):
    stream = training_stream({"it": source}, {"it": 1.0}, recipe, rows=10, seed=3)
    return [stream[step] for step in range(9)]


def test_rows_are_the_same_in_every_epoch_and_files_are_read_once(recipe):
    files = Files()
    decoded = decode_once(files, recipe.decode, limit=10**6)
    read = files.read
    for ours, theirs in zip(epochs(decoded, recipe), epochs(Files(), recipe), strict=True):
        np.testing.assert_equal(ours.batch.signals, theirs.batch.signals)
        np.testing.assert_equal(ours.batch.text, theirs.batch.text)
        assert (ours.tally, ours.rejected) == (theirs.tally, theirs.rejected)
        np.testing.assert_equal([ours.batch.concept, ours.batch.origin], [theirs.batch.concept, theirs.batch.origin])
    assert files.read == read
    assert decoded[8] == Rejected("damaged audio", "key8") and decoded[11] == Rejected("empty record", "eleven")


def test_no_more_is_decoded_than_the_bucket_needs(recipe):
    decoded = decode_once(Files(), recipe.decode, limit=10**6)
    assert decoded[5].signals["audio"].shape == BUCKET["audio"]
    assert decoded[5].signals["image"].shape == (49, 49, 3)  # a JPEG of half the size
    silent = Recipe({"image": BUCKET["image"]}, {}, recipe.tokenizer)
    assert set(decode_once(Files(), silent.decode, limit=10**6)[5].signals) == {"image"}


def test_a_source_that_takes_more_memory_is_left_as_it_is(recipe):
    files = Files()
    whole = sum(
        1000 + sum(value.nbytes for value in record.signals.values()) if isinstance(record, Example) else 1000
        for record in map(recipe.decode, map(files.__getitem__, range(29)))
    )
    assert isinstance(decode_once(files, recipe.decode, limit=whole), Decoded)
    assert decode_once(files, recipe.decode, limit=whole - 1) is files


def test_a_large_source_is_told_from_a_few_of_its_records(recipe):
    class Many(Files):
        def __len__(self):
            return 10**8

        def __getitem__(self, index):
            return super().__getitem__(index % 29)

    files = Many()
    assert decode_once(files, recipe.decode, limit=10**9) is files
    assert files.read == 64
    files.read = 0
    assert decode_once(files, recipe.decode, limit=0) is files
    assert not files.read


def test_records_that_turn_out_larger_than_the_few_are_given_up(recipe):
    class Growing(Files):
        """Those that are looked at tell little of the others."""

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            self.read += 1
            return Example(str(index), "", {"audio": np.zeros(10 if self.read <= 64 else 10_000, np.float32)})

    files = Growing()
    assert decode_once(files, recipe.decode, limit=2 * 10**6) is files
    assert files.read < 64 + 200
