"""Does random access give the records that were written, and nothing but those?"""

import functools
import gc
import json
import os
import pickle
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from input_pipeline.sources import tar_index, webdataset
from input_pipeline.sources.contract import Source, concept_of
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.streams import Recipe, training_stream
from input_pipeline.texts import TextSpec
from mmfuse.types import Caption, DataError, Example, Question, Rejected
from tests.input_pipeline.test_tar_scan import BLOCK, write_tar

KINDS = ("jpg", "flac", "txt", "json")


def record(key, number):
    """The files of one record; every byte of it depends on the number."""
    fields = {"question": "which?", "answer": str(number), "language": "de"}
    return [
        (f"{key}.jpg", bytes([number]) * (500 + 7 * number)),
        (f"{key}.flac", b"fLaC" + bytes([number])),
        (f"{key}.txt", f"number {number}".encode()),
        (f"{key}.json", json.dumps(fields).encode()),
    ]


def example_of(path, key, number):
    (_, image), (_, audio), (_, text), _ = record(key, number)
    name = f"{path}:{key}"
    question = Question("which?", str(number), "open")
    signals = {"image": image, "audio": audio}
    return Example(name, concept_of(None, signals, name), signals, (Caption(text.decode(), "de"),), (question,))


def every(source) -> list:
    return [source[index] for index in range(len(source))]


@pytest.fixture
def shards(tmp_path):
    """Three tars of 5, 2 and 3 records, in three formats, with the examples that they hold."""
    expected, number = [], 0
    for shard, (count, tar_format) in enumerate([(5, 0), (2, 1), (3, 2)]):
        keys = [f"fólder/{number + row:04d}" for row in range(count)]
        files = [file for row, key in enumerate(keys) for file in record(key, number + row)]
        path = write_tar(tmp_path / f"{shard:03d}.tar", files, tar_format)
        expected += [example_of(path, key, number + row) for row, key in enumerate(keys)]
        number += count
    return str(tmp_path / "{000..002}.tar"), expected


def test_every_record_in_any_order(shards):
    pattern, expected = shards
    source = Webdataset(pattern)
    assert isinstance(source, Source) and len(source) == 10
    assert every(source) == expected
    for index in (9, 0, 5, 4, 6, 7, np.int64(3)):
        assert source[index] == expected[index]
    for index in (-1, 10):
        with pytest.raises(IndexError, match="of 10"):
            source[index]


@pytest.fixture
def read(monkeypatch):
    """What is read of tars: (name, bytes)."""
    calls, pread = [], os.pread

    def watch(file, size, offset):
        path = os.readlink(f"/proc/self/fd/{file}")
        if path.endswith(".tar"):
            calls.append((os.path.basename(path), size))
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", watch)
    return calls


def test_a_signal_that_is_not_asked_for_is_not_read(shards, read):
    pattern, expected = shards
    source = Webdataset(pattern, signals=("video", "audio"))
    read.clear()
    sound = {"audio": b"fLaC\x08"}
    assert source[8] == expected[8]._replace(signals=sound, concept=concept_of(None, sound, ""))
    assert read == [("002.tar", 5), ("002.tar", len("number 8")), ("002.tar", len(record("", 8)[3][1]))]


def test_a_pickled_source_is_the_same_source(shards):
    pattern, expected = shards
    assert every(pickle.loads(pickle.dumps(Webdataset(pattern)))) == expected


def test_a_process_reads_the_bytes_of_its_own_rows_alone(shards, read, tokenizer):
    """Neither a start with an index nor a step reads anything else of a tar."""
    pattern, _ = shards
    Webdataset(pattern)
    recipe = Recipe({}, {"caption": TextSpec("captions", 1, 19)}, tokenizer)
    rows = []
    for process in range(5):
        read.clear()
        mine = range(2 * process, 2 * process + 2)
        stream = training_stream({"it": Webdataset(pattern)}, {"it": 1.0}, recipe, rows=10, seed=0, mine=mine)
        assert not read
        own = [int(row) for row in stream[0].batch.origin[:, 1]]
        names = ["000.tar"] * 5 + ["001.tar"] * 2 + ["002.tar"] * 3
        assert sorted(read) == sorted((names[row], len(data)) for row in own for _, data in record("", row))
        rows += own
    assert sorted(rows) == list(range(10))


