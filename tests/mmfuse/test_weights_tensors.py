"""Files of tensors: by bytes written by hand, and what is wrong with a file is said."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.types import CheckpointError
from mmfuse.weights.tensors import read_json, tensor_entries, write_hash, write_tensors

NAME = "model.safetensors"


def by_hand(path, tensors, **changes):
    """A file of name → (dtype, shape, bytes); `changes` are made in the fields of all."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets} | changes
        data += content
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "dtype, content, values",
    [
        ("F32", struct.pack("<3f", 1.5, -2, 0.1), np.array([1.5, -2, 0.1], np.float32)),
        ("F16", bytes.fromhex("003e00c0662e"), np.array([1.5, -2, 0.1], np.float16)),
        ("BF16", bytes.fromhex("c03f00c0cd3d"), np.array([1.5, -2, 0.1], jnp.bfloat16)),
        ("F8_E4M3", bytes.fromhex("3cc01d"), np.array([1.5, -2, 0.1], jnp.float8_e4m3fn)),
        ("F8_E5M2", bytes.fromhex("3ec02e"), np.array([1.5, -2, 0.1], jnp.float8_e5m2)),
        ("I64", struct.pack("<3q", 1, -2, 3), np.array([1, -2, 3])),
    ],
)
def test_every_dtype_is_read_to_the_bit(tmp_path, dtype, content, values):
    by_hand(tmp_path / NAME, {"first": ("U8", [5], b"abcde"), "it": (dtype, [3, 1], content)})
    entries = tensor_entries(tmp_path)
    read = entries["it"].read()
    assert read.shape == entries["it"].shape == (3, 1) and read.dtype == values.dtype
    assert read.tobytes() == values.tobytes()


def test_what_is_written_is_read(tmp_path):
    arrays = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in SHAPES.items()}
    write_tensors(tmp_path / NAME, ((name, array.shape, lambda array=array: array) for name, array in arrays.items()))
    entries = tensor_entries(tmp_path)
    assert entries.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(entries[name].read(), array)
        assert entries[name].begin % 4 == 0


SHAPES = {"b": (3, 2), "a": (), "c.ü": (5,), "nothing": (0, 7)}


def sharded(folder, weight_map):
    by_hand(folder / "one.safetensors", {"a": ("U8", [2], b"ab")})
    by_hand(folder / "two.safetensors", {"b": ("U8", [1], b"c"), "c": ("U8", [1], b"d")})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


WHERE = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}


def test_several_files_are_one_folder(tmp_path):
    sharded(tmp_path, WHERE)
    assert {name: entry.read().tobytes() for name, entry in tensor_entries(tmp_path).items()} == {
        "a": b"ab",
        "b": b"c",
        "c": b"d",
    }


@pytest.mark.parametrize(
    "weight_map, said",
    [
        (WHERE | {"d": "two.safetensors"}, "do not agree about d"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "do not agree about c"),
        (WHERE | {"a": "../one.safetensors"}, "not a file of this folder"),
        (WHERE | {"a": "three.safetensors"}, "three.safetensors is missing"),
        ([], "no 'weight_map'"),
        ({"a": 3}, "no 'weight_map'"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path, weight_map, said):
    sharded(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=said):
        tensor_entries(tmp_path)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"dtype": "F4"}, "it has the dtype F4"),
        ({"shape": [4]}, "it has 12 bytes, which are not float32"),
        ({"shape": [-3]}, "beyond the end"),
        ({"shape": 3}, "cannot be understood"),
        ({"data_offsets": [4, 16]}, "beyond the end"),
        ({"data_offsets": [12, 0]}, "beyond the end"),
        ({"data_offsets": [0]}, "cannot be understood"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, changes, said):
    by_hand(tmp_path / NAME, {"it": ("F32", [3], bytes(12))}, **changes)
    with pytest.raises(CheckpointError, match=said):
        tensor_entries(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 9, 30])
def test_a_cut_file_is_refused(tmp_path, length):
    by_hand(tmp_path / NAME, {"it": ("F32", [3], bytes(12))})
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:length])
    with pytest.raises(CheckpointError, match="is cut"):
        tensor_entries(tmp_path)


def test_what_is_no_folder_of_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        tensor_entries(tmp_path)
    (tmp_path / NAME).write_bytes(struct.pack("<Q", 2) + b"[]")
    with pytest.raises(CheckpointError, match="cannot be understood"):
        tensor_entries(tmp_path)


@pytest.mark.parametrize("text, said", [("{", "as JSON"), ("[1]", "holds a list"), ("[" * 100_000, "as JSON")])
def test_what_is_no_object_is_refused(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        read_json(tmp_path / "config.json")


def test_a_file_is_held_to_the_hash_beside_it(tmp_path):
    by_hand(tmp_path / NAME, {"it": ("F32", [3], bytes(12))})
    write_hash(tmp_path / NAME)
    assert tensor_entries(tmp_path)
    content = bytearray((tmp_path / NAME).read_bytes())
    content[-1] ^= 1
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="is not the file that was written"):
        tensor_entries(tmp_path)
