"""Where do the files in a tar lie?

One pass over the headers of an uncompressed tar (v7, ustar, GNU, pax) gives the name, offset and size of every regular
file in it. Headers are all that is read: nothing is unpacked, no link is followed, and no name is used as a path.

A tar that ends too early (a copy that broke off, a full disk) is read up to the cut, which is reported. So is one that
goes on behind its end (a hole of zeros, two tars in one file).
Reference: POSIX.1-2017, `pax`; the GNU tar manual, "Basic Tar Format".
"""

import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from input_pipeline.sources.files import compression
from mmfuse.types import DataError

BLOCK = 512
MAX_PADDING = 1 << 16  # bytes of zeros at the end, usually 10 KiB: more is a hole, as of a copy that broke off
MAX_EXTENSION = 1 << 16  # bytes of a long name or of pax records: more is damage, not a name
MAX_EXTENSIONS = 4  # before one member: a long name, a long link, pax records of it and of all
SPARSE = "GNU.sparse."  # begins the keys of pax records that speak of a sparse file
REGULAR = (b"0", b"\0", b"7")
IGNORED = {b"1": "hard link", b"2": "symbolic link", b"3": "device", b"4": "device", b"5": "directory", b"6": "pipe"}


class Member(NamedTuple):
    """A regular file in a tar: its bytes are [offset, offset + size) of the tar."""

    name: str
    offset: int
    size: int


class Cut(NamedTuple):
    """A tar cannot be read from `byte` on. The last member before, `name`, may not be whole ("" if there is none)."""

    reason: str
    name: str
    byte: int


class TarScan(NamedTuple):
    """The regular files of a tar in their order, and how many other members it has, by what they are."""

    members: list[Member]
    ignored: Counter[str]
    cut: Cut | None


class TarMembers:
    """Iterates over the regular files of the tar at `path`, without keeping them; see `scan_tar`.

    Attributes:
      ignored: how many other members were passed so far, by what they are.
      cut: where the tar cannot be read any further, once that is known.
    """

    def __init__(self, path: str):
        self._path = path
        self.ignored: Counter[str] = Counter()
        self.cut: Cut | None = None

    def __iter__(self) -> Iterator[Member]:
        name = ""
        with open(self._path, "rb", buffering=0) as file:
            try:
                for header, offset in _walk(file.fileno()):
                    refusal = _refusal(header)
                    if refusal:
                        self.ignored[refusal] += 1
                        continue
                    name = header.name.removeprefix("./")
                    yield Member(name, offset, header.size)
            except _Unreadable as error:
                reason, byte = error.args
                if byte < BLOCK:
                    raise DataError(_no_tar(self._path, os.pread(file.fileno(), BLOCK, 0))) from None
                self.cut = Cut(reason, name, byte)


class _Unreadable(Exception):
    """(reason, byte)"""


class _Header(NamedTuple):
    name: str
    kind: bytes
    size: int


def scan_tar(path: str) -> TarScan:
    """Lists the regular files of the tar at `path`.

    Names that are absolute or climb with `..` are ignored and counted, like links, devices and folders.

    Raises:
      DataError: the file is compressed, or is no tar at all.
    """
    found = TarMembers(path)
    return TarScan(list(found), found.ignored, found.cut)


