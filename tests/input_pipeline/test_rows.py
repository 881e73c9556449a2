"""Does a row become the example that its cells say, and does a path stay in its folder?"""

import os
import socket
import zlib

import numpy as np
import pytest

from input_pipeline.sources import rows
from input_pipeline.sources.files import locate
from input_pipeline.sources.rows import choose_columns, find_columns, read_file, read_record, read_row
from input_pipeline.transforms import BadRecord
from mmfuse.types import Caption, DataError, Example, Question, Rejected

SIGNALS = ("image", "audio")


@pytest.fixture
def folder(tmp_path):
    """A folder of files, with a file beside it."""
    (tmp_path / "beside.jpg").write_bytes(b"secret")
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    (inside / "a.jpg").write_bytes(b"image a")
    (inside / "deep" / "ö b.flac").write_bytes(b"audio b")
    return inside


def read(folder, signals=SIGNALS, **fields):
    return read_record(lambda: fields, key="table:3", signals=signals, folder=str(folder))


@pytest.mark.parametrize(
    "cell",
    [
        b"image a",
        "a.jpg",
        ".//a.jpg",
        {"bytes": b"image a", "path": "elsewhere.jpg"},
        {"bytes": None, "path": "a.jpg"},
        {"bytes": b"image a"},
        {"path": "a.jpg"},
    ],
)
def test_every_form_of_a_cell(folder, cell):
    concept = f"image:7:{zlib.crc32(b'image a'):08x}"
    assert read(folder, image=cell) == Example("table:3", concept, {"image": b"image a"})


@pytest.mark.parametrize("cell", ["", b"", {"bytes": b"", "path": "a.jpg"}, {"bytes": None, "path": ""}, {"path": ""}])
def test_an_empty_cell_is_no_signal(folder, cell):
    row = {"audio": "deep/ö b.flac", "caption": "c"}
    assert read(folder, image=cell, **row) == read(folder, **row)


def test_a_whole_row(folder):
    row = {"image": "a.jpg", "audio": "deep/ö b.flac", "caption": ["one", "two"], "language": "de", "description": "d"}
    row |= {"question": "is it?", "answer": "yes", "concept": 7, "other": object()}
    signals = {"image": b"image a", "audio": b"audio b"}
    captions = (Caption("one", "de"), Caption("two", "de"))
    expected = Example("table:3", "7", signals, captions, (Question("is it?", "yes", "open"),), "d")
    assert read(folder, **row) == expected
    assert read(folder, ["audio"], **row) == expected._replace(signals={"audio": b"audio b"})
    assert read(folder, [], **row | {"image": "../x"}) == expected._replace(signals={})


@pytest.mark.parametrize(
    ("cell", "concept"),
    [("a red mug", "a red mug"), (0, "0"), (np.int64(5).item(), "5"), (None, "table:3"), ("", "table:3")],
)
def test_concept(folder, cell, concept):
    assert read(folder, caption="c", concept=cell).concept == concept


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "empty record"),
        ({"image": None, "caption": " ", "question": None, "concept": "c"}, "empty record"),
        ({"image": {"bytes": None, "path": None}}, "empty record"),
        ({"image": ""}, "empty record"),
        ({"image": 5}, "field image of a wrong type"),
        ({"image": []}, "field image of a wrong type"),
        ({"image": ["a.jpg"]}, "field image of a wrong type"),
        ({"image": {"bytes": 5}}, "field image of a wrong type"),
        ({"caption": 5}, "field caption of a wrong type"),
        ({"question": "is it?"}, "field answer of a wrong type"),
        ({"caption": "c", "concept": 0.5}, "field concept of a wrong type"),
        ({"caption": "c", "image": "b.jpg"}, "missing file"),
        ({"image": "a.jpg/b.jpg"}, "missing file"),
        ({"image": "deep"}, "not a regular file"),
        ({"image": "."}, "not a regular file"),
        ({"image": "../beside.jpg"}, "unsafe path"),
        ({"image": "deep/../a.jpg"}, "unsafe path"),
        ({"image": "a\0.jpg"}, "unsafe path"),
        ({"image": "\ud800.jpg"}, "unsafe path"),
        ({"image": "n" * 300}, "file cannot be read"),
    ],
)
def test_what_cannot_be_read_has_a_reason(folder, fields, reason):
    assert read(folder, **fields) == Rejected(reason, "table:3")


