"""Where are the records of a tar, without reading all of the tar again?

What one pass over the headers of a tar finds is written down in a file of its own, in a cache folder:

    {"records": 3, …}\n    a line of JSON: all that is read at a start
    40 bytes a record      where its files and its key lie
    the keys, in UTF-8

A row is read when its record is, so that neither a start nor the memory grows with the number of records. Rows are not
mapped into memory: pages that were touched count as resident, and after an epoch all of them were.

A file is named after path, size and modification time of its tar, appears whole, and is never changed. So a tar that
changes is read again and no other, and processes cannot disturb one another. Those that start together share the work
if they share the folder, over a network too: each takes the tars in an order of its own, and passes over those that
another has done. The folder, `$MMFUSE_CACHE/index` or else `~/.cache/mmfuse/index`, may be emptied when nothing runs.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import random
import struct
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from input_pipeline.sources.files import file_state
from input_pipeline.sources.tar_records import FILES, find_records
from input_pipeline.sources.tar_scan import BLOCK, Cut
from mmfuse.types import DataError

# Another one when a tar gives other records or another file: a file's content is a function of its name.
FORMAT = "mmfuse tar index 3"
# Of each file the block of the tar that it begins in, and its size, −1 where there is none; offset and size of the key.
ROW = struct.Struct(f"<{len(FILES)}I{len(FILES)}i2I")
MAX_SIZE = 2**31 - 1  # stands for all larger sizes: such a file is too large to be read anyway

MAX_OPEN_INDEXES = 512
# For disks that take their time. More only fight for the interpreter: from a cached file 2, 4 and 8 threads read
# 162, 106 and 82 thousand headers a second.
INDEX_THREADS = 4
FIND_THREADS = 16  # 10,000 indexes on a cold disk are found in 2.7 to 4.7 s; with 4 threads in 5.0 s

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """Where the files of one record lie in its tar; columns as in `FILES`, size −1 where there is none."""

    key: str
    offset: tuple[int, ...]
    size: tuple[int, ...]


class OpenFile:
    """A file that is closed when its last reader lets go of it: no thread can lose it to another's eviction."""

    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def state(self) -> tuple[int, int]:
        return file_state(os.fstat(self._descriptor))

    def read(self, size: int, offset: int) -> bytes:
        """Returns `size` bytes, or fewer where the file ends."""
        return os.pread(self._descriptor, size, offset)


_open_index = functools.lru_cache(maxsize=MAX_OPEN_INDEXES)(OpenFile)


class TarIndex(NamedTuple):
    """What is known of one tar at a start.

    Attributes:
      state: size and modification time of the tar when it was indexed.
      ignored: how many members are no part of a record, by why.
      cut: where the tar cannot be read any further, with the key of the last record before in place of a name.
      file: where the rows are kept, from byte `start` on.
      held: what that file would hold, where it could not be written.
    """

    path: str
    state: tuple[int, int]
    records: int
    ignored: Mapping[str, int]
    cut: Cut | None
    file: str
    start: int
    held: bytes | None = None

    def entry(self, record: int) -> Entry:
        """Returns what the index says of a record.

        Raises:
          OSError: the index is not there any more.
        """
        *cells, key_offset, key_size = ROW.unpack(self._read(ROW.size, self.start + record * ROW.size))
        key = self._read(key_size, self.start + self.records * ROW.size + key_offset)
        return Entry(key.decode(), tuple(block * BLOCK for block in cells[: len(FILES)]), tuple(cells[len(FILES) :]))

    def _read(self, size: int, offset: int) -> bytes:
        if self.held is not None:
            return self.held[offset : offset + size]
        data = _open_index(self.file).read(size, offset)
        if len(data) < size:
            raise OSError(f"{self.file} was cut")
        return data


def cache_folder() -> str:
    """The folder that indexes are kept in."""
    return os.path.join(os.path.expanduser(os.environ.get("MMFUSE_CACHE") or "~/.cache/mmfuse"), "index")


