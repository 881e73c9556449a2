"""How are records read from JSON lines, with images and audio in files beside them?

One line is one record; its fields are those of `rows.py`:

    {"image": "photos/12.jpg", "caption": ["a dog", "a dog runs"]}

The files are read through once, when the source is made, to learn where the lines begin: 8 bytes of memory a record.
After that any line is read alone, in any order, by any number of threads and processes. The files must not be
compressed. Blank lines are no records.
"""

import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int64

from input_pipeline.sources.annotations import MAX_BYTES, parse_json
from input_pipeline.sources.files import MAGIC_BYTES, SIGNALS, compression, file_state, fingerprint, locate
from input_pipeline.sources.patterns import expand_patterns
from input_pipeline.sources.rows import choose_columns, read_record
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError, Example, Rejected

BLOCK_BYTES = 1 << 22
NEWLINE = ord("\n")
FILLED = np.array([chr(byte) not in " \t\r\n" for byte in range(256)])  # byte → whether json may have it in a token

logger = logging.getLogger(__name__)


class Lines(NamedTuple):
    """The lines of one file.

    Attributes:
      state: size and modification time of the file when it was indexed.
      starts: where each of the n − 1 records begins, and last the size of the file.
    """

    path: str
    state: tuple[int, int]
    starts: Int64[np.ndarray, "n"]


class Jsonl:
    """A source of the records in JSON lines.

    Arguments:
      files: one or more patterns of files, see `patterns.py`.
      signals: the modalities to read, of those that there are: "image" and "audio". Others are not read from disk.
      folder: what the paths in the records start from; None is the folder of each file of lines.
      columns: field → its name in the records, where that is another one, such as {"caption": "text"}, or None where
        what has its name is something else.

    Raises:
      DataError: no file, a compressed one, not one record in all of them, or a field that there is not.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        *,
        signals: Sequence[str] = SIGNALS,
        folder: str | None = None,
        columns: Mapping[str, str | None] | None = None,
    ):
        self._signals = [signal for signal in SIGNALS if signal in signals]
        self._columns = choose_columns(columns)
        self._folder = None if folder is None else os.path.expanduser(folder)
        paths = expand_patterns(files)
        self._files = [index_lines(path) for path in paths]
        self._ends = np.cumsum([len(file.starts) - 1 for file in self._files], dtype=np.int64)
        logger.info("%d records in %d files", len(self), len(paths))
        if not len(self):
            raise DataError(f"no records in {', '.join(paths[:3])} (files: {len(paths)}): every line is blank.")

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> str:
        """Tells its files from others, see `files.fingerprint`."""
        return fingerprint([file.path for file in self._files], self._ends)

    def __getitem__(self, index: SupportsIndex) -> Example | Rejected:
        """Returns record `index`. Its key is "file:record", records counted from 0; blank lines do not count."""
        number, row = locate(index, self._ends)
        file = self._files[number]
        folder = os.path.dirname(file.path) if self._folder is None else self._folder
        return read_record(
            lambda: self._rename(parse_json(_read_line(file, row))),
            key=f"{file.path}:{row}",
            signals=self._signals,
            folder=folder,
        )

    def _rename(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {field: fields.get(column) for field, column in self._columns.items()}


def index_lines(path: str) -> Lines:
    """Finds where the lines of a file begin.

    Raises:
      DataError: the file is compressed or cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            if method := compression(file.read(MAGIC_BYTES)):
                raise DataError(
                    f"{path} is compressed ({method}): uncompress it, lines in it cannot be read one by one."
                )
            file.seek(0)
            state = file_state(os.fstat(file.fileno()))
            blocks = iter(functools.partial(file.read, BLOCK_BYTES), b"")
            return Lines(path, state, np.concatenate([*_starts(blocks), np.array([state[0]])]))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _starts(blocks: Iterator[bytes]) -> Iterator[Int64[np.ndarray, "r"]]:
    """Yields where the lines of each block begin that are not blank, counted from the first block."""
    start, filled = 0, False  # of the line that the block before ended in: where it began, whether it is a record
    offset = 0
    for block in blocks:
        data = np.frombuffer(block, np.uint8)
        lines = np.flatnonzero(data == NEWLINE) + 1
        pieces = np.append(0, lines[lines < len(data)])  # of lines, cut at the ends of the block
        full = np.logical_or.reduceat(FILLED[data], pieces)
        full[0] |= filled
        begins = pieces + offset
        begins[0] = start
        offset += len(data)
        if data[-1] == NEWLINE:
            yield begins[full]
            start, filled = offset, False
        else:
            yield begins[:-1][full[:-1]]
            start, filled = int(begins[-1]), bool(full[-1])
    if filled:
        yield np.array([start])


def _read_line(file: Lines, row: int) -> bytes:
    """The bytes of a line, and of the blank ones after it."""
    start, end = int(file.starts[row]), int(file.starts[row + 1])
    if end - start > MAX_BYTES:
        raise BadRecord("text too long")
    try:
        with open(file.path, "rb", buffering=0) as lines:
            if file_state(os.fstat(lines.fileno())) != file.state:
                raise BadRecord("file changed since it was indexed")
            data = os.pread(lines.fileno(), end - start, start)
    except OSError:
        raise BadRecord("file cannot be read") from None
    if len(data) < end - start:
        raise BadRecord("file changed since it was indexed")
    return data