def test_other_tars_are_told_apart_and_mended_or_moved_ones_are_not(tmp_path):
    def made(folder, *sizes, names="ab", first=0):
        (tmp_path / folder).mkdir()
        paths = [
            write_tar(tmp_path / folder / f"{name}.tar", [file for row in range(size) for file in record(row, first)])
            for name, size in zip(names, sizes)
        ]
        return Webdataset(paths).fingerprint

    told = made("first", 2, 3)
    assert made("moved", 2, 3) == made("mended", 2, 3, first=7) == told
    assert len({told, made("others", 2, 3, names="xy"), made("order", 2, 3, names="ba"), made("sizes", 3, 2)}) == 4


def test_an_index_that_goes_is_noticed(shards, monkeypatch):
    pattern, expected = shards
    source = Webdataset(pattern)
    monkeypatch.setattr(tar_index, "_open_index", tar_index.OpenFile)
    for tar in source._tars[1:]:
        os.remove(tar.file)
    name = expected[6].key.split(":")[0]
    assert source[4] == expected[4]
    assert source[6] == Rejected("tar index cannot be read", f"{name}:1")
    assert every(Webdataset(pattern)) == expected


def test_threads_share_few_descriptors(shards, monkeypatch):
    pattern, expected = shards
    monkeypatch.setattr(webdataset, "_open_tar", functools.lru_cache(maxsize=1)(webdataset._OpenTar))
    monkeypatch.setattr(tar_index, "_open_index", functools.lru_cache(maxsize=1)(tar_index.OpenFile))
    source, order = Webdataset(pattern), np.random.default_rng(0).integers(0, 10, 3000).tolist()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(source.__getitem__, order)) == [expected[index] for index in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # a tar, and an index


def test_files_of_a_record_need_not_be_neighbours(tmp_path):
    files = [file for number in range(3) for file in record(f"{number}", number)]
    path = write_tar(tmp_path / "x.tar", sorted(files, key=lambda file: file[0][::-1]))
    source = Webdataset(path)
    assert {example.key: example for example in every(source)} == {
        f"{path}:{number}": example_of(path, f"{number}", number) for number in range(3)
    }


def test_what_belongs_to_no_record_is_counted(tmp_path):
    files = [
        ("a.b/c.jpg", b"1"),
        ("a.b/c.left.jpg", b"2"),
        ("a.b/._c.jpg", b"3"),
        ("a.b/c.PNG", b"4"),
        ("noname", b"5"),
    ]
    source = Webdataset(write_tar(tmp_path / "x.tar", files))
    (example,) = every(source)
    assert example.key.endswith("x.tar:a.b/c") and example.signals == {"image": b"1"}
    assert source.ignored == {"other file": 2, "two dots in the name": 1, "second file of a kind": 1}


def test_files_that_are_no_part_of_a_record_are_said(tmp_path, caplog):
    files = [("a.jpg", b"1"), ("2021.05.jpg", b"2"), ("b.bmp", b"3")]
    Webdataset(write_tar(tmp_path / "x.tar", files))
    assert "no part of a record: {'two dots in the name': 1, 'other file': 1}" in caplog.text
    caplog.clear()
    Webdataset(write_tar(tmp_path / "y.tar", files[:1]))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "WebP", "wav", "flac", "ogg"])
def test_signals_by_extension(tmp_path, extension):
    modality = "audio" if extension in ("wav", "flac", "ogg") else "image"
    (example,) = every(Webdataset(write_tar(tmp_path / "x.tar", [(f"k.{extension}", b"data")])))
    assert example.signals == {modality: b"data"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("k.txt", b"\xff"), ("k.jpg", b"1")], "text is not UTF-8"),
        ([("k.json", b"{"), ("k.jpg", b"1")], "json does not parse"),
        ([("k.txt", b" ")], "empty record"),
        ([("k.jpg", bytes(1001)), ("k.txt", b"a")], "file too large"),
        ([("k.jpg", b"a"), ("k.txt", bytes(901))], "text too long"),
    ],
)
def test_a_bad_record_is_a_value(tmp_path, monkeypatch, files, reason):
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(webdataset, "MAX_BYTES", 900)
    path = write_tar(tmp_path / "x.tar", [("a.txt", b"good"), *files, ("z.txt", b"good")])
    first, bad, last = every(Webdataset(path))
    assert bad == Rejected(reason, f"{path}:k")
    assert [first.captions, last.captions] == [(Caption("good"),)] * 2