def reason_of(folder, name):
    with pytest.raises(BadRecord) as bad:
        read_file(str(folder), str(name))
    return bad.value.reason


def test_a_path_never_leaves_the_folder(folder):
    beside = folder.parent / "beside.jpg"
    assert reason_of(folder, beside) == reason_of(folder, folder / "a.jpg") == "unsafe path"
    (folder / "link.jpg").symlink_to(beside)
    (folder / "up").symlink_to("..")
    assert reason_of(folder, "link.jpg") == reason_of(folder, "up/beside.jpg") == "unsafe path"
    sibling = folder.parent / "inside too"
    sibling.mkdir()
    (sibling / "c.jpg").write_bytes(b"c")
    (folder / "sibling").symlink_to(sibling)
    assert reason_of(folder, "sibling/c.jpg") == "unsafe path"


def test_links_inside_and_a_folder_that_is_a_link(folder):
    (folder / "link.jpg").symlink_to("a.jpg")
    (folder.parent / "alias").symlink_to(folder)
    assert read_file(str(folder.parent / "alias"), "link.jpg") == b"image a"
    assert read_file("/", str(folder / "a.jpg").lstrip("/")) == b"image a"


def test_pipes_and_sockets_are_refused_at_once(folder, monkeypatch):
    os.mkfifo(folder / "pipe")
    assert reason_of(folder, "pipe") == "not a regular file"
    monkeypatch.chdir(folder)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert reason_of(folder, "socket") == "not a regular file"
    (folder / "loop").symlink_to("loop")
    assert reason_of(folder, "loop") == "file cannot be read"


def test_a_file_over_the_limit(folder, monkeypatch):
    monkeypatch.setattr(rows, "MAX_FILE_BYTES", len(b"image a"))
    assert read_file(str(folder), "a.jpg") == b"image a"
    (folder / "a.jpg").write_bytes(b"image a+")
    assert reason_of(folder, "a.jpg") == "file too large"
    assert read(folder, image=b"image a").signals == {"image": b"image a"}
    assert read(folder, image=b"image a+") == Rejected("file too large", "table:3")


def test_columns_have_the_names_of_their_fields_or_others():
    chosen = choose_columns({"image": "img", "caption": "text"})
    assert set(chosen) == {"image", "audio", "concept", *rows.TEXTS}
    assert (chosen["image"], chosen["caption"], chosen["answer"]) == ("img", "text", "answer")
    assert set(chosen) - set(choose_columns({"image": "img", "questions": None})) == {"questions"}
    with pytest.raises(DataError, match="no field 'captoin'; did you mean 'caption'"):
        choose_columns({"captoin": "text"})


def test_columns_of_a_table():
    chosen = {"image": "img", "caption": "caption"}
    assert find_columns(chosen, ["id", "img"], "t", SIGNALS) == {"image": "img"}
    with pytest.raises(DataError, match=r"^t has no column 'img' for 'image'; did you mean 'imgs'\? It has: imgs, id"):
        find_columns(chosen, ["imgs", "id"], "t", SIGNALS)
    with pytest.raises(DataError, match="t has 2 columns of the name 'caption'"):
        find_columns(chosen, ["img", "caption", "caption"], "t", SIGNALS)
    with pytest.raises(DataError, match="t has no column for any of caption, answer"):
        find_columns({"caption": "caption", "answer": "answer"}, ["img"], "t", SIGNALS)


def test_columns_are_texts_and_the_signals_that_are_wanted():
    chosen = {"image": "img", "audio": "audio", "caption": "caption"}
    assert find_columns(chosen, ["audio", "caption", "img"], "t", ["audio"]) == {"audio": "audio", "caption": "caption"}
    assert find_columns(chosen, ["audio"], "t", []) == {}
    with pytest.raises(DataError, match="t has no column for any of image, audio, caption"):
        find_columns(chosen, ["id"], "t", [])


def test_locate_passes_over_empty_parts():
    ends = np.cumsum([0, 2, 0, 0, 3, 0])
    assert [locate(index, ends) for index in range(5)] == [(1, 0), (1, 1), (4, 0), (4, 1), (4, 2)]
    assert locate(np.int64(4), ends) == (4, 2)
    for index in (5, -1):
        with pytest.raises(IndexError):
            locate(index, ends)


def test_read_row_raises_what_read_record_returns(folder):
    with pytest.raises(BadRecord, match="empty record"):
        read_row({}, key="k", signals=SIGNALS, folder=str(folder))
