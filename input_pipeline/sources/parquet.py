"""How are records read from Parquet files?

A row is one record; its columns are the fields of `rows.py`, and only those that are needed are read. Paths start from
the folder of the file.

Parquet is compressed by row groups of many rows, so that one row costs the decoding of its group. A few decoded groups
are kept, for all sources of a process together, CACHE_BYTES of them at most or else one group. Groups are decoded one
at a time, so that threads cannot fill the memory with them.

Shuffled access to large groups is slow. Rows of 20 kB read a second, from a file in the page cache, on two busy cores:

    rows in a group    each of a group not yet decoded    in order
    100                1,500                              41,000
    10,000             5                                  3,300

A group that unfolds to far more than it has on disk is refused, so that a small file cannot fill the memory. Pages that
lie about their size are beyond what pyarrow lets us see.
"""

import functools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int64

from input_pipeline.sources.cells import check_types, read_cells
from input_pipeline.sources.files import SIGNALS, file_state, fingerprint, locate
from input_pipeline.sources.patterns import expand_patterns
from input_pipeline.sources.rows import choose_columns, find_columns, read_record, require_unchanged
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError, Example, Rejected

if TYPE_CHECKING:  # few runs need pyarrow: it is imported where it is used
    import pyarrow as pa
    import pyarrow.parquet as pq

CACHE_BYTES = 1 << 29
LARGE_GROUP_BYTES = 1 << 26  # from here on shuffled access is slow enough to say so
FREE_GROUP_BYTES, MAX_UNFOLDING = 1 << 27, 4  # a group may decode to so much, or to so many times its bytes on disk
ROWS_AT_ONCE = 128  # decoded before their size is seen: writers repeat values of up to 1 MB from a dictionary
MAX_OPEN_FILES = 128

logger = logging.getLogger(__name__)


class RowGroups(NamedTuple):
    """The row groups of one file.

    Attributes:
      state: size and modification time of the file when it was indexed.
      columns: field → column, of those that the file has.
      ends: where the rows of each group end.
      largest: bytes of the largest group, decoded, all columns.
    """

    path: str
    state: tuple[int, int]
    columns: dict[str, str]
    ends: Int64[np.ndarray, "g"]
    largest: int


class Parquet:
    """A source of the rows of Parquet files.

    Arguments:
      files: one or more patterns of files, see `patterns.py`.
      signals: the modalities to read, of those that there are: "image" and "audio". Others are not read from disk.
      columns: field → its column, where that has another name, such as {"image": "img", "caption": "text"}, or None
        where the column of its name is something else.

    Raises:
      DataError: no file, one that is cut or no Parquet, no rows, a field or column that there is not, or a column of a
        type that cannot be read.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        *,
        signals: Sequence[str] = SIGNALS,
        columns: Mapping[str, str | None] | None = None,
    ):
        self._signals = [signal for signal in SIGNALS if signal in signals]
        chosen = choose_columns(columns)
        paths = expand_patterns(files)
        found = [index_groups(path, chosen, self._signals) for path in paths]
        self._files = [file for file in found if len(file.ends)]
        self._ends = np.cumsum([file.ends[-1] for file in self._files], dtype=np.int64)
        if not self._files or not len(self):
            raise DataError(f"no rows in {', '.join(paths[:3])} (files: {len(paths)}).")
        logger.info("%d records in %d files", len(self), len(paths))
        largest = max(self._files, key=lambda file: file.largest)
        if largest.largest > LARGE_GROUP_BYTES:
            size, limit = largest.largest >> 20, LARGE_GROUP_BYTES >> 20
            advice = "shuffled access decodes one for nearly every row. Write the file with smaller row groups."
            logger.warning("%s has row groups of %d MiB, over %d MiB: %s", largest.path, size, limit, advice)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> str:
        """Tells its files from others, see `files.fingerprint`."""
        return fingerprint([file.path for file in self._files], self._ends)

    def __getitem__(self, index: SupportsIndex) -> Example | Rejected:
        """Returns row `index`. Its key is "file:row", rows counted from 0."""
        number, row = locate(index, self._ends)
        file = self._files[number]
        return read_record(
            lambda: _read_cells(file, row),
            key=f"{file.path}:{row}",
            signals=self._signals,
            folder=os.path.dirname(file.path),
        )


def index_groups(path: str, columns: Mapping[str, str], signals: Sequence[str]) -> RowGroups:
    """Reads the footer of one file.

    Raises:
      DataError: the file is cut or no Parquet, it lacks a column, or one has a type that cannot be read.
    """
    import pyarrow as pa

    try:
        state = file_state(os.stat(path))
        file = _open_file(path, state)
        schema = file.schema_arrow
        names = schema.names
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}. Is it cut, or something else?") from None
    found = find_columns(columns, names, path, signals)
    check_types(schema, found, path)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
    largest = max((group.total_byte_size for group in groups), default=0)
    return RowGroups(path, state, found, ends, largest)


class GroupCache:
    """The decoded row groups that were used last, `limit` bytes of them at most or else one."""

    def __init__(self, limit: int):
        self._limit = limit
        self._size = 0
        self._groups: OrderedDict[Any, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: RowGroups, group: int) -> "pa.Table":
        key = (file.path, file.state, tuple(file.columns.values()), group)
        with self._lock:
            if key not in self._groups:
                self._groups[key] = _read_group(file, group)
                self._size += self._groups[key].nbytes
            self._groups.move_to_end(key)
            while self._size > self._limit and len(self._groups) > 1:
                _, evicted = self._groups.popitem(last=False)
                self._size -= evicted.nbytes
            return self._groups[key]


_cache = GroupCache(CACHE_BYTES)


@functools.lru_cache(maxsize=MAX_OPEN_FILES)
def _open_file(path: str, state: tuple[int, int]) -> "pq.ParquetFile":
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, page_checksum_verification=True)


def _read_group(file: RowGroups, group: int) -> "pa.Table":
    import pyarrow as pa

    require_unchanged(file.path, file.state)
    opened, names = _open_file(file.path, file.state), list(file.columns.values())
    limit = _most_bytes(opened.metadata.row_group(group), names)
    batches, size = [], 0
    for batch in opened.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=names):
        batches.append(batch)
        size += batch.nbytes
        if size + batch.nbytes > limit:  # another one like it would be too much
            raise BadRecord("row group too large")
    return pa.Table.from_batches(batches)


def _most_bytes(group: "pq.RowGroupMetaData", names: Sequence[str]) -> int:
    """How many bytes these columns of a group may decode to; BadRecord where it says itself that they are more."""
    columns = [group.column(number) for number in range(group.num_columns)]
    places = tuple(f"{name}." for name in names)  # the parts of a struct or list, or the column itself
    columns = [column for column in columns if f"{column.path_in_schema}.".startswith(places)]
    limit = max(FREE_GROUP_BYTES, MAX_UNFOLDING * sum(column.total_compressed_size for column in columns))
    if sum(column.total_uncompressed_size for column in columns) > limit:
        raise BadRecord("row group too large")
    return limit


def _read_cells(file: RowGroups, row: int) -> dict[str, Any]:
    import pyarrow as pa

    group, row = locate(row, file.ends)
    try:
        return read_cells(_cache.get(file, group).slice(row, 1), file.columns)
    except UnicodeDecodeError:
        raise BadRecord("text is not UTF-8") from None
    except (OSError, ValueError, pa.ArrowException):
        raise BadRecord("damaged parquet") from None
