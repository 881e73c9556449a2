"""How is a procedural source written as a TensorFlow Datasets folder of ArrayRecord files, without TensorFlow?

    python -m input_pipeline.prepare tfds --out=DIR --source=scenes --split train validation --count 300 100

`Tfds("scenes", DIR, split="train")` reads it, and so does `tfds.builder("scenes", data_dir=DIR)`.
Records keep the order of the source. Images are PNG; sound is FLAC with 16 bits, as the bytes of a Scalar feature.
"""

import argparse
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.prepare.shards import SOURCES, encode_flac, encode_image
from input_pipeline.sources.annotations import format_annotations
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.scenes import Scenes
from mmfuse.types import ConfigError, DataError, Example

RELEASE = "1.0.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--out", required=True, help="data folder: the set is a folder in it")
    parser.add_argument("--source", choices=tuple(SOURCES), default="scenes")
    parser.add_argument("--split", nargs="+", default=["train"])
    parser.add_argument("--count", nargs="+", type=int, default=[300], help="number of records in each split")


def run(options: argparse.Namespace) -> str:
    """Writes the splits, and says where."""
    if len(options.split) != len(options.count):
        raise ConfigError(
            f"{len(options.split)} splits have {len(options.count)} counts: give one count for each split."
        )
    splits = {name: (SOURCES[options.source](name), count) for name, count in zip(options.split, options.count)}
    return f"wrote {write_tfds(options.source, splits, options.out)}"


def write_tfds(name: str, splits: Mapping[str, tuple[Scenes | Digits, int]], folder: str | Path) -> Path:
    """Writes the first records of a source as each split of a data set; returns the folder of the set.

    Arguments:
      splits: name → (source, number of records).

    Raises:
      ConfigError: a count below 1, or beyond the source.
      DataError: the set is there already.
    """
    import tensorflow_datasets as tfds

    path = Path(folder) / name / RELEASE
    for split, (source, count) in splits.items():
        if not 1 <= count <= len(source):
            raise ConfigError(f"count of {split} is {count}: choose one in 1 … {len(source)}.")
    if path.exists():
        raise DataError(f"{path} is there already: choose another folder.")

    features = _features(next(source for source, _ in splits.values())[0])

    class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(RELEASE)
        code_path = None  # beside its code, the library would look for checksums of downloads

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(*part) for split, part in splits.items()}

        def _generate_examples(self, source, count) -> Iterator[tuple[int, dict[str, Any]]]:
            for index in range(count):
                yield index, _encode(source[index])

    Records.name = name
    Records(data_dir=folder, file_format="array_record").download_and_prepare()
    return path


def _features(example: Example):
    """The features of records such as this one."""
    from tensorflow_datasets import features

    text, encoded = features.Text(), features.Scalar(np.object_)
    fields = {
        "concept": text,
        "captions": features.Sequence({"text": text, "language": text, "whole": np.bool_}),
        "questions": features.Sequence({"question": text, "answer": text, "kind": text}),
        "description": text,
        "foil": text,
        "image": features.Image(shape=(None, None, 3), encoding_format="png"),
        "audio": encoded,
    }
    there = _texts(example).keys() | example.signals.keys()
    return features.FeaturesDict({field: feature for field, feature in fields.items() if field in there})


def _encode(example: Example) -> dict[str, Any]:
    record = _texts(example)
    if "image" in example.signals:
        record["image"] = io.BytesIO(encode_image(example.signals["image"], "png"))
    if "audio" in example.signals:
        record["audio"] = encode_flac(example.signals["audio"])
    return record


def _texts(example):
    """The fields of the texts that such records have."""
    return {field: value for field, value in format_annotations(example).items() if value is not None}
