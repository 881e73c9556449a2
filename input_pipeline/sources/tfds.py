"""How are records read of a data set that TensorFlow Datasets prepared as ArrayRecord, without TensorFlow?

A prepared set is a folder `NAME[/CONFIG]/VERSION` with a `dataset_info.json`, a `features.json` and its files. What is
written there is all that is read: no code of the set is looked up, nothing is downloaded, nothing is written, and no
module is imported that `features.json` names, unless it is one of the library's features. Only the
features that somebody wants are parsed; images and sound stay encoded, and `transforms/` decodes them.

Preparing sets is another matter, see `docs/tfds.md`. The library is imported when a source is made: 1.2 s.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from input_pipeline.names import nearest
from input_pipeline.sources.files import SIGNALS, locate
from input_pipeline.sources.rows import choose_columns, find_columns, read_record
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError, Example, Rejected

FEATURES = "tensorflow_datasets.core.features."
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")  # as protobuf reads them, and as old sets were written
VERSION = re.compile(r"\d+\.\d+\.\d+")


class Column(NamedTuple):
    """Where one field of ours lies in a record.

    Attributes:
      leaves: flat names in the record; more than one where the feature is a group, such as a sequence of dictionaries.
      label_names: what the numbers of a class label stand for.
    """

    path: str
    leaves: tuple[str, ...]
    label_names: tuple[str, ...] | None


class Tfds:
    """A source of the records of one split of a prepared data set.

    Arguments:
      name: "mnist", "mnist:3.0.1", "coco_captions/2014", … The newest version there is, if none is named.
      folder: the data folder that sets were prepared in (`data_dir`).
      split: "train", "train[:90%]", "train+test", …
      signals: the modalities to read, of "image" and "audio".
      columns: field of `rows.py` → feature, a slash for each level: {"caption": "captions/text"}. A feature with the
        name of a field, and the one Image feature, need no mention. The number of a class label is read as its name:
        {"caption": "label"} makes captions of classes.

    The key of a record is "file:position".

    Raises:
      DataError: no such set, split or feature, a set that is not ArrayRecord or that only TensorFlow can read, or files
        with another number of records than `dataset_info.json` says.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path,
        *,
        split: str,
        signals: Sequence[str],
        columns: Mapping[str, str | None] | None = None,
    ):
        from array_record.python.array_record_data_source import ArrayRecordDataSource
        from tensorflow_datasets.core.example_parser import ExampleParserNp
        from tensorflow_datasets.core.utils import flatten_nest_dict

        info = _open_info(find_prepared(name, Path(folder)))
        self._shards = _shards(info, split)
        self._ends = np.cumsum([shard.take for shard in self._shards], dtype=np.int64)
        self._signals = [signal for signal in SIGNALS if signal in signals]
        specs = flatten_nest_dict(info.features.get_serialized_info())
        features = _features(info.features)
        chosen = _choose_features(info, features, choose_columns(columns), signals)
        self._columns = {field: _column(info, specs, field, path, features[path]) for field, path in chosen.items()}
        needed = {leaf for column in self._columns.values() for leaf in column.leaves}
        # A parser reads no feature but those that it is given, and stumbles over ragged ones that it is not given.
        self._parser = ExampleParserNp(
            {leaf: spec for leaf, spec in specs.items() if leaf in needed or spec.sequence_rank > 1}
        )
        self._records = ArrayRecordDataSource(self._shards)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: SupportsIndex) -> Example | Rejected:
        """Returns record `index` of the split, in the order of its files."""
        number, row = locate(index, self._ends)
        shard = self._shards[number]
        key = f"{shard.filename}:{shard.skip + row}"
        return read_record(lambda: self._read_fields(index), key=key, signals=self._signals, folder="")

    def _read_fields(self, index: SupportsIndex) -> dict[str, Any]:
        from google.protobuf.message import DecodeError

        try:
            leaves = self._parser.parse_example(self._records[index])
        except (
            RuntimeError,
            DecodeError,
            ValueError,
            AttributeError,
        ):  # of the file, the message, its shapes, its types
            raise BadRecord("damaged record") from None
        return {field: _read_column(field, column, leaves) for field, column in self._columns.items()}


