"""How are records read from webdataset tars, such as img2dataset writes?

A record is the files of one tar that share a key, the name up to the first dot after the last slash:

    00000/000000012.jpg  .jpeg .png .webp     image
    00000/000000012.flac .wav .ogg            audio
    00000/000000012.txt  .json                texts, see `annotations.py`

The tars must not be compressed. Their headers are read once, when the source is made; after that any record is read
alone, in any order, by any number of threads and processes. Nothing in a tar is executed or unpacked, and nothing is
written beside it. Images and audio stay encoded: `transforms/` decodes them.
"""

import functools
import logging
import os
import re
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int64

from input_pipeline.sources.annotations import parse_annotations
from input_pipeline.sources.files import MAX_FILE_BYTES, SIGNALS, file_state, locate
from input_pipeline.sources.patterns import expand_patterns
from input_pipeline.sources.tar_scan import TarScan, scan_tar
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError, Example, Rejected

FILES = (*SIGNALS, "txt", "json")  # what a record can have, a column each of a shard's tables
EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg"), "audio"),
    **dict.fromkeys(("txt",), "txt"),
    **dict.fromkeys(("json",), "json"),
}
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)

MAX_OPEN_TARS = 128
# For disks that take their time. More only fight for the interpreter: from a cached file 2, 4 and 8 threads read
# 162, 106 and 82 thousand headers a second.
INDEX_THREADS = 4

logger = logging.getLogger(__name__)


class Shard(NamedTuple):
    """The records of one tar, in 68 bytes each and the bytes of their keys.

    Attributes:
      state: size and modification time of the tar when it was indexed.
      keys: the keys in UTF-8, one after the other; `key_ends[r]` is where key r ends.
      offset, size: of each file in the tar, columns as in `FILES`; size −1 where the record has no such file.
      broken: row → why the record cannot be used.
    """

    path: str
    state: tuple[int, int]
    keys: bytes
    key_ends: Int64[np.ndarray, "r"]
    offset: Int64[np.ndarray, "r 4"]
    size: Int64[np.ndarray, "r 4"]
    broken: dict[int, str]
    ignored: Counter[str]

    def key(self, row: int) -> str:
        start = self.key_ends[row - 1] if row else 0
        return self.keys[start : self.key_ends[row]].decode()


class Webdataset:
    """A source of the records in webdataset tars.

    Arguments:
      shards: one or more patterns of tars, see `patterns.py`.
      signals: the modalities to read, of those that there are: "image" and "audio". Others are not read from disk.

    Attributes:
      ignored: how many members of the tars are no part of a record, by why.

    Raises:
      DataError: no tar, a tar that is compressed or none, or not one record in all of them.
    """

    def __init__(self, shards: str | Sequence[str], *, signals: Sequence[str] = SIGNALS):
        self._signals = [signal for signal in SIGNALS if signal in signals]
        paths = expand_patterns(shards)
        with ThreadPoolExecutor(INDEX_THREADS) as threads:
            self._shards = list(threads.map(index_shard, paths))
        self._ends = np.cumsum([len(shard.key_ends) for shard in self._shards])
        self.ignored = sum((shard.ignored for shard in self._shards), Counter())
        logger.info("%d records in %d tars; ignored members: %s", len(self), len(paths), dict(self.ignored))
        if not len(self):
            raise DataError(f"no records in {', '.join(paths[:3])} (tars: {len(paths)}): ignored {dict(self.ignored)}.")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: SupportsIndex) -> Example | Rejected:
        """Returns record `index`: its encoded signals and its texts. Key, and concept if not given, are "tar:key"."""
        number, row = locate(index, self._ends)
        shard = self._shards[number]
        key = f"{shard.path}:{shard.key(row)}"
        try:
            return self._read_example(shard, row, key)
        except BadRecord as bad:
            return Rejected(bad.reason, key)

    def _read_example(self, shard: Shard, row: int, key: str) -> Example:
        if row in shard.broken:
            raise BadRecord(shard.broken[row])
        signals = {modality: _read_file(shard, row, modality) for modality in self._signals}
        signals = {modality: data for modality, data in signals.items() if data is not None}
        texts = parse_annotations(_read_file(shard, row, "txt"), _read_file(shard, row, "json"))
        if not signals and not any(texts[:3]):
            raise BadRecord("empty record")
        return Example(key, texts.concept or key, signals, texts.captions, texts.questions, texts.description)


def index_shard(path: str) -> Shard:
    """Reads the headers of one tar. A record that the tar is cut in, or that it may be cut in, is marked as broken.

    When the mark at the end of a tar is missing nobody can know whether its last record is whole: it counts as cut.
    """
    state = file_state(os.stat(path))
    scan = scan_tar(path)
    rows: dict[str, int] = {}
    offset, size = [], []
    for name, start, length in scan.members:
        key, column = _record_of(name)
        if column is None:
            scan.ignored["other file"] += 1
            continue
        row = rows.setdefault(key, len(rows))
        if row == len(size):
            offset.append([0] * len(FILES))
            size.append([-1] * len(FILES))
        if size[row][column] >= 0:
            scan.ignored["second file of a kind"] += 1
            continue
        offset[row][column], size[row][column] = start, length
    broken = _broken(path, scan, rows)
    keys = [key.encode() for key in rows]
    return Shard(
        path,
        state,
        b"".join(keys),
        np.cumsum([len(key) for key in keys], dtype=np.int64),
        np.array(offset, np.int64).reshape(-1, len(FILES)),
        np.array(size, np.int64).reshape(-1, len(FILES)),
        broken,
        scan.ignored,
    )


def _record_of(name: str) -> tuple[str, int | None]:
    """The key of a member, and its column in `FILES`; no column where it is no part of a record."""
    match = NAME.fullmatch(name)
    if match is None:
        return name, None
    kind = EXTENSIONS.get(match[2].lower())
    return match[1], FILES.index(kind) if kind else None


def _broken(path: str, scan: TarScan, rows: dict[str, int]) -> dict[int, str]:
    if scan.cut is None:
        return {}
    reason, name, byte = scan.cut
    key, _ = _record_of(name)
    logger.warning(
        "%s: %s at byte %d; record %r and all after it are lost. Copy the tar again.", path, reason, byte, key
    )
    return {rows[key]: reason} if key in rows else {}


class _OpenTar:
    """A descriptor that is closed when its last reader lets go of it: no thread can lose it to another's eviction."""

    def __init__(self, path: str, state: tuple[int, int]):
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        if file_state(os.fstat(self.descriptor)) != state:
            raise BadRecord("tar changed since it was indexed")


_open_tar = functools.lru_cache(maxsize=MAX_OPEN_TARS)(_OpenTar)


def _read_file(shard: Shard, row: int, kind: str) -> bytes | None:
    column = FILES.index(kind)
    size = int(shard.size[row, column])
    if size < 0:
        return None
    if size > MAX_FILE_BYTES:
        raise BadRecord("file too large")
    try:
        tar = _open_tar(shard.path, shard.state)
        data = os.pread(tar.descriptor, size, int(shard.offset[row, column]))
    except OSError:
        raise BadRecord("tar cannot be read") from None
    if len(data) < size:
        raise BadRecord("truncated tar")
    return data
