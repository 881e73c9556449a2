"""Is what `prepare tfds` writes what the source gave, and can the library itself read it?"""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from input_pipeline.prepare.__main__ import main
from input_pipeline.prepare.tfds import write_tfds
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.scenes import Scenes
from input_pipeline.sources.tfds import Tfds
from input_pipeline.transforms.audio import decode_audio
from input_pipeline.transforms.image import decode_image
from mmfuse.types import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    main(["tfds", f"--out={folder}", "--split", "train", "test", "--count", "7", "3"])
    return folder


@pytest.mark.parametrize("split, count", [("train", 7), ("test", 3)])
def test_scenes_come_back_as_they_were(folder, split, count):
    source = Tfds("scenes", folder, split=split, signals=("image", "audio"))
    assert len(source) == count
    for index in range(count):
        example, made = source[index], Scenes(split)[index]
        assert example.captions == tuple(caption._replace(mentions=()) for caption in made.captions)
        assert example.questions == tuple(question._replace(about=()) for question in made.questions)
        assert (example.description, example.concept) == (made.description, made.concept)
        np.testing.assert_array_equal(decode_image(example.signals["image"]), made.signals["image"])
        np.testing.assert_allclose(
            decode_audio(example.signals["audio"], max_seconds=3.0), made.signals["audio"], atol=2**-15
        )


def test_digits_have_neither_sound_nor_description(tmp_path):
    path = write_tfds("digits", {"test": (Digits("test"), 3)}, tmp_path)
    assert path == tmp_path / "digits" / "1.0.0"
    example, made = Tfds("digits", tmp_path, split="test", signals=("image", "audio"))[2], Digits("test")[2]
    assert example.captions == made.captions and example.description is made.description is None
    assert example.concept == made.concept != example.key
    np.testing.assert_array_equal(decode_image(example.signals["image"]), made.signals["image"])


@pytest.mark.filterwarnings("ignore:label:DeprecationWarning")
def test_the_library_reads_it_by_name(folder):
    builder = tfds.builder("scenes", data_dir=folder)
    first = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})[0]
    assert first["captions"]["text"][0].decode() == Scenes("train")[0].captions[0].text
    assert builder.info.splits["test"].num_examples == 3


def test_what_cannot_be_written_is_refused(folder, tmp_path, capsys):
    with pytest.raises(DataError, match="is there already"):
        write_tfds("scenes", {"train": (Scenes("train"), 1)}, folder)
    for count in (0, 24):
        with pytest.raises(ConfigError, match="choose one in 1 … 23"):
            write_tfds("scenes", {"train": (Scenes("train", size=23), count)}, tmp_path)
    with pytest.raises(SystemExit):
        main(["tfds", f"--out={tmp_path}", "--split", "train", "test", "--count", "5"])
    assert "one count for each split" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
