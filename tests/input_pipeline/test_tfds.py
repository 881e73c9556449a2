"""Are records of prepared TensorFlow Datasets read as they were written, and what is wrong with a set said?"""

import io
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.features.feature import TensorInfo

from input_pipeline.prepare.shards import encode_image
from input_pipeline.sources.contract import concept_of
from input_pipeline.sources.tfds import Tfds
from mmfuse.types import Caption, DataError, Example, Rejected

IMAGE = encode_image(np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3), "png")
SOUND = b"sound\x00\xff\x00\x00"  # no text, and it ends with zeros
FILE = "animals/small/1.10.0/animals-train.array_record-00000-of-00001"
FEATURES = {
    "photo": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
    "photo/id": np.int64,
    "caption/id": np.int64,  # and there is no "caption"
    "sound": tfds.features.Scalar(np.object_),
    "label": tfds.features.ClassLabel(names=["polar_bear", "cat"]),
    "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["polar_bear", "cat"])),
    "said": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
    "outlines": tfds.features.Sequence(tfds.features.Sequence(np.float32)),  # ragged, and no field wants it
    "about": {"title": tfds.features.Text()},
}


def record(index):
    said = {"id": list(range(index % 3)), "text": [f"{index} is {word}" for word in ("größer", "kleiner")[: index % 3]]}
    return {
        "photo": io.BytesIO(IMAGE),
        "photo/id": 100 + index,
        "caption/id": 200 + index,
        "sound": SOUND if index else b"",
        "label": index % 2 if index < 6 else -1,
        "tags": [1, 0][: index % 3],
        "said": said,
        "outlines": [[1.0, 2.0], [], [3.0]][: index % 4],
        "about": {"title": b"\xff" if index == 5 else f"title {index}"},
    }


