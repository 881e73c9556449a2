"""Does `verify` find every record that cannot be used, and every tar that is no longer the same?"""

import hashlib
import json
import logging
import os
import tarfile

import numpy as np
import pytest

from input_pipeline.prepare import verify
from input_pipeline.prepare.__main__ import main
from input_pipeline.prepare.shards import encode_flac, encode_image
from input_pipeline.prepare.verify import read_manifest, verify_shard
from tests.input_pipeline.test_tar_scan import tar_bytes, write_tar


def picture(number, height=23, width=19, kind="jpg"):
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode_image(pixels, kind)


def good(key, number):
    return [(f"{key}.jpg", picture(number)), (f"{key}.txt", f"number {number}".encode())]


WAVE = encode_flac(np.zeros(700, np.float32))
BAD = {  # the files of a record → why it cannot be used
    "damaged image": [("jpg", picture(0)[:-200]), ("txt", b"cut")],
    "not JPEG, PNG or WEBP": [("png", b"GIF89a" * 9), ("txt", b"gif")],
    "not WAV, FLAC or Ogg": [("flac", b"ID3" * 9)],
    "text is not UTF-8": [("txt", b"\xff\xfe")],
    "json does not parse": [("flac", WAVE), ("json", b"{")],
    "empty text": [("flac", WAVE), ("json", json.dumps({"description": " "}).encode())],
    "lone surrogate": [("flac", WAVE), ("json", json.dumps({"description": "\ud800"}).encode())],
    "empty record": [("txt", b" ")],
}


@pytest.fixture
def mixed(tmp_path):
    """A tar with a good record, one of each bad kind, 13 more damaged images, and a member of no record."""
    files = [*good("first", 1), ("last.flac", WAVE), ("notes.pdf", b"%PDF")]
    for number, parts in enumerate(BAD.values()):
        files += [(f"b{number}.{kind}", data) for kind, data in parts]
    files += [(f"c{number:02d}.jpg", picture(number)[:-200]) for number in range(13)]
    return write_tar(tmp_path / "mixed.tar", files)