def open_indexes(paths: Sequence[str]) -> list[TarIndex]:
    """Returns the index of each tar, made where there is none yet.

    Raises:
      DataError: a tar that is compressed, too large or none, or that cannot be read.
    """
    folder = cache_folder()
    found: dict[str, TarIndex | None] = {}
    with ThreadPoolExecutor(FIND_THREADS) as threads:
        # Not a task for each tar: that takes 140 µs, of which the work is 50.
        batches = [paths[first::FIND_THREADS] for first in range(FIND_THREADS)]
        for part in threads.map(lambda batch: {path: find_index(path, folder) for path in batch}, batches):
            found |= part
    missing = [path for path in paths if found[path] is None]
    if missing:
        logger.info("reading the headers of %d of %d tars: no index in %s", len(missing), len(paths), folder)
    # Not the shared generator: processes with one seed would all take the same tar at the same time.
    random.SystemRandom().shuffle(missing)
    with ThreadPoolExecutor(INDEX_THREADS) as threads:
        found |= zip(missing, threads.map(lambda path: index_tar(path, folder), missing))
    indexes = [index for index in map(found.get, paths) if index]
    _warn(indexes, folder)
    return indexes


def index_tar(path: str, folder: str) -> TarIndex:
    """Returns the index of one tar, made and kept in the folder if it is not there.

    When the mark at the end of a tar is missing nobody can know whether its last record is whole: it counts as cut.

    Raises:
      DataError: the tar is compressed, too large or none, or cannot be read.
    """
    index = find_index(path, folder)
    if index is None:
        try:
            state = file_state(os.stat(path))
            content = make_index(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
        file = index_file(path, state, folder)
        index = _parse_index(path, state, file, content.partition(b"\n")[0], len(content))
        if not _keep(file, content):
            index = index._replace(held=content)
    return index


def find_index(path: str, folder: str) -> TarIndex | None:
    """Returns the index of one tar if it is in the folder, and whole."""
    try:
        state = file_state(os.stat(path))
        file = index_file(path, state, folder)
        with open(file, "rb") as opened:
            return _parse_index(path, state, file, opened.readline(), os.fstat(opened.fileno()).st_size)
    except (OSError, ValueError):
        return None


def index_file(path: str, state: tuple[int, int], folder: str) -> str:
    """Returns the path of the index of a tar in this state."""
    name = repr((FORMAT, os.path.abspath(path), state)).encode(errors="surrogatepass")
    return os.path.join(folder, hashlib.sha256(name).hexdigest()[:32])


def make_index(path: str) -> bytes:
    """Reads the headers of a tar, and returns what its index file holds.

    Raises:
      DataError: the tar is compressed, too large or none.
    """
    keys, offsets, sizes, ignored, cut = find_records(path)
    rows, names = bytearray(), bytearray()
    try:
        for record, name in enumerate(map(str.encode, keys)):
            cells = slice(record * len(FILES), (record + 1) * len(FILES))
            blocks = [offset // BLOCK for offset in offsets[cells]]
            rows += ROW.pack(*blocks, *(min(size, MAX_SIZE) for size in sizes[cells]), len(names), len(name))
            names += name
    except struct.error:
        raise DataError(f"{path} is larger than 2 TiB, or its names than 4 GiB: split it.") from None
    return format_index(os.path.abspath(path), bytes(rows), bytes(names), ignored, cut)


def format_index(
    path: str, rows: bytes, keys: bytes, ignored: Mapping[str, int] | None = None, cut: Cut | None = None
) -> bytes:
    """Returns what an index file holds, as it is described above."""
    head = {
        "tar": path,
        "size": len(rows) + len(keys),
        "records": len(rows) // ROW.size,
        "ignored": ignored or {},
        "cut": cut,
    }
    return json.dumps(head).encode() + b"\n" + rows + keys


def _parse_index(path: str, state: tuple[int, int], file: str, line: bytes, size: int) -> TarIndex:
    head = json.loads(line)
    cut, start = Cut(*head["cut"]) if head["cut"] else None, size - head["size"]
    if start != len(line.rstrip(b"\n")) + 1:
        raise ValueError("cut")
    return TarIndex(path, state, head["records"], head["ignored"], cut, file, start)


def _keep(file: str, content: bytes) -> bool:
    """Writes an index, whole or not at all; returns whether that was possible."""
    part = f"{file}.{uuid.uuid4().hex}"
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(part, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())  # or else a power failure could leave the name without the content
        os.replace(part, file)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(part)
        return False
    return True


def _warn(indexes: Iterable[TarIndex], folder: str) -> None:
    for index in indexes:
        if index.cut:
            reason, key, byte = index.cut
            words = "%s: %s at byte %d; record %r and all after it are lost. Copy the tar again."
            logger.warning(words, index.path, reason, byte, key)
    if held := sum(index.held is not None for index in indexes):
        logger.warning(
            "%s cannot be written: the indexes of %d tars are held in memory, and made again at the next start. "
            "Set MMFUSE_CACHE to a folder that can be written.",
            folder,
            held,
        )
