"""Is what the index says of a tar what is in the tar, however many make it, and whatever becomes of it?"""

import errno
import functools
import json
import logging
import os
import pickle
import resource
import subprocess
import sys
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from input_pipeline.sources import tar_index
from input_pipeline.sources.tar_index import MAX_SIZE, ROW, cache_folder, find_index, index_tar, open_indexes
from input_pipeline.sources.tar_records import FILES, TarRecords
from mmfuse.types import DataError
from tests.input_pipeline.test_tar_scan import BLOCK, write_tar

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where indexes are kept, at first without any."""
    monkeypatch.setenv("MMFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def made(monkeypatch):
    """The tars that were read, in order."""
    paths, make_index = [], tar_index.make_index
    monkeypatch.setattr(tar_index, "make_index", lambda path: paths.append(path) or make_index(path))
    return paths


def write_tars(folder, number):
    """Tars of 3, 4, … records; the kinds of their files take turns."""
    return [
        write_tar(
            folder / f"{tar:03d}.tar",
            [
                (f"{tar}/é{row}.{kind}", bytes(7 * tar + 500 * row + place))
                for row in range(tar + 3)
                for place, kind in enumerate(["jpg", "flac", "txt", "json"])
                if row % 5 != place
            ],
        )
        for tar in range(number)
    ]


def entries(index):
    return [index.entry(record) for record in range(index.records)]


def oracle(path):
    """What the standard library finds: key → kind → (offset, size)."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, extension = member.name.split(".")
            kind = {"jpg": "image", "flac": "audio"}.get(extension, extension)
            found.setdefault(key, {})[kind] = (member.offset_data, member.size)
    return found


def as_oracle(index):
    return {
        entry.key: {kind: (offset, size) for kind, offset, size in zip(FILES, entry.offset, entry.size) if size >= 0}
        for entry in entries(index)
    }


def check(paths, indexes):
    assert [index.path for index in indexes] == paths
    assert [as_oracle(index) for index in indexes] == [oracle(path) for path in paths]


def test_an_index_says_what_the_standard_library_finds(tmp_path, folder):
    paths = write_tars(tmp_path, 5)
    check(paths, open_indexes(paths))
    check(paths, open_indexes(paths))
    assert len(os.listdir(folder)) == 5


def test_what_is_read_at_a_start_does_not_grow_with_the_records(tmp_path, folder):
    paths = write_tars(tmp_path, 2)
    open_indexes(paths)
    for file in folder.iterdir():  # if a start read rows or keys, it would now read nonsense
        line, rest = file.read_bytes().split(b"\n", 1)
        file.write_bytes(line + b"\n" + b"\xff" * len(rest))
    assert [index.records for index in open_indexes(paths)] == [3, 4]


def test_tars_are_read_once_and_again_only_when_they_change(tmp_path, folder, made):
    paths = write_tars(tmp_path, 5)
    open_indexes(paths[:3])
    assert sorted(made) == paths[:3]
    made.clear()
    open_indexes(paths[2::-1])
    assert made == []
    open_indexes(paths)
    assert sorted(made) == paths[3:]
    made.clear()
    os.utime(paths[1], ns=(0, 7))
    before = os.stat(paths[4])
    write_tar(paths[4], [("new.txt", bytes(before.st_size))])
    os.utime(paths[4], ns=(0, before.st_mtime_ns))
    check(paths[:4], open_indexes(paths)[:4])
    assert sorted(made) == [paths[1], paths[4]]


def test_a_tar_is_the_same_by_any_path_to_it(tmp_path, folder, made, monkeypatch):
    """The file of one path stands in for that of another: they must not differ, or offsets in it would be wrong."""
    (path,) = write_tars(tmp_path, 1)
    (index,) = open_indexes([path])
    content = Path(index.file).read_bytes()
    os.remove(index.file)
    monkeypatch.chdir(tmp_path)
    (other,) = open_indexes(["000.tar"])
    assert (other.file, Path(other.file).read_bytes()) == (index.file, content)
    assert other.path == "000.tar" and made == [path, "000.tar"]