def test_every_reason_with_its_keys(mixed):
    report = verify_shard(mixed)
    keys = {reason: [f"b{number}"] for number, reason in enumerate(BAD)}
    keys["damaged image"] += [f"c{number:02d}" for number in range(9)]
    assert {reason: entry["first"] for reason, entry in report.rejected.items()} == keys
    counts = {reason: entry["count"] for reason, entry in report.rejected.items()}
    assert counts == dict.fromkeys(BAD, 1) | {"damaged image": 14}
    assert (report.records, report.used) == (2 + len(BAD) + 13, 2)
    assert report.ignored == {"other file": 1} and report.error is None
    assert report.having == {"image": 1, "captions": 1, "audio": 1}
    with open(mixed, "rb") as file:
        content = file.read()
    assert (report.bytes, report.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_good_tars(tmp_path, capsys):
    paths = [write_tar(tmp_path / f"{name}.tar", good("a", 1) + good("b", number)) for number, name in enumerate("xyz")]
    manifests = [tmp_path / "one.json", tmp_path / "two.json"]
    for out, workers, order in zip(manifests, (1, 3), (paths, paths[::-1])):
        main(["verify", "--shards", *order, f"--out={out}", f"--workers={workers}"])
    assert manifests[0].read_bytes() == manifests[1].read_bytes()
    shards = json.loads(manifests[0].read_text())["shards"]
    assert [(name, entry["records"], entry["used"]) for name, entry in shards.items()] == [
        ("x.tar", 2, 2),
        ("y.tar", 2, 2),
        ("z.tar", 2, 2),
    ]
    printed = capsys.readouterr().out.splitlines()
    assert "all 3 tars        6     6" in [line.rstrip() for line in printed]
    assert "used records that have: captions 6, image 6" in printed
    main(["verify", f"--manifest={manifests[0]}"])


def test_what_is_damaged_is_said_and_written(tmp_path, mixed, capsys, caplog):
    whole = write_tar(tmp_path / "whole.tar", good("a", 1))
    cut = tmp_path / "cut.tar"
    content = tar_bytes(tmp_path, good("a", 1) + good("b", 2))
    end = content.index(b"b.jpg") + 700
    cut.write_bytes(content[:end])
    (tmp_path / "made.tar").unlink()
    (tmp_path / "no.tar").write_bytes(b"\x1f\x8b" * 400)
    (tmp_path / "empty.tar").touch()
    with pytest.raises(SystemExit) as exit, caplog.at_level(logging.ERROR):
        main(["verify", "--shards", f"{tmp_path}/*.tar", f"--out={tmp_path}/manifest.json"])
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("prepare verify: 4 of 5 tars are damaged or hold records that cannot be used")
    assert whole not in out and mixed in out and str(cut) in out
    shards = json.loads((tmp_path / "manifest.json").read_text())["shards"]
    assert shards["cut.tar"]["error"] == f"truncated tar at byte {end}"
    assert shards["cut.tar"]["records"] == shards["cut.tar"]["used"] + 1 == 2
    assert shards["cut.tar"]["rejected"] == {"truncated tar": {"count": 1, "first": ["b"]}}
    assert "is compressed (gzip)" in shards["no.tar"]["error"] and shards["no.tar"]["bytes"] == 800
    assert "is no tar" in shards["empty.tar"]["error"]


def test_a_cut_between_records_is_damage(tmp_path):
    content = tar_bytes(tmp_path, [*good("a", 1), ("notes.pdf", b"1")])
    with tarfile.open(tmp_path / "made.tar") as tar:
        end = max(member.offset_data for member in tar) + 512
    path = tmp_path / "cut.tar"
    path.write_bytes(content[:end])
    report = verify_shard(str(path))
    assert (report.used, report.error) == (1, f"truncated tar at byte {end}")


def test_a_manifest_names_what_is_missing_changed_or_extra(tmp_path, capsys):
    for number, name in enumerate("abcd"):
        write_tar(tmp_path / f"{name}.tar", good("a", number))
    manifest = tmp_path / "elsewhere" / "manifest.json"
    main(["verify", "--shards", f"{tmp_path}/?.tar", f"--out={manifest}"])
    (tmp_path / "a.tar").unlink()
    content = bytearray((tmp_path / "b.tar").read_bytes())
    content[700] ^= 1
    (tmp_path / "b.tar").write_bytes(content)
    (tmp_path / "d.tar").write_bytes((tmp_path / "c.tar").read_bytes() + b"1")
    write_tar(tmp_path / "e.tar", [])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        main(["verify", f"--manifest={manifest}"])
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and "4 tars are not as" in err
    assert [line.split() for line in out.splitlines()] == [
        [fault, str(tmp_path / f"{name}.tar")]
        for fault, name in [("missing", "a"), ("changed", "b"), ("changed", "d"), ("extra", "e")]
    ]


def test_names_that_are_not_utf8(tmp_path, capsys):
    path = write_tar(tmp_path / os.fsdecode(b"\xff\xc3\xb6.tar"), [*good("größe", 1), ("b.txt", b"\xff")])
    manifest = tmp_path / "manifest.json"
    with pytest.raises(SystemExit):
        main(["verify", "--shards", path, f"--out={manifest}"])
    assert "\\udcffö.tar" in capsys.readouterr().out
    assert list(read_manifest(manifest)) == [path]
    main(["verify", f"--manifest={manifest}"])


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}', '{"format": "mmfuse manifest 1", "shards": [1]}'])
def test_what_is_no_manifest(tmp_path, content, capsys):
    (tmp_path / "x.json").write_text(content)
    for name, message in (("x.json", "is no manifest"), ("none.json", "cannot be read")):
        with pytest.raises(SystemExit):
            main(["verify", f"--manifest={tmp_path / name}"])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"), [([], "add --out"), (["--out=x", "--workers=0"], "write 1 or more")], ids=["out", "workers"]
)
def test_wrong_flags(flags, message, capsys):
    with pytest.raises(SystemExit):
        main(["verify", "--shards", "x.tar", *flags])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("out", "why"), [("folder", "Is a directory"), ("x.tar/manifest.json", "File exists")])
def test_a_manifest_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys, out, why):
    path = write_tar(tmp_path / "x.tar", good("a", 1))
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(verify, "verify_shards", lambda *_: pytest.fail("worked"))
    with pytest.raises(SystemExit) as exit:
        main(["verify", "--shards", path, f"--out={tmp_path / out}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2 and why in line and str(tmp_path) in line


def test_a_manifest_is_not_there_before_it_is_whole(tmp_path, monkeypatch):
    path, manifest = write_tar(tmp_path / "x.tar", good("a", 1)), tmp_path / "new" / "manifest.json"
    here = []
    monkeypatch.setattr(verify, "verify_shards", lambda *_: here.append(manifest.exists()) or {})
    main(["verify", "--shards", path, f"--out={manifest}"])
    manifest.write_bytes(b"old")
    monkeypatch.setattr(verify, "verify_shards", lambda *_: here.append(manifest.read_bytes()) or {})
    main(["verify", "--shards", path, f"--out={manifest}"])
    assert here == [False, b"old"]
