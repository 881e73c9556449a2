"""Are the rows of Parquet files read as they were written, from few decoded row groups?"""

import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.sources import parquet
from input_pipeline.sources.parquet import GroupCache, Parquet, index_groups
from mmfuse.types import Caption, DataError, Example, Question, Rejected

ROOT = Path(__file__).parents[2]


def image(number):
    return np.random.default_rng(number).bytes(101 + number)


def write(path, numbers, group=3, **options):
    """Rows as Hugging Face writes them."""
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": image(number), "path": "x.jpg"} for number in numbers],
                pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            ),
            "caption": pa.array([[f"number {number}", "b"] for number in numbers], pa.list_(pa.string())),
            "question": pa.array(["which?" if number % 2 else None for number in numbers], pa.string()),
            "answer": pa.array([str(number) for number in numbers], pa.string()),
            "label": pa.array([number % 5 for number in numbers], pa.int64()),
        }
    )
    pq.write_table(table, path, row_group_size=group, **options)
    return str(path)


def example(key, number):
    questions = (Question("which?", str(number), "open"),) if number % 2 else ()
    captions = (Caption(f"number {number}"), Caption("b"))
    return Example(key, str(number % 5), {"image": image(number)}, captions, questions)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(parquet, "_cache", GroupCache(parquet.CACHE_BYTES))


def test_every_row_in_any_order_from_any_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_cache", GroupCache(1000))
    paths = [write(tmp_path / f"{name}.parquet", numbers) for name, numbers in zip("abc", (range(7), [], range(7, 12)))]
    source = Parquet(str(tmp_path / "*.parquet"), columns={"concept": "label"})
    expected = [example(f"{paths[0]}:{row}", row) for row in range(7)]
    expected += [example(f"{paths[2]}:{row}", 7 + row) for row in range(5)]
    assert len(source) == 12
    order = np.random.default_rng(0).permutation(60) % 12
    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(source.__getitem__, order)) == [expected[index] for index in order]


def test_only_the_columns_that_are_needed_are_decoded(tmp_path):
    source = Parquet(write(tmp_path / "a.parquet", range(3)), signals=(), columns={"description": "answer"})
    assert source[2].description == "2" and source[2].signals == {}
    (table,) = parquet._cache._groups.values()
    assert set(table.column_names) == {"caption", "question", "answer"}


def test_a_table_without_texts(tmp_path):
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"img": [b"one", b"two"], "audio": [b"three", b"four"]}), path)
    source = Parquet(path, columns={"image": "img"})
    assert source[1].signals == {"image": b"two", "audio": b"four"}
    counted = Parquet(path, columns={"image": "img"}, signals=())
    assert len(counted) == 2 and counted[1] == Rejected("empty record", f"{path}:1")


def test_a_column_that_shares_its_name_with_a_field_can_be_left_out(tmp_path):
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"caption": ["a"], "questions": [[{"texts": ["b"]}]]}), path)
    with pytest.raises(DataError, match=r"'questions' is not read.* or None to leave the field out"):
        Parquet(path)
    assert Parquet(path, columns={"questions": None})[0].captions == (Caption("a"),)


def test_the_cache_keeps_the_groups_used_last_within_its_limit(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", range(20), group=4)
    file = index_groups(path, {"caption": "caption", "image": "image"}, ["image"])
    size = max(parquet._read_group(file, group).nbytes for group in range(5))
    reads = []
    read = parquet._read_group
    monkeypatch.setattr(parquet, "_read_group", lambda file, group: reads.append(group) or read(file, group))
    cache = GroupCache(2 * size)
    for group in (0, 1, 0, 2, 0, 1):  # 2 puts out 1, since 0 was used after it
        assert cache.get(file, group).equals(read(file, group))
        assert cache._size == sum(table.nbytes for table in cache._groups.values()) <= 2 * size
    assert reads == [0, 1, 2, 1]
    alone = GroupCache(0)
    assert [alone.get(file, group).num_rows for group in (3, 3, 4)] == [4, 4, 4] and len(alone._groups) == 1


def test_threads_decode_a_group_once(tmp_path, monkeypatch):
    source = Parquet(write(tmp_path / "a.parquet", range(6), group=6))
    reads = []
    read = parquet._read_group

    def slowly(file, group):
        reads.append(group)
        time.sleep(0.05)
        return read(file, group)

    monkeypatch.setattr(parquet, "_read_group", slowly)
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(source.__getitem__, range(6)))
    assert reads == [0]


