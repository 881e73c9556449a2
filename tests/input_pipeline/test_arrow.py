"""Are the rows of a saved Hugging Face data set read as they were written?"""

import json
import os

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.sources.arrow import Arrow
from mmfuse.types import Caption, DataError, Example, Rejected

SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "caption": pa.list_(pa.string()),
        "label": pa.int64(),
    }
)


def image(number):
    return np.random.default_rng(number).bytes(101 + number)


def write(folder, *shards, batch=3, **state):
    """A folder as `save_to_disk` of datasets 5.2.0 writes it, with the numbers of each file in `shards`."""
    folder.mkdir()
    names = [f"data-{shard:05d}-of-{len(shards):05d}.arrow" for shard in range(len(shards))]
    for name, numbers in zip(names, shards):
        rows = [
            {
                "image": {"bytes": image(number), "path": None},
                "caption": [f"number {number}", "b"],
                "label": number % 5,
            }
            for number in numbers
        ]
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
            for start in range(0, len(rows), batch):
                stream.write_batch(pa.RecordBatch.from_pylist(rows[start : start + batch], SCHEMA))
    written = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None} | state
    (folder / "state.json").write_text(json.dumps(written))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def example(key, number):
    captions = (Caption(f"number {number}"), Caption("b"))
    return Example(key, str(number % 5), {"image": image(number)}, captions)


def test_a_text_that_is_not_utf8_costs_its_own_row_alone(tmp_path):
    path = write(tmp_path / "data", range(4), batch=4)
    file = tmp_path / "data" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes().replace(b"number 2", b"n\xffmber 2"))
    source = Arrow(path)
    assert [source[row].captions[0].text for row in (0, 1, 3)] == ["number 0", "number 1", "number 3"]
    assert source[2] == Rejected("text is not UTF-8", f"{file}:2")


def test_a_table_without_texts(tmp_path):
    path = write(tmp_path / "data", range(4))
    file = f"{path}/data-00000-of-00001.arrow"
    table = pa.table({"img": [b"one", b"two"], "audio": [b"three", b"four"]})
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    source = Arrow(path, columns={"image": "img"})
    assert source[1].signals == {"image": b"two", "audio": b"four"}
    counted = Arrow(path, columns={"image": "img"}, signals=())
    assert len(counted) == 2 and counted[1] == Rejected("empty record", f"{file}:1")


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_file_is_refused_before_it_is_unfolded(tmp_path, compression):
    path = write(tmp_path / "data", range(4))
    table = pa.table({"caption": pa.array(["a"] * 1000).dictionary_encode(), "description": ["b" * 100] * 1000})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(f"{path}/data-00000-of-00001.arrow", table.schema, options=options) as stream:
        stream.write_table(table)
    with pytest.raises(DataError, match="it is compressed; save it without compression"):
        Arrow(path)


def test_a_dictionary_may_be_compressed_alone(tmp_path):
    path = write(tmp_path / "data", range(4))
    table = pa.table({"caption": pa.array(["a" * 1000] * 9).dictionary_encode()})
    messages = {}
    for compression in (None, "zstd"):
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table)
        messages[compression] = list(pa.ipc.MessageReader.open_stream(stream.getvalue()))
    schema, dictionary, batch = messages["zstd"][0], messages["zstd"][1], messages[None][2]
    parts = [message.serialize().to_pybytes() for message in (schema, dictionary, batch)]
    (tmp_path / "data" / "data-00000-of-00001.arrow").write_bytes(b"".join(parts) + b"\xff\xff\xff\xff\0\0\0\0")
    with pytest.raises(DataError, match="it is compressed"):
        Arrow(path)


def test_every_row_in_any_order(tmp_path):
    folder = write(tmp_path / "set", range(7), [], range(7, 12))
    source = Arrow(folder, columns={"concept": "label"})
    expected = [example(f"{folder}/data-00000-of-00003.arrow:{row}", row) for row in range(7)]
    expected += [example(f"{folder}/data-00002-of-00003.arrow:{row}", 7 + row) for row in range(5)]
    assert len(source) == 12
    order = np.random.default_rng(0).permutation(12)
    assert [source[index] for index in order] == [expected[index] for index in order]
    assert Arrow(folder, signals=())[11].signals == {}
    other = write(tmp_path / "other", range(5), [], range(5, 12))
    assert source.fingerprint == Arrow(folder).fingerprint != Arrow(other).fingerprint


