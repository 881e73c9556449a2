"""What do sources that lie in files have in common?"""

import hashlib
import json
import operator
import os
from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64

SIGNALS = ("image", "audio")  # what a record in a file can have
MAGIC_BYTES = 6
COMPRESSED = {  # what files begin with; the letters PK alone may begin a text
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
MAX_FILE_BYTES = 1 << 26  # of one file of a record: with what it decodes to, a record must fit into 300 MB


def compression(start: bytes) -> str | None:
    """How a file is compressed that begins with these bytes, MAGIC_BYTES of them or more; None: it is not."""
    return next((method for magic, method in COMPRESSED.items() if start.startswith(magic)), None)


def file_state(status: os.stat_result) -> tuple[int, int]:
    """Size and modification time: what tells that a file is not the one that was indexed."""
    return status.st_size, status.st_mtime_ns


def fingerprint(paths: Iterable[str], ends: Int64[np.ndarray, "n"]) -> str:
    """Tells sources apart by the names of their files, in their order, and where the records of each end.

    Neither the folder counts nor what is in a record: files may move, and a record may be mended.
    """
    files = [[os.path.basename(path), end] for path, end in zip(paths, ends.tolist(), strict=True)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def locate(index: SupportsIndex, ends: Int64[np.ndarray, "n"]) -> tuple[int, int]:
    """Returns (part, row in it) of row `index` in parts whose rows end at `ends`.

    Raises:
      IndexError: there is no such row.
    """
    index = operator.index(index)
    if not 0 <= index < ends[-1]:
        raise IndexError(f"record {index} of {ends[-1]}")
    part = int(np.searchsorted(ends, index, side="right"))
    return part, index - (int(ends[part - 1]) if part else 0)
