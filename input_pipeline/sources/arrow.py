"""How are records read from a folder that Hugging Face's `Dataset.save_to_disk` wrote?

    state.json           names the files, in their order
    data-….arrow         tables in the IPC stream format: a row is one record, its columns the fields of `rows.py`

The files are mapped into memory: a row costs the reading of its own bytes. So they must not be compressed, as
`save_to_disk` never does: opening them would unfold them all. Paths start from the folder. The library
`datasets` is not needed; its features (class names, decoding) are not read, and of a DatasetDict one split is named.
"""

import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int64

from input_pipeline.sources.cells import check_offsets, check_types, read_cells
from input_pipeline.sources.files import SIGNALS, file_state, fingerprint, locate
from input_pipeline.sources.rows import choose_columns, find_columns, read_record, require_unchanged
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError, Example, Rejected

if TYPE_CHECKING:  # few runs need pyarrow: it is imported where it is used
    import pyarrow as pa

MAX_OPEN_FILES = 128
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream; without it the file may lack its last batches
DICTIONARY, RECORDS = 2, 3  # kinds of messages that have data

logger = logging.getLogger(__name__)


class Table(NamedTuple):
    """One file of the folder.

    Attributes:
      state: size and modification time of the file when the source was made.
      columns: field → column, of those that the file has.
    """

    path: str
    state: tuple[int, int]
    columns: dict[str, str]
    rows: int


class Batches(NamedTuple):
    """The record batches of one file, in mapped memory; `ends` is where the rows of each end."""

    batches: "list[pa.RecordBatch]"
    ends: Int64[np.ndarray, "b"]


class Arrow:
    """A source of the rows of a saved Hugging Face data set.

    Arguments:
      folder: what `save_to_disk` wrote; of a DatasetDict the folder of one split.
      signals: the modalities to read, of those that there are: "image" and "audio". Others are not read from disk.
      columns: field → its column, where that has another name, such as {"image": "img", "caption": "text"}, or None
        where the column of its name is something else.

    Raises:
      DataError: no such folder, files that are cut, missing or compressed, no rows, a field or column that there is
        not, or a column of a type that cannot be read.
    """

    def __init__(
        self, folder: str, *, signals: Sequence[str] = SIGNALS, columns: Mapping[str, str | None] | None = None
    ):
        self._folder = os.path.expanduser(folder)
        self._signals = [signal for signal in SIGNALS if signal in signals]
        chosen = choose_columns(columns)
        self._tables = [index_table(path, chosen, self._signals) for path in list_files(self._folder)]
        self._ends = np.cumsum([table.rows for table in self._tables], dtype=np.int64)
        if not self._tables or not len(self):
            raise DataError(f"no rows in {folder} (files: {len(self._tables)}).")
        logger.info("%d records in %d files", len(self), len(self._tables))

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> str:
        """Tells its files from others, see `files.fingerprint`."""
        return fingerprint([table.path for table in self._tables], self._ends)

    def __getitem__(self, index: SupportsIndex) -> Example | Rejected:
        """Returns row `index`. Its key is "file:row", rows counted from 0."""
        number, row = locate(index, self._ends)
        table = self._tables[number]
        return read_record(
            lambda: _read_cells(table, row),
            key=f"{table.path}:{row}",
            signals=self._signals,
            folder=self._folder,
        )


def list_files(folder: str) -> list[str]:
    """Returns the data files of a folder, in the order of its rows.

    Raises:
      DataError: the folder is of something else, or its rows were selected or shuffled by an index file.
    """
    if os.path.exists(os.path.join(folder, "dataset_dict.json")):
        raise DataError(f"{folder} is a DatasetDict: name the folder of one split, such as {folder}/train.")
    try:
        with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
        names = [os.fspath(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{folder} is no folder that save_to_disk wrote: state.json cannot be read ({error})."
        ) from None
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder} has an index of its rows: load it, call flatten_indices(), and save it again.")
    for name in names:
        if os.path.basename(name) != name:
            raise DataError(f"{folder}/state.json names {name!r}, which is not a file of that folder.")
    return [os.path.join(folder, name) for name in names]


def index_table(path: str, columns: Mapping[str, str], signals: Sequence[str]) -> Table:
    """Maps one file and counts its rows.

    Raises:
      DataError: the file is missing, cut, compressed or no Arrow stream, it lacks a column, or one has a type that
        cannot be read.
    """
    import pyarrow as pa

    try:
        state = file_state(os.stat(path))
        opened = _open_table(path, state)
        if not opened.batches:
            return Table(path, state, {}, 0)
        schema = opened.batches[0].schema
        names = schema.names
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as an Arrow stream: {error}. Copy the folder again.") from None
    found = find_columns(columns, names, path, signals)
    check_types(schema, found, path)
    return Table(path, state, found, int(opened.ends[-1]))


@functools.lru_cache(maxsize=MAX_OPEN_FILES)
def _open_table(path: str, state: tuple[int, int]) -> Batches:
    import pyarrow as pa

    with open(path, "rb") as file:
        file.seek(-min(len(END), state[0]), os.SEEK_END)
        if file.read() != END:
            raise pa.ArrowInvalid("the mark at its end is missing")
    if any(_is_compressed(message.metadata) for message in pa.ipc.MessageReader.open_stream(pa.memory_map(path))):
        raise pa.ArrowInvalid("it is compressed; save it without compression")
    batches = list(pa.ipc.open_stream(pa.memory_map(path)))
    return Batches(batches, np.cumsum([batch.num_rows for batch in batches], dtype=np.int64))


def _is_compressed(metadata: "pa.Buffer") -> bool:
    """Whether a message's data are, as its flatbuffer says before anything is unfolded (Arrow's Message.fbs)."""
    data = metadata.to_pybytes()

    def number(place: int, size: int, signed: bool = False) -> int:
        return int.from_bytes(data[place : place + size], "little", signed=signed)

    def field(table: int, index: int) -> int:
        """Where a field of a table lies, or 0: a table begins with the way back to what says where its fields lie."""
        places = table - number(table, 4, signed=True)
        here = number(places + 4 + 2 * index, 2) if 4 + 2 * index < number(places, 2) else 0
        return table + here if here else 0

    message = number(0, 4)
    kind, header = field(message, 1), field(message, 2)
    if not kind or not header or number(kind, 1) not in (DICTIONARY, RECORDS):
        return False
    batch = header + number(header, 4)
    if number(kind, 1) == DICTIONARY:
        inner = field(batch, 1)
        batch = inner + number(inner, 4)
    return field(batch, 3) > 0


def _read_cells(table: Table, row: int) -> dict[str, Any]:
    import pyarrow as pa

    require_unchanged(table.path, table.state)  # to read beyond the end of mapped memory kills the process
    try:
        opened = _open_table(table.path, table.state)
        number, row = locate(row, opened.ends)
        cells = opened.batches[number].slice(row, 1)
        for column in map(cells.column, table.columns.values()):
            check_offsets(column)  # damaged ones would lead anywhere in the memory
        return read_cells(cells, table.columns)
    except UnicodeDecodeError:
        raise BadRecord("text is not UTF-8") from None
    except (OSError, ValueError, pa.ArrowException):
        raise BadRecord("damaged arrow") from None