def test_a_tar_cut_anywhere_keeps_its_whole_records(tmp_path, caplog):
    files = [file for number in range(3) for file in record(f"{number}", number)]
    whole = write_tar(tmp_path / "whole.tar", files)
    with tarfile.open(whole) as tar:
        ends = [member.offset_data + member.size for member in tar]
    data = (tmp_path / "whole.tar").read_bytes()
    path = str(tmp_path / "cut.tar")
    for cut in range(BLOCK, ends[-1] + 1, 300):
        with open(path, "wb") as file:
            file.write(data[:cut])
        caplog.clear()
        *good, bad = every(Webdataset(path))
        complete = [end <= cut for end in ends].index(False) if ends[-1] > cut else len(ends)
        number = len(good)
        assert good == [example_of(path, f"{row}", row) for row in range(number)]
        assert bad == Rejected("truncated tar", f"{path}:{number}")
        assert number in (complete // 4, complete // 4 - 1)  # a record is whole once the next one's header is there
        assert f"{path}: truncated tar at byte {cut}; record" in caplog.text


def test_a_tar_that_changes_or_goes_is_noticed(tmp_path):
    path = write_tar(tmp_path / "x.tar", record("k", 1))
    source = Webdataset(path)
    write_tar(path, record("k", 2) + record("l", 3))
    assert source[0] == Rejected("tar changed since it was indexed", f"{path}:k")
    os.remove(path)
    assert source[0] == Rejected("tar cannot be read", f"{path}:k")


def test_a_tar_that_changes_in_place_after_it_was_opened(tmp_path):
    path = write_tar(tmp_path / "x.tar", record("k", 1))
    source = Webdataset(path)
    assert isinstance(source[0], Example)
    write_tar(path, record("l", 3) + record("k", 2))  # the same file: its descriptor stays open
    assert source[0] == Rejected("tar changed since it was indexed", f"{path}:k")


def test_a_tar_that_is_cut_while_it_is_read(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", record("k", 1))
    source = Webdataset(path)
    monkeypatch.setattr(webdataset._OpenTar, "state", lambda tar, state=source._tars[0].state: state)
    os.truncate(path, BLOCK + 100)
    assert source[0] == Rejected("truncated tar", f"{path}:k")


class Touch:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_is_executed_or_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Touch())
    write_tar("x.tar", [*record("k", 1), ("k.pkl", bomb), ("k.pyd", bomb), ("k.pth", bomb), ("../k.txt", b"climb")])
    os.mkdir(cache := str(tmp_path / "cache"))
    monkeypatch.setenv("MMFUSE_CACHE", cache)
    os.mkdir(index := tar_index.cache_folder())
    events = []
    watching = [True]
    sys.addaudithook(lambda event, arguments: events.append((event, arguments)) if watching else None)
    every(Webdataset("*.tar"))
    watching.clear()
    opened = [arguments for event, arguments in events if event == "open" and os.path.dirname(arguments[0]) != index]
    assert {os.fspath(path) for path, _, _ in opened} == {"x.tar"}
    assert all(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0 for _, _, flags in opened)
    executed = "pickle", "subprocess", "os.mkdir", "os.system", "exec"
    assert not [event for event, arguments in events if event.startswith(executed) and arguments[:1] != (index,)]
    assert sorted(os.listdir()) == ["cache", "x.tar"]


def test_errors_say_what_to_do(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("README", b"no record")])
    with pytest.raises(DataError, match=r"no records in .*x\.tar .*'other file': 1"):
        Webdataset(path)


def test_records_with_one_image_show_the_same_thing_unless_they_say_otherwise(tmp_path):
    files = {
        "a.jpg": b"dog",
        "a.wav": b"one",
        "b.jpg": b"dog",
        "b.wav": b"two",
        "c.wav": b"two",
        "d.wav": b"two",
        "e.txt": b"a dog",
        "f.txt": b"a dog",
        "g.jpg": b"dog",
        "g.json": b'{"concept": "other"}',
        "h.jpg": b"cat",
        "i.jpg": b"dogdog",
    }
    write_tar(tmp_path / "x.tar", files.items())
    concepts = {
        record.key[-1]: record.concept
        for record in every(Webdataset(str(tmp_path / "x.tar"), signals=("image", "audio")))
    }
    assert concepts["a"] == concepts["b"] != concepts["c"] == concepts["d"]
    assert concepts["e"] != concepts["f"] and concepts["g"] == "other"
    assert len({concepts[key] for key in "acefghi"}) == 7