def test_processes_that_start_together_share_the_work(tmp_path, folder, monkeypatch):
    """While the first reads its first tar, a second one starts and reads all others: nothing is left for the first."""
    paths, made, make_index = write_tars(tmp_path, 7), [], tar_index.make_index
    monkeypatch.setattr(tar_index, "INDEX_THREADS", 1)

    def make(path):
        first = not made
        made.append(path)
        if first:
            check(paths, open_indexes(paths))
        return make_index(path)

    monkeypatch.setattr(tar_index, "make_index", make)
    check(paths, open_indexes(paths))
    assert len(made) == 8 and sorted(made[1:]) == paths


def test_processes_begin_with_different_tars(tmp_path, folder, made, monkeypatch):
    monkeypatch.setattr(tar_index, "INDEX_THREADS", 1)
    paths = write_tars(tmp_path, 13)
    orders = set()
    for start in range(4):
        monkeypatch.setenv("MMFUSE_CACHE", str(tmp_path / f"{start}"))
        made.clear()
        open_indexes(paths)
        assert sorted(made) == paths
        orders.add(tuple(made))
    assert len(orders) == 4


def test_real_processes_do_not_disturb_one_another(tmp_path, folder):
    paths = write_tars(tmp_path, 31)
    script = (
        "import sys; from input_pipeline.sources.tar_index import open_indexes\n"
        "for index in open_indexes(sys.argv[1:]): print([index.entry(row) for row in range(index.records)])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, *paths], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate()[0] for process in processes]
    indexes = open_indexes(paths)
    check(paths, indexes)
    assert outputs == ["".join(f"{entries(index)}\n" for index in indexes)] * 3
    assert len(os.listdir(folder)) == 31


def test_threads_share_few_descriptors(tmp_path, folder, monkeypatch):
    opened = functools.lru_cache(maxsize=1)(tar_index.OpenFile)
    monkeypatch.setattr(tar_index, "_open_index", opened)
    indexes = open_indexes(write_tars(tmp_path, 5))
    expected = [entries(index) for index in indexes]
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as threads:
        for turn in threads.map(lambda number: (number % 5, entries(indexes[number % 5])), range(2000)):
            assert turn[1] == expected[turn[0]]
    assert len(os.listdir("/proc/self/fd")) == before
    opened.cache_clear()
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_a_damaged_index_is_made_again(tmp_path, folder):
    paths = write_tars(tmp_path, 1)
    (index,) = open_indexes(paths)
    whole = Path(index.file).read_bytes()
    for damaged in (b"", b"\n", b"[", whole[: index.start - 1], whole[: index.start], whole[:-1], whole + b"0"):
        Path(index.file).write_bytes(damaged)
        tar_index._open_index.cache_clear()
        check(paths, open_indexes(paths))
        assert Path(index.file).read_bytes() == whole


def test_an_index_that_goes_is_an_error_of_the_system(tmp_path, folder):
    (index,) = open_indexes(write_tars(tmp_path, 1))
    os.truncate(index.file, index.start + ROW.size)
    with pytest.raises(OSError, match="was cut"):
        index.entry(1)
    os.remove(index.file)
    tar_index._open_index.cache_clear()
    with pytest.raises(FileNotFoundError):
        index.entry(0)


def test_without_a_folder_the_index_is_held_in_memory(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMFUSE_CACHE", str(tmp_path / "file"))
    paths = write_tars(tmp_path, 3)
    indexes = open_indexes(paths)
    check(paths, indexes)
    check(paths, pickle.loads(pickle.dumps(indexes)))
    assert "file/index cannot be written: the indexes of 3 tars are held in memory" in caplog.text


def test_an_index_is_not_there_before_it_is_whole(tmp_path, folder, monkeypatch):
    (path,), found, fsync = write_tars(tmp_path, 1), [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: fsync(file) or found.append(find_index(path, str(folder))))
    (index,) = open_indexes([path])
    assert found == [None] and find_index(path, str(folder)) == index


def test_a_full_disk_leaves_nothing_behind(tmp_path, folder, caplog):
    paths = write_tars(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        indexes = open_indexes(paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check(paths, indexes)
    assert os.listdir(folder) == [] and "held in memory" in caplog.text


def test_a_tar_that_cannot_be_read_is_named(tmp_path, folder, monkeypatch):
    paths = write_tars(tmp_path, 2)
    open_indexes(paths[:1])  # known from now on
    for path, why in ((f"{tmp_path}/none.tar", "No such file"), (str(tmp_path), "Is a directory")):
        with pytest.raises(DataError, match=rf"^{path} cannot be read: {why}"):
            open_indexes([paths[0], path])

    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(DataError, match=r"001\.tar cannot be read: Input/output error\.$"):
        open_indexes(paths)


def test_a_cut_is_told_at_every_start(tmp_path, folder, caplog):
    (path,) = write_tars(tmp_path, 1)
    os.truncate(path, 3 * BLOCK + 5)
    for _ in range(2):
        caplog.clear()
        (index,) = open_indexes([path])
        assert index.cut == ("truncated tar", "0/é0", 3 * BLOCK + 5)
        assert f"{path}: truncated tar at byte {3 * BLOCK + 5}; record '0/é0'" in caplog.text


def test_ignored_members_are_kept(tmp_path, folder):
    path = write_tar(tmp_path / "x.tar", [("a.txt", b""), ("a.bin", b"2"), ("../b.txt", b"3"), ("a.TXT", b"4")])
    for _ in range(2):
        (index,) = open_indexes([path])
        assert index.ignored == {"unsafe name": 1, "other file": 1, "second file of a kind": 1}
        assert entries(index) == [("a", (0, 0, BLOCK, 0), (-1, -1, 0, -1))]


def test_the_largest_tars(tmp_path, folder, monkeypatch):
    path, last = write_tar(tmp_path / "x.tar", []), BLOCK * (2**32 - 1)
    found = {"sizes": (MAX_SIZE + 1, -1, 0, -1), "ignored": Counter(), "cut": None}
    records = TarRecords({"a": 0}, (last, 0, BLOCK, 0), **found)
    monkeypatch.setattr(tar_index, "find_records", lambda path: records)
    assert entries(index_tar(path, str(folder))) == [("a", (last, 0, BLOCK, 0), (MAX_SIZE, -1, 0, -1))]
    os.utime(path, ns=(0, 7))
    records = TarRecords({"a": 0}, (last + BLOCK, 0, BLOCK, 0), **found)
    with pytest.raises(DataError, match=r"x\.tar is larger than 2 TiB.*split it"):
        index_tar(path, str(folder))


def test_forty_bytes_a_record(tmp_path, folder):
    paths = write_tars(tmp_path, 2)
    for index in open_indexes(paths):
        keys = sum(len(entry.key.encode()) for entry in entries(index))
        assert os.path.getsize(index.file) == index.start + 40 * index.records + keys
        assert json.loads(Path(index.file).read_bytes().split(b"\n")[0])["tar"] == index.path


def test_the_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/she")
    for value, expected in (("", "/home/she/.cache/mmfuse/index"), ("~/x", "/home/she/x/index"), ("/y", "/y/index")):
        monkeypatch.setenv("MMFUSE_CACHE", value)
        assert cache_folder() == expected


def test_the_first_start_says_what_takes_time(tmp_path, folder, caplog):
    caplog.set_level(logging.INFO)
    paths = write_tars(tmp_path, 3)
    open_indexes(paths[:1])
    open_indexes(paths)
    assert "reading the headers of 2 of 3 tars" in caplog.text
