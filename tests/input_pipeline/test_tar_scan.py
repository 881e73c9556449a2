"""Does the tar scanner find what the standard library finds, and survive what no library wrote?"""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.sources.tar_scan import BLOCK, MAX_EXTENSION, scan_tar
from mmfuse.types import DataError

FORMATS: dict[str, Any] = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), min_size=1, max_size=150)


def write_tar(path, files, tar_format=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in files:
            add(tar, name, data)
    return str(path)


def tar_bytes(folder, files, tar_format=tarfile.USTAR_FORMAT):
    return Path(write_tar(folder / "made.tar", files, tar_format)).read_bytes()


def add(tar, name, data=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def oracle(path):
    with tarfile.open(path) as tar:
        return [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]


def header(name=b"a.txt", size=b"00000000003\0", kind=b"0", magic=b"ustar\00000", prefix=b""):
    """A header whose checksum is right, whatever its fields say."""
    block = name.ljust(100, b"\0") + b"0000644\0" + 16 * b"0" + size + 12 * b"0" + 8 * b" " + kind
    block = block.ljust(257, b"\0") + magic
    block = (block.ljust(345, b"\0") + prefix).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def scan_bytes(folder, data):
    path = folder / "x.tar"
    path.write_bytes(data)
    return scan_tar(str(path))


@pytest.mark.parametrize("tar_format", FORMATS)
def test_finds_what_the_standard_library_finds(tmp_path, tar_format):
    long_name = "/".join(["folder" * 7] * 3 + ["name.jpg"])  # 137 characters: a ustar prefix, or an extension
    files = [("a.jpg", b""), ("b.jpg", bytes(511)), ("c.jpg", bytes(512)), (long_name, bytes(513)), ("d.txt", b"7")]
    if tar_format != "ustar":
        files += [("ключ/写真.jpg", b"xyz"), ("n" * 307 + ".txt", b"12345")]
    path = write_tar(tmp_path / "x.tar", files, FORMATS[tar_format])
    scan = scan_tar(path)
    assert scan.members == oracle(path)
    assert [member.name for member in scan.members] == [name for name, _ in files]
    assert scan.cut is None and not scan.ignored


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=6), st.sampled_from(["gnu", "pax"]))
def test_any_names_and_sizes(tmp_path_factory, files, tar_format):
    files = [(name, data) for name, data in files if name not in ("..", ".")]
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", files, FORMATS[tar_format])
    assert scan_tar(path).members == oracle(path)


@pytest.mark.parametrize("tar_format", ["gnu", "pax"])
def test_a_member_of_nine_gibibytes(tmp_path, tar_format):
    """Larger than eleven octal digits can say. The file is a hole, so the test needs no space on the disk."""
    member = tarfile.TarInfo("big.wav")
    member.size = 9 << 30
    head = member.tobuf(FORMATS[tar_format])
    path = tmp_path / "x.tar"
    with open(path, "wb") as file:
        file.write(head)
        file.seek(len(head) + member.size)
        file.write(tarfile.TarInfo("after.txt").tobuf() + bytes(2 * BLOCK))
    assert scan_tar(str(path)).members == oracle(path) == [
        ("big.wav", len(head), 9 << 30),
        ("after.txt", len(head) + (9 << 30) + BLOCK, 0),
    ]  # fmt: skip


def test_what_is_no_file_is_ignored_and_counted(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "folder", type=tarfile.DIRTYPE)
        add(tar, "./folder/a.txt", b"one")
        add(tar, "hard.txt", type=tarfile.LNKTYPE, linkname="a.txt")
        add(tar, "soft.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "null.txt", type=tarfile.CHRTYPE)
        add(tar, "disk.txt", type=tarfile.BLKTYPE)
        add(tar, "fifo.txt", type=tarfile.FIFOTYPE)
        add(tar, "../climb.txt", b"two")
        add(tar, "a/../../climb.txt", b"two")
        add(tar, "/etc/passwd.txt", b"three")
        add(tar, "sparse.txt", b"map", pax_headers={"GNU.sparse.major": "1"})
        add(tar, "dots..txt", b"four")
    scan = scan_tar(str(path))
    assert [member.name for member in scan.members] == ["folder/a.txt", "dots..txt"]
    assert scan.ignored == {
        "directory": 1, "hard link": 1, "symbolic link": 1, "device": 2, "pipe": 1, "unsafe name": 3, "special file": 1
    }  # fmt: skip


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_sizes_of_what_has_no_data_are_passed_over(tmp_path, kind):
    """Some programs write the size of the file that a hard link leads to, or of all that is in a folder."""
    files = header() + b"abc".ljust(BLOCK, b"\0")
    scan = scan_bytes(tmp_path, files + header(b"x", b"00000001000\0", kind) + files + bytes(2 * BLOCK))
    assert scan.members == oracle(tmp_path / "x.tar") == [("a.txt", BLOCK, 3), ("a.txt", 4 * BLOCK, 3)]
    assert scan.cut is None and scan.ignored.total() == 1


def test_global_pax_records_name_no_member(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}) as tar:
        add(tar, "a.txt", b"one")
        add(tar, "b.txt", b"two", pax_headers={"size": "3", "comment": "a=b\n7 c=d"})
    assert scan_tar(str(path)).members == oracle(path)


