"""How do named tensors lie in a file?

A safetensors file is 8 bytes with the length n of a header, n bytes of JSON (name → dtype, shape, [begin, end) in what
follows), and the tensors, little-endian and row by row. One tensor is read at a time, so that memory holds one at a
time. What the tensors mean is not known here. Float8 and bfloat16 are read as such.
"""

import hashlib
import json
import math
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mmfuse.types import CheckpointError, ConfigError

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
MAX_HEADER = 100 << 20  # bytes; the limit of the format's own reader
SHOWN = 5  # names in an error message
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Entry(NamedTuple):
    """Where a tensor lies, and what it is."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # byte of the file

    def read(self) -> np.ndarray:
        """Reads this tensor alone."""
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            data = file.read(math.prod(self.shape) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def tensor_entries(folder: str | Path, *, one: str = ONE) -> dict[str, Entry]:
    """Name → entry of all tensors of a folder: of the file `one`, or of all files that an index names.

    Raises:
      CheckpointError: a file is missing, is not the one that its hash beside it is of, or cannot be understood.
    """
    folder = Path(folder)
    if (folder / one).is_file():
        return _file_entries(folder / one)
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder} has neither {one} nor {INDEX}: copy the weights there as safetensors.")
    where = read_json(folder / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise CheckpointError(f"{folder / INDEX} has no 'weight_map' of names to files: copy it again.")
    for file in set(where.values()):
        if Path(file).name != file:
            raise CheckpointError(f"{folder / INDEX} names {file!r}, which is not a file of this folder.")
    found: dict[str, Entry] = {}
    for file in sorted(set(where.values())):
        found |= _file_entries(folder / file)
    strayed = [name for name in where | found if name not in found or found[name].path.name != where.get(name)]
    if strayed:
        names = ", ".join(strayed[:SHOWN])
        raise CheckpointError(f"{folder / INDEX} and the files that it names do not agree about {names}: copy them.")
    return found


def write_tensors(path: str | Path, tensors: Iterable[tuple[str, tuple[int, ...], Any]]) -> None:
    """Writes float32 tensors; of (name, shape, a function that makes the array), one array is in memory at a time."""
    tensors = sorted(tensors, key=lambda tensor: tensor[0])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, _ in tensors:
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape, make in tensors:
            array = np.asarray(make(), "<f4")
            assert array.shape == shape, f"{name}: {array.shape} is not {shape}"
            file.write(array.tobytes())


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object, after a look at its hash. CheckpointError where there is none."""
    check_hash(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, where an object belongs.")
    return value


@contextmanager
def understanding(path: Path) -> Generator[None]:
    """Raises CheckpointError where what a file says makes no sense to the code inside."""
    try:
        yield
    except (ConfigError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be understood: {error!r}.") from error


def as_json(content: Mapping[str, Any]) -> bytes:
    """A JSON object, as a file holds it."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes name → content into a folder, which is made if need be, and the hash of each beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        write_hash(folder / name)


def write_hash(path: Path) -> None:
    """Writes a file's SHA-256 beside it, as `sha256sum --check` reads it."""
    hash_path(path).write_text(f"{sha256(path)}  {path.name}\n")


def check_hash(path: Path) -> None:
    """Raises CheckpointError where the file is missing, or its hash is beside it and is another one."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: copy the whole folder.")
    if hash_path(path).is_file() and hash_path(path).read_text(errors="replace").split()[:1] != [sha256(path)]:
        raise CheckpointError(f"{path} is not the file that was written ({hash_path(path).name} says another hash).")


def hash_path(path: Path) -> Path:
    """Where a file's hash lies."""
    return path.with_name(f"{path.name}.sha256")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_entries(path: Path) -> dict[str, Entry]:
    check_hash(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise CheckpointError(f"{path} is no safetensors file, or is cut: its header would have {length} bytes.")
        text = file.read(length)
    try:
        header = json.loads(text)
        del text
        header.pop("__metadata__", None)
        return {name: _entry(path, name, fields, 8 + length, size) for name, fields in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the header of {path} cannot be understood: {error!r}. Copy the file again.") from error


def _entry(path: Path, name: str, fields: Mapping[str, Any], start: int, size: int) -> Entry:
    if fields["dtype"] not in DTYPES:
        raise CheckpointError(f"{path}: {name} has the dtype {fields['dtype']}; there are: {', '.join(DTYPES)}.")
    dtype, shape = np.dtype(DTYPES[fields["dtype"]]), tuple(int(axis) for axis in fields["shape"])
    begin, end = fields["data_offsets"]
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= size - start:
        raise CheckpointError(f"{path}: {name} lies beyond the end of the file: it is cut, copy it again.")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{path}: {name} has {end - begin} bytes, which are not {dtype} of the shape {shape}.")
    return Entry(path, dtype, shape, start + begin)
