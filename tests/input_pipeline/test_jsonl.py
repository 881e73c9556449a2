"""Are lines found where they are, and read alone?"""

import bz2
import gzip
import json
import lzma
import os
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from ml_collections import ConfigDict

from input_pipeline.sources import jsonl
from input_pipeline.sources.jsonl import Jsonl
from mmfuse.build_data import make_source
from mmfuse.types import Caption, DataError, Example, Question, Rejected


def write(path, *records, end="\n"):
    path.write_text("".join(json.dumps(record) + end for record in records))
    return str(path)


def texts(source):
    return [source[index].captions[0].text for index in range(len(source))]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 22])
@pytest.mark.parametrize("last", ["", "\n", "\n\n \n", "\n  "])
def test_lines_are_found_in_blocks_of_any_size(tmp_path, monkeypatch, block, last):
    monkeypatch.setattr(jsonl, "BLOCK_BYTES", block)
    generator = np.random.default_rng(block)
    captions = [str(number) * generator.integers(1, 9) for number in range(23)]
    between = ["\n", "\r\n", "\n\n", "\n \t\r\n", "\n\n\n  "]
    content = "\n  \n" + "".join(
        json.dumps({"caption": caption}) + (between[number % 5] if number < 22 else last)
        for number, caption in enumerate(captions)
    )
    path = tmp_path / "a.jsonl"
    path.write_bytes(content.encode())
    source = Jsonl(str(path), signals=())
    assert texts(source) == captions
    assert texts(Jsonl(str(path), signals=())) == [
        json.loads(line)["caption"] for line in content.splitlines() if line.strip()
    ]


def test_files_follow_one_another(tmp_path):
    for name, numbers in (("a", range(3)), ("b", []), ("c", range(3, 5))):
        write(tmp_path / f"{name}.jsonl", *({"caption": str(number)} for number in numbers))
    source = Jsonl(str(tmp_path / "*.jsonl"), signals=())
    assert texts(source) == ["0", "1", "2", "3", "4"]
    assert [source[index].key for index in (2, 3)] == [f"{tmp_path}/a.jsonl:2", f"{tmp_path}/c.jsonl:0"]
    assert source.fingerprint != Jsonl([f"{tmp_path}/{name}.jsonl" for name in "cba"]).fingerprint


def test_paths_start_from_the_folder_of_the_lines_or_from_another(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"one")
    path = write(tmp_path / "a.jsonl", {"image": "photos/1.jpg"}, {"image": "1.jpg"})
    assert Jsonl(path)[0].signals == {"image": b"one"}
    assert Jsonl(path)[1] == Rejected("missing file", f"{path}:1")
    assert Jsonl(path, folder=str(tmp_path / "photos"))[1].signals == {"image": b"one"}


def test_columns_have_other_names(tmp_path):
    row = {"img": "1.jpg", "text": ["ein", "zwei"], "language": "de", "q": "wo?", "answer": "da", "caption": "another"}
    (tmp_path / "1.jpg").write_bytes(b"one")
    path = write(tmp_path / "a.jsonl", row, {"caption": "alone"})
    columns = {"image": "img", "caption": "text", "question": "q", "concept": "q"}
    source = Jsonl(path, columns=columns)
    captions = (Caption("ein", "de"), Caption("zwei", "de"))
    assert source[0] == Example(f"{path}:0", "wo?", {"image": b"one"}, captions, (Question("wo?", "da", "open"),))
    assert source[1] == Rejected("empty record", f"{path}:1")
    assert Jsonl(path, columns=columns | {"image": None, "question": None})[0].signals == {}
    with pytest.raises(DataError, match="did you mean 'image'"):
        Jsonl(path, columns={"imag": "img"})


def test_columns_may_come_from_a_config(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "a"})
    config = ConfigDict({"kind": "jsonl", "files": (path,), "columns": {"caption": "text", "questions": None}})
    assert texts(make_source(config, ["image"])) == ["a"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"caption": "a"', "json does not parse"),
        (b'["a"]', "json is not an object"),
        (b'{"caption": "\xff"}', "text is not UTF-8"),
        (b'{"image": "../a.jpg"}', "unsafe path"),
        (b"{}", "empty record"),
    ],
)
def test_a_bad_line_is_one_record(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"caption": "0"}\n' + line + b'\n{"caption": "2"}')
    source = Jsonl(str(path))
    assert source[1] == Rejected(reason, f"{path}:1")
    assert [source[index].captions for index in (0, 2)] == [(Caption("0"),), (Caption("2"),)]


def test_a_line_over_the_limit_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", {"caption": "1234567"}, {"caption": "12345678"})
    monkeypatch.setattr(jsonl, "MAX_BYTES", len('{"caption": "1234567"}\n'))
    source = Jsonl(path)
    assert source[0].captions[0].text == "1234567"
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("read"))
    assert source[1] == Rejected("text too long", f"{path}:1")


def test_a_file_that_changed(tmp_path):
    path = write(tmp_path / "a.jsonl", {"caption": "a"})
    source = Jsonl(path)
    os.utime(path, ns=(0, 7))
    assert source[0] == Rejected("file changed since it was indexed", f"{path}:0")
    os.remove(path)
    assert source[0] == Rejected("file cannot be read", f"{path}:0")


@pytest.mark.parametrize("method", ["gzip", "bzip2", "xz", "zstd", "zip"])
def test_compressed_lines_are_named(tmp_path, method):
    path, lines = tmp_path / "a.jsonl", b'{"caption": "a"}\n' * 9
    compress = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
    if method == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("a.jsonl", lines)
    else:
        path.write_bytes(compress[method](lines) if method in compress else pa.compress(lines, "zstd", asbytes=True))
    with pytest.raises(DataError, match=rf"a\.jsonl is compressed \({method}\): uncompress it"):
        Jsonl(str(path))


def test_a_first_line_that_begins_like_a_zip_is_one_bad_record(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'PK, {"caption": "0"}\n{"caption": "1"}')
    source = Jsonl(str(path))
    assert source[0] == Rejected("json does not parse", f"{path}:0")
    assert source[1].captions == (Caption("1"),)


def test_what_cannot_be_a_source(tmp_path):
    blank = tmp_path / "blank.jsonl"
    for content in ("", "\n", " \r\n\n"):
        blank.write_text(content, newline="")
        with pytest.raises(DataError, match=r"no records in .*blank\.jsonl"):
            Jsonl(str(blank))
    with pytest.raises(DataError, match="no file is named"):
        Jsonl(str(tmp_path / "none.jsonl"))


def test_index_takes_eight_bytes_a_record(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"caption": "a"} for _ in range(101)))
    assert jsonl.index_lines(path).starts.nbytes == 8 * 102