def find_prepared(name: str, folder: Path) -> Path:
    """Returns the folder of the newest version of a prepared set, "NAME[/CONFIG][:VERSION]".

    Raises:
      DataError: there is none, or the name fits several configs.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}: name the data folder (`data_dir`) that sets were prepared in.")
    files = [file for depth in ("*/*", "*/*/*") for file in folder.glob(f"{depth}/dataset_info.json")]
    found = {file.parent: "/".join(file.relative_to(folder).parts[:-2]) for file in sorted(files)}
    found = {path: stem for path, stem in found.items() if VERSION.fullmatch(path.name)}
    stem, _, version = name.partition(":")
    fits = {
        path: other
        for path, other in found.items()
        if stem in (other, other.split("/")[0]) and version in ("", path.name)
    }
    if not fits:
        known = [f"{other}:{path.name}" for path, other in found.items()]
        hint = nearest(name, [*found.values(), *known])
        raise DataError(f"{folder} holds no prepared data set '{name}'{hint} There are: {', '.join(known) or 'none'}.")
    if len(set(fits.values())) > 1:
        raise DataError(
            f"'{name}' in {folder} has several configs: name one of {', '.join(sorted(set(fits.values())))}."
        )
    return max(fits, key=lambda path: [int(part) for part in path.name.split(".")])


def _open_info(path: Path):
    """What the set says of itself: its features, splits and files."""
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    _check_classes(path)
    try:
        with warnings.catch_warnings():  # that the library calls a deprecated function of protobuf is not ours to mend
            warnings.simplefilter("ignore", DeprecationWarning)
            info = tfds.builder_from_directory(path).info
    except ImportError as error:
        raise DataError(
            f"{path} has a feature, Audio or Video, that only TensorFlow can read ({error}): prepare it with the "
            "encoded bytes as a Scalar feature instead, see docs/tfds.md."
        ) from error
    except (ValueError, OSError, json_format.Error) as error:
        raise DataError(f"{path} holds no data set that tfds can read: {error} Prepare it again.") from error
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{path} is not in the format array_record, the one with random access. Prepare it again, on a machine "
            f"that has what its builder needs: `tfds build {info.name} --file_format=array_record`."
        )
    return info


def _check_classes(path: Path) -> None:
    """Refuses a set with features of other classes: the library would import, and so run, any module that is named."""

    def check(fields):
        for key in CLASS_KEYS:
            name = fields.get(key, FEATURES)
            if isinstance(name, str) and not name.startswith(FEATURES):
                raise DataError(
                    f"{path}/features.json names the class {name!r}: only features of tfds itself are read."
                )
        if "proto_cls" in fields and isinstance(fields.get("content"), str):  # json within json, of old sets
            json.loads(fields["content"], object_hook=check)
        return fields

    try:
        json.loads((path / "features.json").read_bytes(), object_hook=check)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} holds no data set that tfds can read: {error}. Prepare it again.") from error


def _shards(info, split: str) -> list:
    """The files of a split, and the records of each that belong to it."""
    from array_record.python.array_record_data_source import array_record_module

    try:
        shards = info.splits[split].file_instructions
    except (ValueError, KeyError) as error:
        raise DataError(f"{info.full_name} has no split '{split}'. There are: {', '.join(info.splits)}.") from error
    if not shards:
        raise DataError(f"the split '{split}' of {info.full_name} has no records.")
    for shard in shards:
        # A file that is missing or cut opens without an error, and has no records; only closing it would raise one.
        reader = array_record_module.ArrayRecordReader(shard.filename)
        count = reader.num_records()
        if count != shard.examples_in_shard:
            raise DataError(
                f"{shard.filename} has {count} records where dataset_info.json says {shard.examples_in_shard}: it is "
                "missing, cut or damaged. Copy or prepare it again."
            )
        reader.close()
    return shards


def _features(feature, path: str = "") -> dict[str, Any]:
    """Path → feature, of all that a feature holds. A name may have slashes itself, as in `image` and `image/id`."""
    import tensorflow_datasets as tfds

    while hasattr(feature, "feature"):  # of a sequence
        feature = feature.feature
    found = {path: feature} if path else {}
    for name, part in feature.items() if isinstance(feature, tfds.features.FeaturesDict) else ():
        found |= _features(part, f"{path}/{name}" if path else name)
    return found


def _choose_features(
    info, features: Mapping[str, Any], columns: Mapping[str, str], signals: Sequence[str]
) -> dict[str, str]:
    """Field → the path of its feature, for those fields that the set has and somebody wants."""
    import tensorflow_datasets as tfds

    columns = dict(columns)
    images = [name for name, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
    if columns.get("image") == "image" and images and "image" not in images:
        if len(images) > 1 and "image" in signals:
            raise DataError(f"{info.full_name} has the images {', '.join(images)}: name one as 'image' in columns.")
        columns["image"] = images[0]
    return find_columns(columns, list(features), info.full_name, signals)


def _column(info, specs: Mapping[str, Any], field: str, path: str, feature) -> Column:
    import tensorflow_datasets as tfds

    leaves = (path,) if path in specs else tuple(leaf for leaf in specs if leaf.startswith(f"{path}/"))
    if field in SIGNALS and (leaves != (path,) or specs[path].shape or specs[path].np_dtype != np.object_):
        raise DataError(f"the feature '{path}' of {info.full_name} is not the encoded bytes of one {field}.")
    label = isinstance(feature, tfds.features.ClassLabel)
    return Column(path, leaves, tuple(name.replace("_", " ") for name in feature.names) if label else None)


def _read_column(field: str, column: Column, leaves: Mapping[str, Any]) -> Any:
    if field in SIGNALS:
        return leaves[column.path]
    if column.leaves == (column.path,):
        return _plain(leaves[column.path], column.label_names)
    group = {leaf.removeprefix(f"{column.path}/"): _plain(leaves[leaf], None) for leaf in column.leaves}
    if all(isinstance(values, list) for values in group.values()):
        return [dict(zip(group, entry)) for entry in zip(*group.values())]
    return group


def _plain(value: Any, label_names: tuple[str, ...] | None) -> Any:
    """A value as json has it: text for bytes, a list for an array, and the name of a label."""
    if isinstance(value, np.ndarray | list):
        entries = value.tolist() if isinstance(value, np.ndarray) else value
        return [plain for plain in (_plain(entry, label_names) for entry in entries) if plain is not None]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRecord("text is not UTF-8") from None
    if label_names is not None and value is not None:
        return label_names[value] if value >= 0 else None  # −1 is a label that is not known
    return value
