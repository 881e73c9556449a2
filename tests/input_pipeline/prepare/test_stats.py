"""Are the numbers those that one would count by hand?"""

import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline.prepare import stats
from input_pipeline.prepare.__main__ import main
from input_pipeline.prepare.measures import difference_hash, hash64, image_size
from input_pipeline.prepare.shards import encode_flac, encode_image
from input_pipeline.prepare.stats import measure_source
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import audio_seconds
from tests.input_pipeline.test_tar_scan import write_tar

KINDS = ("jpg", "png", "webp")


def blocks(scale, seed=0):
    """8 × 9 blocks of grey, each at least 27 from its neighbours in the row."""
    levels = np.tile(np.arange(10, 250, 27, dtype=np.uint8), (8, 1))
    grey = np.random.default_rng(seed).permuted(levels, axis=1)[:, :, None]
    return grey.repeat(scale, axis=0).repeat(scale, axis=1).repeat(3, axis=2)


def lying(height, width):
    """A JPEG that is stored on its side."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (width, height)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    texts = {
        "captions": [{"text": "ein  Hund", "language": "de"}, "a dog"],
        "questions": 2 * [{"question": "q", "answer": "a", "kind": "count"}],
    }
    twice = encode_image(blocks(5), "jpg")
    files = [
        ("a.jpg", twice), ("a.json", json.dumps(texts).encode()),
        ("b.jpg", twice), ("b.txt", b"a dog\n"),
        ("c.png", encode_image(blocks(9), "png")), ("c.txt", b" a dog"),
        ("d.jpg", lying(17, 61)), ("d.txt", b"ein Hund"),
        ("e.flac", encode_flac(np.zeros(8000, np.float32))), ("e.json", b'{"question": "q", "answer": "a"}'),
        ("f.jpg", twice[:40]), ("f.txt", b"a dog"),
        ("g.txt", b"\xff"),
    ]  # fmt: skip
    return write_tar(tmp_path / "x.tar", files)


def test_by_hand(shards, tokenizer):
    stats = measure_source(Webdataset(shards), tokenizer=tokenizer)
    tokens = sorted(len(tokenizer.encode(text)) for text in 3 * ["a dog"] + 2 * ["ein Hund"])
    assert stats == {
        "records": {"all": 7, "read": 7, "used": 5},
        "rejected": {"damaged image": 1, "text is not UTF-8": 1},
        "numbers": {
            "image height": {"count": 4, "min": 40, "median": 50.5, "max": 72},
            "image width": {"count": 4, "min": 17, "median": 45, "max": 81},
            "image aspect": {"count": 4, "min": 9 / 8, "median": 9 / 8, "max": 61 / 17},
            "audio seconds": {"count": 1, "min": 0.5, "median": 0.5, "max": 0.5},
            "captions per record": {"count": 5, "min": 0, "median": 1, "max": 2},
            "caption characters": {"count": 5, "min": 5, "median": 5, "max": 8},
            "caption tokens": {"count": 5, "min": tokens[0], "median": tokens[2], "max": tokens[4]},
        },
        "names": {"language": {"en": 4, "de": 1}, "kind of question": {"count": 2, "open": 1}},
        "duplicates": {"images": 1, "images, nearly": 2, "captions": 3},
        "repeated_captions": [[3, "a dog"], [2, "ein Hund"]],
    }


def test_command(shards, tmp_path, capsys):
    main(["stats", "--shards", shards, f"--json={tmp_path / 'stats.json'}"])
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["duplicates", "images,", "nearly", "2"] in lines
    assert ["image", "width", "4", "17", "45", "81"] in lines
    assert ["3", "'a", "dog'"] in lines
    assert json.loads((tmp_path / "stats.json").read_text()) == measure_source(Webdataset(shards))


def test_numbers_that_cannot_be_written_are_refused_before_the_work(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stats, "measure_source", lambda *_: pytest.fail("worked"))
    with pytest.raises(SystemExit) as exit:
        main(["stats", "--shards", shards, f"--json={tmp_path}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2 and "Is a directory" in line and str(tmp_path) in line


def test_names_that_are_no_unicode(tmp_path, capsys):
    record = b'{"question": "q", "answer": "a", "kind": "\\ud800"}'
    main(["stats", "--shards", write_tar(tmp_path / "x.tar", [("a.json", record)]), f"--json={tmp_path / 'x.json'}"])
    assert ["rejected", "lone", "surrogate", "1"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_limit_is_spread(tmp_path, capsys):
    shards = write_tar(tmp_path / "x.tar", [(f"{n}.txt", b"x" * (n + 1)) for n in range(7)])
    stats = measure_source(Webdataset(shards), 3)
    assert stats["records"] == {"all": 7, "read": 3, "used": 3}
    lengths = stats["numbers"]["caption characters"]  # one of the first two records, of the next two, of the last three
    assert lengths["count"] == 3 and lengths["min"] <= 2 < lengths["median"] <= 4 < lengths["max"]
    assert measure_source(Webdataset(shards), 100)["records"]["read"] == 7
    with pytest.raises(SystemExit):
        main(["stats", "--shards", shards, "--limit=0"])
    assert "write 1 or more" in capsys.readouterr().err


def test_ten_most_repeated_captions(tmp_path):
    files = [(f"{n}x{time}.txt", b"%d" % n) for n in range(13) for time in range(n)]
    stats = measure_source(Webdataset(write_tar(tmp_path / "x.tar", files)))
    assert stats["repeated_captions"] == [[n, str(n)] for n in range(12, 2, -1)]


def test_difference_hash_by_hand():
    pixels = np.zeros((8, 9), np.uint8)
    pixels[2, 3] = 200  # brighter than its right neighbour, and its left one is not
    expected = 1 << (63 - (2 * 8 + 3))
    assert difference_hash(encode_image(np.repeat(pixels[:, :, None], 3, 2), "png")) == expected


def test_difference_hash_knows_an_image_again():
    hashes = [
        {difference_hash(encode_image(blocks(scale, seed), kind)) for scale in (5, 16, 61) for kind in KINDS}
        for seed in range(5)
    ]
    assert [len(same) for same in hashes] == 5 * [1] and len(set.union(*hashes)) == 5


def test_headers():
    assert image_size(lying(17, 61)) == (61, 17)
    assert image_size(encode_image(blocks(5), "webp")) == (40, 45)
    assert audio_seconds(encode_flac(np.zeros(4000, np.float32))) == 0.25
    assert hash64(b"a") != hash64(b"b") and 0 <= hash64(b"a") < 1 << 64


@pytest.mark.parametrize(
    ("measure", "data", "reason"),
    [
        (image_size, b"GIF89a", "not JPEG, PNG or WEBP"),
        (difference_hash, encode_image(blocks(5), "jpg")[:-300], "damaged image"),
        (difference_hash, encode_image(blocks(5), "png")[:100], "damaged image"),
        (audio_seconds, b"fLaC", "damaged audio"),
    ],
)
def test_bad_signals(measure, data, reason):
    with pytest.raises(BadRecord, match=reason):
        measure(data)


def test_a_bomb_is_refused_by_its_header():
    data = bytearray(encode_image(blocks(1), "png"))
    data[16:24] = (9000).to_bytes(4) + (9000).to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    with pytest.raises(BadRecord, match="too many pixels"):
        image_size(bytes(data))