def _walk(file: int) -> Iterator[tuple[_Header, int]]:
    """Yields every member's header and the offset of its data, before it is known whether the data are all there."""
    total = os.fstat(file).st_size
    position, extension, extensions = 0, {}, 0
    while True:
        block = os.pread(file, BLOCK, position)
        if len(block) < BLOCK:
            raise _Unreadable("truncated tar", total)
        if block.count(0) == BLOCK:
            rest = total - position
            if rest > MAX_PADDING or os.pread(file, rest, position).strip(b"\0"):
                raise _Unreadable("damaged tar", position)
            return
        try:
            header = _parse_header(block)
            position += BLOCK
            if header.kind in b"xXgLK":
                extensions += 1
                if extensions > MAX_EXTENSIONS:
                    raise ValueError("extensions")
                extension |= _parse_extension(header, _read_extension(file, header, position))
            else:
                header, extension, extensions = _extend(header, extension), {}, 0
                yield header, position
        except ValueError:
            raise _Unreadable("damaged tar", position) from None
        if header.kind not in IGNORED:  # whatever size they say, links and the like have no data
            position += -(-header.size // BLOCK) * BLOCK
        if position > total:
            raise _Unreadable("truncated tar", total)


def _parse_header(block: bytes) -> _Header:
    stored = _parse_number(block[148:156])
    # The low half of Adler-32 is 1 + Σ bytes mod 65,521: the checksum of tar, ten times as fast as sum().
    spaces = zlib.adler32(block[:148] + b" " * 8 + block[156:]) & 0xFFFF
    if spaces != (stored + 1) % 65_521:
        raise ValueError("checksum")
    name, prefix = block[:100].split(b"\0", 1)[0], block[345:500].split(b"\0", 1)[0]
    # GNU's own format has other fields where ustar keeps the prefix.
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _Header(_decode(name), block[156:157], _parse_number(block[124:136]))


def _parse_number(field: bytes) -> int:
    """A size in octal digits, or, with the first byte 0x80, in base 256. A ValueError where it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not digits.isdigit():
        raise ValueError("number")
    return int(digits or b"0", 8)


def _read_extension(file: int, header: _Header, offset: int) -> bytes:
    if header.size > MAX_EXTENSION:
        raise ValueError("extension")
    payload = os.pread(file, header.size, offset)
    if len(payload) < header.size:
        raise _Unreadable("truncated tar", offset + len(payload))
    return payload


def _parse_extension(header: _Header, payload: bytes) -> dict[str, bytes]:
    """What a long name (`L`) or pax records (`x`) say of the next member; link names and global records say nothing."""
    if header.kind == b"L":
        return {"path": payload.split(b"\0", 1)[0]}
    return _parse_pax(payload) if header.kind in b"xX" else {}


def _parse_pax(payload: bytes) -> dict[str, bytes]:
    """Records are `"%d %s=%s\\n" % (length of the whole record, key, value)`; a value may hold any byte.

    Only those that matter are kept: a record of 16 bytes would else be 100 bytes of memory.
    """
    records, start = {}, 0
    while start < len(payload):
        match = re.compile(rb"([0-9]{1,9}) ([^=]+)=").match(payload, start)
        end = start + int(match[1]) if match else 0
        if match is None or end > len(payload) or end <= match.end() or payload[end - 1 : end] != b"\n":
            raise ValueError("pax")
        name = _decode(match[2])
        key = SPARSE if name.startswith(SPARSE) else name
        if key in ("path", "size", SPARSE):
            records[key] = payload[match.end() : end - 1]
        start = end
    return records


def _extend(header: _Header, extension: dict[str, bytes]) -> _Header:
    if not extension:
        return header
    size = extension.get("size")
    if size is not None and not size.isdigit():
        raise ValueError("size")
    return _Header(
        _decode(extension["path"]) if "path" in extension else header.name,
        # The data of a sparse file begin with a map: they are not the bytes of the file.
        b"S" if SPARSE in extension else header.kind,
        header.size if size is None else int(size),
    )


def _refusal(header: _Header) -> str | None:
    """Why a member is no file that a record can be made of."""
    if header.kind not in REGULAR:
        return IGNORED.get(header.kind, "special file")
    if header.name.endswith("/"):
        return "directory"  # as tar wrote them before they had a type of their own
    if header.name.startswith("/") or ".." in header.name.split("/"):
        return "unsafe name"
    return None


def _decode(name: bytes) -> str:
    # Not "replace": two names that differ stay two names.
    return name.decode("utf-8", "backslashreplace")


def _no_tar(path: str, start: bytes) -> str:
    if method := compression(start):
        return f"{path} is compressed ({method}): uncompress it, records in it cannot be reached one by one."
    return f"{path} is no tar: it does not begin with a tar header. Check how it was made or copied."