def build(folder, version):
    class Animals(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="small", version=version)]  # noqa: RUF012
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(FEATURES), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(range(7)), "test": self._generate_examples(range(7, 10))}

        def _generate_examples(self, indices):
            for index in indices:
                yield index, record(index)

    Animals(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:  # whoever writes ragged features needs TensorFlow, for this alone
        patch.setattr(TensorInfo, "dtype", property(lambda info: info.np_dtype))
        build(folder, "1.9.0")
        build(folder, "1.10.0")
    return folder


@pytest.fixture
def copy(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def read(folder, *, split="train", signals=("image", "audio"), **columns):
    return Tfds("animals", folder, split=split, signals=signals, columns=columns)


def refuse(*parts, name="animals", folder, split="train", **columns):
    with pytest.raises(DataError) as caught:
        Tfds(name, folder, split=split, signals=("image", "audio"), columns=columns)
    for part in parts:
        assert part in str(caught.value)


def test_signals_are_the_bytes_that_were_written(prepared):
    source = read(prepared, audio="sound", caption="label")
    assert source[1].signals == {"image": IMAGE, "audio": SOUND}
    assert source[0].signals == {"image": IMAGE}  # empty bytes
    assert read(prepared, signals=("audio",), audio="sound", caption="label")[1].signals == {"audio": SOUND}
    assert len(read(prepared, signals=())) == 7  # none of its texts is named


def test_labels_are_read_as_their_names(prepared):
    source = read(prepared, caption="label", concept="label")
    assert [source[index].captions for index in (0, 1)] == [(Caption("polar bear"),), (Caption("cat"),)]
    assert (source[0].concept, source[1].concept) == ("polar bear", "cat")
    # of a label that is not known the image says what is shown
    assert source[6].captions == () and source[6].concept == concept_of(None, source[6].signals, "")
    assert [caption.text for caption in read(prepared, caption="tags")[2].captions] == ["cat", "polar bear"]


def test_names_may_have_slashes(prepared):
    source = read(prepared, concept="photo/id", description="about/title")
    assert source[3] == Example(f"{prepared}/{FILE}:3", "103", {"image": IMAGE}, (), (), "title 3")
    assert read(prepared, image=None, description="about/title")[3].signals == {}
    refuse("no column 'photo/ids' for 'concept'; did you mean 'photo/id'?", folder=prepared, concept="photo/ids")


@pytest.mark.parametrize("columns", [{"caption": "said/text"}, {"captions": "said"}])
def test_a_sequence_of_texts_makes_several_captions(prepared, columns):
    source = read(prepared, **columns)
    assert [caption.text for caption in source[2].captions] == ["2 is größer", "2 is kleiner"]
    assert [len(source[index].captions) for index in range(3)] == [0, 1, 2]


def test_bytes_that_are_no_text_reject_their_record_alone(prepared):
    source = read(prepared, description="about/title")
    assert source[4].description == "title 4"
    assert source[5] == Rejected("text is not UTF-8", f"{prepared}/{FILE}:5")


def test_the_newest_version_is_taken_unless_one_is_named(prepared):
    assert "/1.10.0/" in read(prepared)[0].key
    for name in ("animals:1.9.0", "animals/small:1.9.0"):
        assert "/1.9.0/" in Tfds(name, prepared, split="train", signals=("image",))[0].key


def test_slices_and_sums_of_splits_lead_back_to_their_records(prepared):
    source = read(prepared, split="train[2:5]+test", description="about/title")
    assert [source[index].description for index in range(len(source))] == [f"title {n}" for n in (2, 3, 4, 7, 8, 9)]
    assert [source[index].key.rpartition(":")[2] for index in range(6)] == ["2", "3", "4", "0", "1", "2"]


def test_nothing_goes_to_the_network_and_nothing_is_written(prepared, monkeypatch):
    def refused(*arguments):
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    assert len([read(prepared)[index] for index in range(7)]) == 7
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_what_is_not_there_is_said_with_what_is(prepared, tmp_path):
    refuse("there is no folder", folder=tmp_path / "none")
    refuse("did you mean 'animals/small'", "animals/small:1.9.0", name="animal/small", folder=prepared)
    refuse("no prepared data set 'animals:2.0.0'", name="animals:2.0.0", folder=prepared)
    refuse("no split 'trian'", "train, test", split="trian", folder=prepared)
    refuse("no records", split="train[:0]", folder=prepared)
    refuse("no column 'lable' for 'caption'; did you mean 'label'?", folder=prepared, caption="lable")
    refuse("no field 'captoin'; did you mean 'caption'?", folder=prepared, captoin="label")
    refuse("'tags'", "not the encoded bytes of one audio", folder=prepared, audio="tags")


def test_a_name_that_fits_several_configs_is_refused(copy):
    shutil.copytree(copy / "animals/small", copy / "animals/large")
    refuse("animals/large, animals/small", folder=copy)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_files_with_too_few_records_are_refused(copy, damage):
    data = (copy / FILE).read_bytes()
    (copy / FILE).unlink()
    if damage == "cut":
        (copy / FILE).write_bytes(data[: len(data) // 2])
    refuse(FILE, "has 0 records where dataset_info.json says 7", folder=copy)


def test_a_damaged_record_is_rejected(copy):
    data = (copy / FILE).read_bytes()
    position = data.index(bytes(200)) // 2  # the records come first, and then there is nothing up to the next 64 KiB
    (copy / FILE).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    records = [read(copy)[index] for index in range(7)]
    bad = [index for index in range(7) if isinstance(records[index], Rejected)]
    assert len(bad) == 1 and records[bad[0]] == Rejected("damaged record", f"{copy}/{FILE}:{bad[0]}")


def test_a_set_of_tfrecords_is_refused_with_the_command(copy):
    info = copy / "animals/small/1.10.0/dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    refuse("tfds build animals --file_format=array_record", folder=copy)


def test_a_feature_that_needs_tensorflow_is_refused(copy):
    features = copy / "animals/small/1.10.0/features.json"
    fields = json.loads(features.read_text())
    fields["featuresDict"]["features"]["sound"] = {
        "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
        "audio": {"dtype": "int64", "encoding": "none", "shape": {"dimensions": ["-1"]}},
    }
    features.write_text(json.dumps(fields))
    refuse("only TensorFlow can read", "docs/tfds.md", folder=copy)


@pytest.mark.parametrize(
    "fields",
    [
        {"pythonClassName": "payload.Feature"},
        {"python_class_name": "payload.Feature"},
        {"type": "payload.Feature", "content": {}},
        {"featuresDict": {"features": {"a": {"pythonClassName": "payload.Feature"}}}},
        {
            "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "proto_cls": "tensorflow_datasets.FeaturesDict",
            "content": '{"features": {"a": {"pythonClassName": "payload.Feature"}}}',
        },
    ],
)
def test_no_module_of_a_set_is_imported(copy, monkeypatch, fields):
    (copy / "payload.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(copy)
    (copy / "animals/small/1.10.0/features.json").write_text(json.dumps(fields))
    refuse("names the class 'payload.Feature'", folder=copy)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_a_set_that_does_not_parse_is_refused(copy, file):
    (copy / "animals/small/1.10.0" / file).write_text("{")
    refuse("no data set that tfds can read", folder=copy)
