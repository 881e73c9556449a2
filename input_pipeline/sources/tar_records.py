"""Which files of a tar are one record?

A record is the files of one tar that share a key, the name up to the first dot after the last slash:

    00000/000000012.jpg  .jpeg .png .webp     image
    00000/000000012.flac .wav .ogg            audio
    00000/000000012.txt  .json                texts, see `annotations.py`

They need not be neighbours. Of two files of a kind the first counts.
"""

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from input_pipeline.sources.files import SIGNALS
from input_pipeline.sources.tar_scan import Cut, TarMembers

FILES = (*SIGNALS, "txt", "json")  # what a record can have
EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg"), "audio"),
    **dict.fromkeys(("txt",), "txt"),
    **dict.fromkeys(("json",), "json"),
}
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)


class TarRecords(NamedTuple):
    """The records of a tar, in the order of their first files.

    Attributes:
      keys: key → number of the record.
      offsets, sizes: of the files, as many for each record as there are in `FILES`; size −1 where there is none.
      ignored: how many members are no part of a record, by why.
      cut: where the tar cannot be read any further, with the key of the last record before in place of a name.
    """

    keys: dict[str, int]
    offsets: Sequence[int]
    sizes: Sequence[int]
    ignored: Counter[str]
    cut: Cut | None


def find_records(path: str) -> TarRecords:
    """Reads the headers of a tar, and finds the records among its members.

    Raises:
      DataError: the tar is compressed, or is no tar at all.
    """
    members = TarMembers(path)
    keys: dict[str, int] = {}
    offsets, sizes = array("q"), array("q")
    others: Counter[str] = Counter()
    for name, offset, size in members:
        key, kind = _split(name)
        if kind is None:
            others[_why_other(name)] += 1
            continue
        record = keys.setdefault(key, len(keys))
        if record * len(FILES) == len(sizes):
            offsets.extend([0] * len(FILES))
            sizes.extend([-1] * len(FILES))
        cell = record * len(FILES) + FILES.index(kind)
        if sizes[cell] >= 0:
            others["second file of a kind"] += 1
            continue
        offsets[cell], sizes[cell] = offset, size
    cut = members.cut and members.cut._replace(name=_split(members.cut.name)[0])
    return TarRecords(keys, offsets, sizes, members.ignored + others, cut)


def _why_other(name: str) -> str:
    """Why a regular file is no part of a record: `1.2.jpg` may well have been meant to be one."""
    file = name.rpartition("/")[2]
    meant = file.rpartition(".")[2].lower() in EXTENSIONS and not file.startswith(".")
    return "two dots in the name" if meant else "other file"


def _split(name: str) -> tuple[str, str | None]:
    """The key of a member, and its kind; none where it is no part of a record."""
    match = NAME.fullmatch(name)
    return (match[1], EXTENSIONS.get(match[2].lower())) if match else (name, None)
