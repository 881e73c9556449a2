"""How are records read from webdataset tars, such as img2dataset writes?

What a record is says `tar_records.py`. The tars must not be compressed. Their headers are read once, when a source of
them is made for the first time, see `tar_index.py`; after that any record is read alone, in any order, by any number of
threads and processes. Nothing in a tar is executed or unpacked, and nothing is written beside it. Images and audio stay
encoded: `transforms/` decodes them.
"""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from input_pipeline.sources.annotations import MAX_BYTES, parse_annotations
from input_pipeline.sources.contract import concept_of
from input_pipeline.sources.files import MAX_FILE_BYTES, SIGNALS, fingerprint, locate
from input_pipeline.sources.patterns import expand_patterns
from input_pipeline.sources.tar_index import Entry, OpenFile, TarIndex, open_indexes
from input_pipeline.sources.tar_records import FILES
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError, Example, Rejected

MAX_OPEN_TARS = 128

logger = logging.getLogger(__name__)


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
        self._tars = open_indexes(paths)
        self._ends = np.cumsum([tar.records for tar in self._tars], dtype=np.int64)
        self.ignored: Counter[str] = Counter()
        for tar in self._tars:
            self.ignored.update(tar.ignored)
        logger.info("%d records in %d tars", len(self), len(paths))
        left = {why: number for why, number in self.ignored.items() if why != "directory"}
        if left:
            logger.warning("%s (tars: %d): files that are no part of a record: %s", paths[0], len(paths), left)
        if not len(self):
            raise DataError(f"no records in {', '.join(paths[:3])} (tars: {len(paths)}): ignored {dict(self.ignored)}.")

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> str:
        """Tells its files from others, see `files.fingerprint`."""
        return fingerprint([tar.path for tar in self._tars], self._ends)

    def __getitem__(self, index: SupportsIndex) -> Example | Rejected:
        """Returns record `index`: its encoded signals and its texts. The key is "tar:key"."""
        number, row = locate(index, self._ends)
        tar = self._tars[number]
        try:
            entry = tar.entry(row)
        except OSError:
            return Rejected("tar index cannot be read", f"{tar.path}:{row}")
        key = f"{tar.path}:{entry.key}"
        try:
            if tar.cut and tar.cut.name == entry.key:
                raise BadRecord(tar.cut.reason)
            return self._read_example(tar, entry, key)
        except BadRecord as bad:
            return Rejected(bad.reason, key)

    def _read_example(self, tar: TarIndex, entry: Entry, key: str) -> Example:
        signals = {modality: _read_file(tar, entry, modality) for modality in self._signals}
        signals = {modality: data for modality, data in signals.items() if data is not None}
        texts = parse_annotations(_read_file(tar, entry, "txt"), _read_file(tar, entry, "json"))
        if not signals and not any(texts[:3]):
            raise BadRecord("empty record")
        return Example(key, concept_of(texts.concept, signals, key), signals, *texts[:4])


class _OpenTar(OpenFile):
    """A tar that is as it was when it was indexed."""

    def __init__(self, path: str, state: tuple[int, int]):
        super().__init__(path)
        self._indexed = state
        self._require_unchanged()

    def read(self, size: int, offset: int) -> bytes:
        self._require_unchanged()  # in place, since it was opened
        return super().read(size, offset)

    def _require_unchanged(self) -> None:
        if self.state() != self._indexed:
            raise BadRecord("tar changed since it was indexed")


_open_tar = functools.lru_cache(maxsize=MAX_OPEN_TARS)(_OpenTar)


def _read_file(tar: TarIndex, entry: Entry, kind: str) -> bytes | None:
    column = FILES.index(kind)
    size = entry.size[column]
    if size < 0:
        return None
    if size > MAX_FILE_BYTES:
        raise BadRecord("file too large")
    if kind not in SIGNALS and size > MAX_BYTES:
        raise BadRecord("text too long")
    try:
        data = _open_tar(tar.path, tar.state).read(size, entry.offset[column])
    except OSError:
        raise BadRecord("tar cannot be read") from None
    if len(data) < size:
        raise BadRecord("truncated tar")
    return data