@pytest.mark.parametrize("tar_format", FORMATS)
def test_cut_at_any_byte(tmp_path, tar_format):
    long_name = "k/1" + "é" * (tar_format != "ustar") * 200 + ".jpg"
    files = [("k/0.jpg", bytes(600)), ("k/0.txt", b"abc"), (long_name, b"12")]
    path = write_tar(tmp_path / "whole.tar", files, FORMATS[tar_format])
    members, data = oracle(path), Path(path).read_bytes()
    end = BLOCK + members[-1][1]
    for cut in {*range(BLOCK, end + 1, 64), *(offset for _, offset, _ in members), end - 511}:
        scan = scan_bytes(tmp_path, data[:cut])
        seen = [member for member in members if member[1] <= cut]
        assert scan.members == seen
        assert scan.cut == ("truncated tar", seen[-1][0] if seen else "", scan.cut.byte)
        assert cut - BLOCK < scan.cut.byte <= cut
    for cut in (end + BLOCK, end + 2 * BLOCK):
        assert scan_bytes(tmp_path, data[:cut]) == (members, {}, None)


@pytest.mark.parametrize("position", [0, 99, 100, 124, 135, 148, 156, 257, 345, 511])
def test_a_damaged_header_ends_the_tar_there(tmp_path, position):
    data = bytearray(tar_bytes(tmp_path, [("a.txt", b"one"), ("b.txt", b"two")]))
    data[2 * BLOCK + position] ^= 1
    scan = scan_bytes(tmp_path, bytes(data))
    assert [member.name for member in scan.members] == ["a.txt"]
    assert scan.cut == ("damaged tar", "a.txt", 2 * BLOCK)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (b"-0000000001\0", "damaged tar"),
        (b"\xff" * 12, "damaged tar"),
        (b"0000000000x\0", "damaged tar"),
        (b"77777777777\0", "truncated tar"),
        (b"\x80" + b"\x7f" * 11, "truncated tar"),
    ],
)
def test_sizes_that_lie(tmp_path, size, reason):
    scan = scan_bytes(tmp_path, header() + b"abc".ljust(BLOCK, b"\0") + header(b"b.txt", size) + bytes(9 * BLOCK))
    assert scan.cut.reason == reason
    assert scan.members[0] == ("a.txt", BLOCK, 3)


@pytest.mark.parametrize(
    "records",
    [
        b"11 size=-5\n",
        b"9 size=5\n0 size=5\n",
        b"4 size=5\n",
        b"99 size=5\n",
        b"9 size=5x",
        b"0 size=5\n",
        b"size",
        b"9 size==\n",
    ],
)
def test_pax_records_that_lie(tmp_path, records):
    first = header() + b"abc".ljust(BLOCK, b"\0")
    extension = header(size=b"%011o\0" % len(records), kind=b"x") + records.ljust(BLOCK, b"\0")
    scan = scan_bytes(tmp_path, first + extension + header(b"b.txt") + bytes(3 * BLOCK))
    assert scan.cut.reason == "damaged tar"
    assert scan.members == [("a.txt", BLOCK, 3)]


def test_names_as_old_programs_write_them(tmp_path):
    empty = b"00000000000\0"
    headers = [
        header(b"folder/", empty, kind=b"\0"),
        header(b"v7.txt", empty, kind=b"\0", magic=b""),
        header(b"gnu.txt", empty, magic=b"ustar  \0", prefix=b"14500000000\0"),  # the time it was last read
        header(b"ustar.txt", empty, prefix=b"folder"),
        header(b"\xe9.txt", empty),
        header(b"\xe8.txt", empty),  # Latin-1: another name
    ]
    scan = scan_bytes(tmp_path, b"".join(headers) + bytes(2 * BLOCK))
    names = ["v7.txt", "gnu.txt", "folder/ustar.txt", "\\xe9.txt", "\\xe8.txt"]
    assert [member.name for member in scan.members] == names
    assert scan.ignored == {"directory": 1}