def test_paths_start_from_the_folder(tmp_path):
    folder = tmp_path / "set"
    write(folder, [0])
    rows = pa.RecordBatch.from_pylist([{"image": {"path": "a.jpg"}}, {"image": {"path": "/a.jpg"}}], SCHEMA)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
        stream.write_batch(rows)
    (folder / "a.jpg").write_bytes(b"image")
    source = Arrow(str(folder))
    assert source[0].signals == {"image": b"image"}
    assert source[1].reason == "unsafe path"


def test_offsets_that_lead_astray_are_not_followed(tmp_path):
    folder = write(tmp_path / "set", range(4))
    path = tmp_path / "set" / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    ends = np.cumsum([101, 102, 103], dtype=np.int32)  # of the images of the first batch
    assert content.count(ends.tobytes()) == 1
    path.write_bytes(content.replace(ends.tobytes(), np.array([101, 203, 2**31 - 1], np.int32).tobytes()))
    source = Arrow(folder, columns={"concept": "label"})
    assert source[2] == Rejected("damaged arrow", f"{path}:2")
    assert [source[row] for row in (0, 1, 3)] == [example(f"{path}:{row}", row) for row in (0, 1, 3)]


def test_a_struct_with_a_field_that_is_always_null_is_read(tmp_path):
    """As `datasets` writes pictures that came as bytes without a name."""
    folder = tmp_path / "set"
    write(folder, [0])
    rows = pa.RecordBatch.from_pylist(
        [
            {"image": {"bytes": b"%d" % row, "path": None}, "captions": [{"text": "t", "language": None}]}
            for row in range(3)
        ]
    )
    path = folder / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as stream:
        stream.write_batch(rows)
    source = Arrow(str(folder))
    assert [source[row].signals for row in range(3)] == [{"image": b"%d" % row} for row in range(3)]
    assert [source[row].captions[0].text for row in range(3)] == ["t"] * 3


def test_a_file_that_changed_is_not_touched(tmp_path):
    source = Arrow(write(tmp_path / "set", range(3)))
    path = tmp_path / "set" / "data-00000-of-00001.arrow"
    os.truncate(path, 0)  # to read it would end the process
    assert source[1] == Rejected("file changed since it was indexed", f"{path}:1")
    path.unlink()
    assert source[1] == Rejected("file cannot be read", f"{path}:1")


@pytest.mark.parametrize("lost", [1, 8, 9, "batch", "all"])
def test_a_truncated_file_is_named(tmp_path, lost):
    folder = write(tmp_path / "set", range(6))
    path = tmp_path / "set" / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        stream.read_next_batch()
        first = file.tell()
    path.write_bytes(content[: {"batch": first, "all": 0}.get(lost) if isinstance(lost, str) else -lost])
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow cannot be read as an Arrow stream"):
        Arrow(folder)


def test_folders_of_something_else(tmp_path):
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"is a DatasetDict.*dict/train"):
        Arrow(str(tmp_path / "dict"))
    with pytest.raises(DataError, match="is no folder that save_to_disk wrote"):
        Arrow(str(tmp_path))
    for content in ("{", "[]", "{}", '{"_data_files": [5]}', '{"_data_files": [{"filename": 5}]}'):
        (tmp_path / "state.json").write_text(content)
        with pytest.raises(DataError, match="is no folder that save_to_disk wrote"):
            Arrow(str(tmp_path))


def test_what_cannot_be_a_source(tmp_path):
    with pytest.raises(DataError, match=r"has an index of its rows.*flatten_indices"):
        Arrow(write(tmp_path / "indexed", range(3), _indices_data_files=[{"filename": "indices.arrow"}]))
    with pytest.raises(DataError, match=r"names '\.\./x\.arrow'"):
        Arrow(write(tmp_path / "outside", range(3), _data_files=[{"filename": "../x.arrow"}]))
    with pytest.raises(DataError, match=r"x\.arrow cannot be read"):
        Arrow(write(tmp_path / "missing", range(3), _data_files=[{"filename": "x.arrow"}]))
    with pytest.raises(DataError, match="no rows"):
        Arrow(write(tmp_path / "empty", []))
    with pytest.raises(DataError, match="did you mean 'label'"):
        Arrow(write(tmp_path / "columns", range(3)), columns={"concept": "labels"})
