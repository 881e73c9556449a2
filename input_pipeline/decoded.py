"""When need a signal not be decoded anew in every epoch?

Where a data set is small, all of its signals are decoded before the first step and stay in memory. The rows that come
of them are the same. Of a large one nothing is kept: a part would seldom be met again.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from input_pipeline.sources.contract import Source, spread
from mmfuse.types import Example, Rejected

logger = logging.getLogger(__name__)
LOOKED_AT = 64  # records, before all are decoded
TEXTS = 1_000  # bytes, of a record beside its signals
MB = 1_000_000

Record = Example | Rejected


class Decoded:
    """A source whose records are in memory, with arrays in the place of encoded signals."""

    def __init__(self, records: Sequence[Record]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> Record:
        return self.records[index]


def decode_once(source: Source, decode: Callable[[Record], Record], *, limit: int) -> Source:
    """Returns a source of the same records with their signals decoded, or this one where they take more memory.

    Args:
      source: each of its records is read, unless a few of them tell that all would take too much.
      decode: what replaces encoded signals of a record with arrays, and records it cannot decode with rejections.
      limit: bytes of memory that they may take; 0: nothing is kept, and nothing read.
    """
    if not limit:
        return source
    expected = len(source) * float(np.mean([_size(decode(record)) for record in spread(source, LOOKED_AT)]))
    if expected <= limit:
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            records = _up_to(pool.map(lambda index: decode(source[index]), range(len(source))), limit)
        finally:
            pool.shutdown(cancel_futures=True)
        if records:
            return Decoded(records)
    told = "%d records would take about %.0f MB of memory decoded, of %.0f: they are decoded anew in each epoch"
    logger.info(told, len(source), expected / MB, limit / MB)
    return source


def _up_to(records: Iterable[Record], limit: int) -> list[Record] | None:
    """All records, or None where they take more than `limit` bytes."""
    kept, size = [], 0
    for record in records:
        kept.append(record)
        size += _size(record)
        if size > limit:
            return None
    logger.info("%d records are decoded and stay in memory: %.0f MB", len(kept), size / MB)
    return kept


def _size(record: Record) -> int:
    """Bytes that a record takes, about."""
    return TEXTS + sum(np.asarray(value).nbytes for value in getattr(record, "signals", {}).values())