def test_long_names_of_links_are_passed_over(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "link.txt", type=tarfile.SYMTYPE, linkname="n" * 150)
        add(tar, "a.txt", b"one")
    scan = scan_tar(str(path))
    assert scan.members == oracle(path) and scan.ignored == {"symbolic link": 1}


def test_a_name_without_end_is_damage(tmp_path):
    long_name = header(size=b"%011o\0" % (MAX_EXTENSION + 1), kind=b"L")
    scan = scan_bytes(tmp_path, header() + b"abc".ljust(BLOCK, b"\0") + long_name + bytes(MAX_EXTENSION + 5 * BLOCK))
    assert scan.cut == ("damaged tar", "a.txt", 3 * BLOCK)


def pax(*records):
    """A header with its pax records; each key has a length of its own, so that a record's length fits two digits."""
    payload = b"".join(b"%d %s" % (len(record) + 3, record) for record in records)
    return header(size=b"%011o\0" % len(payload), kind=b"x") + payload.ljust(-(-len(payload) // BLOCK) * BLOCK, b"\0")


@pytest.mark.parametrize("extensions", [4, 5])
def test_many_extensions_of_one_member_are_damage(tmp_path, extensions):
    scan = scan_bytes(
        tmp_path, header() + bytes(BLOCK) + pax(b"path=b.txt\n") * extensions + header() + bytes(3 * BLOCK)
    )
    assert [member.name for member in scan.members] == ["a.txt", "b.txt"][: 1 + (extensions == 4)]
    assert (scan.cut and scan.cut.reason) == (None if extensions == 4 else "damaged tar")


def test_of_pax_records_only_those_that_matter_are_kept(tmp_path):
    many = [b"%08d=\n" % number for number in range(4000)]
    data = pax(*many, b"path=b.txt\n") + header() + bytes(3 * BLOCK)
    tracemalloc.start()
    scan = scan_bytes(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [member.name for member in scan.members] == ["b.txt"]
    assert peak < 6 * len(data)  # a dict of all would be more


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_is_more_than_a_cut(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("tar")
    files = [("é" * 60 + ".jpg", bytes(700)), ("a.txt", b"one"), ("n" * 150, b"two")]
    tar = bytearray(tar_bytes(folder, files, FORMATS[data.draw(st.sampled_from(["gnu", "pax"]))]))
    changes = st.tuples(st.integers(BLOCK, len(tar) - 1), st.integers(0, 255))
    for position, value in data.draw(st.lists(changes, max_size=5)):
        tar[position] = value
    scan = scan_bytes(folder, bytes(tar))
    assert all(member.size >= 0 for member in scan.members)
    assert all(member.offset + member.size <= len(tar) for member in scan.members[:-1])


@pytest.mark.parametrize(
    ("method", "compress"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_tars_are_named(tmp_path, method, compress):
    with pytest.raises(DataError, match=rf"x\.tar is compressed \({method}\)"):
        scan_bytes(tmp_path, compress(tar_bytes(tmp_path, [("a.txt", b"one")])))


@pytest.mark.parametrize("data", [b"", b"hello", b"x" * 3000, header()[:511]])
def test_what_is_no_tar_is_named(tmp_path, data):
    with pytest.raises(DataError, match=r"x\.tar is no tar"):
        scan_bytes(tmp_path, data)


def test_zeros_before_the_end_are_damage(tmp_path):
    """A hole that a copy left, and a tar behind a tar: what follows is never lost in silence."""
    files = [(f"{number}.txt", b"text" * 300) for number in range(8)]
    whole = tar_bytes(tmp_path, files)
    third = scan_bytes(tmp_path, whole).members[3].offset - BLOCK
    for damaged in (
        whole[:third] + bytes(8 * BLOCK) + whole[third + 8 * BLOCK :],
        whole[:third] + bytes((1 << 16) + BLOCK),
        whole[:third] + bytes(2 * BLOCK) + whole,
    ):
        found = scan_bytes(tmp_path, damaged)
        assert [member.name for member in found.members] == ["0.txt", "1.txt", "2.txt"]
        assert found.cut == ("damaged tar", "2.txt", third)
    assert scan_bytes(tmp_path, whole + bytes(1 << 15)).cut is None