def test_files_of_one_size_and_time_are_told_apart(tmp_path):
    for name in "ab":
        pq.write_table(pa.table({"caption": [name]}), tmp_path / f"{name}.parquet")
        os.utime(tmp_path / f"{name}.parquet", ns=(0, 7))
    source = Parquet(str(tmp_path / "*.parquet"))
    assert [source[index].captions[0].text for index in range(2)] == ["a", "b"]
    assert source.fingerprint != Parquet([f"{tmp_path}/{name}.parquet" for name in "ba"]).fingerprint


def test_paths_start_from_the_folder_of_the_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"image")
    pq.write_table(pa.table({"img.path": ["a.jpg", "b.jpg", "/a.jpg"]}), tmp_path / "t.parquet")
    source = Parquet(str(tmp_path / "t.parquet"), columns={"image": "img.path"})
    assert source[0].signals == {"image": b"image"}
    assert [source[index].reason for index in (1, 2)] == ["missing file", "unsafe path"]


def test_a_damaged_page_costs_the_rows_of_its_group(tmp_path):
    options = {"compression": "zstd", "write_page_checksum": True}
    path = write(tmp_path / "a.parquet", range(6), **options)
    image_bytes = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[image_bytes.data_page_offset + image_bytes.total_compressed_size // 2] ^= 1
    (tmp_path / "a.parquet").write_bytes(content)
    source = Parquet(path, columns={"concept": "label"})
    assert [source[row] for row in range(3)] == [example(f"{path}:{row}", row) for row in range(3)]
    assert [source[row] for row in range(3, 6)] == [Rejected("damaged parquet", f"{path}:{row}") for row in range(3, 6)]
    assert Parquet(path, signals=())[4].captions[0].text == "number 4"


def test_a_text_that_is_not_utf8(tmp_path):
    damaged = pa.array([b"a", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"caption": damaged}), tmp_path / "t.parquet")
    source = Parquet(str(tmp_path / "t.parquet"))
    assert source[0].captions == (Caption("a"),)
    assert source[1].reason == "text is not UTF-8"


@pytest.mark.parametrize("options", [{"use_dictionary": False}, {"use_dictionary": True}])
def test_a_group_that_unfolds_is_refused(tmp_path, monkeypatch, options):
    monkeypatch.setattr(parquet, "FREE_GROUP_BYTES", 100_000)
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"caption": ["a" * 1000] * 999}), path, compression="zstd", **options)
    assert Parquet(path)[5] == Rejected("row group too large", f"{path}:5")
    if not options["use_dictionary"]:  # then the file itself says how much it is
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("decoded"))
            assert Parquet(path)[6] == Rejected("row group too large", f"{path}:6")
    noise = [np.random.default_rng(row).bytes(1000) for row in range(999)]
    for name in ("image", "image.bytes"):  # a dot in a name is no level
        pq.write_table(pa.table({name: noise}), path, compression="zstd", **options)
        assert Parquet(path, columns={"image": name})[5].signals == {"image": noise[5]}


def test_a_file_that_changed(tmp_path):
    path = write(tmp_path / "a.parquet", range(6))
    source = Parquet(path)
    os.utime(path, ns=(0, 7))
    assert source[4] == Rejected("file changed since it was indexed", f"{path}:4")
    os.remove(path)
    assert source[5] == Rejected("file cannot be read", f"{path}:5")


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"", lambda content: b"{}" * 50])
def test_a_truncated_or_foreign_file_is_named(tmp_path, damage):
    path = tmp_path / "a.parquet"
    write(path, range(6))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        Parquet(str(path))


def test_what_cannot_be_a_source(tmp_path):
    path = write(tmp_path / "a.parquet", range(3))
    with pytest.raises(DataError, match=r"a\.parquet has no column 'lable' for 'concept'; did you mean 'label'"):
        Parquet(path, columns={"concept": "lable"})
    with pytest.raises(DataError, match=r"no rows in .*empty\.parquet"):
        Parquet(write(tmp_path / "empty.parquet", []))


def test_large_row_groups_are_reported(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "a.parquet", range(3))
    with caplog.at_level(logging.WARNING):
        Parquet(path)
        assert not caplog.records
        monkeypatch.setattr(parquet, "LARGE_GROUP_BYTES", 100)
        Parquet(path)
    assert "a.parquet has row groups of" in caplog.text


def test_pyarrow_is_imported_only_where_it_is_needed():
    code = (
        "import sys, input_pipeline.sources.parquet, input_pipeline.sources.arrow; sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
