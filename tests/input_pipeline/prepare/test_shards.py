"""Can what `prepare` writes be read again, by us and by the standard library?"""

import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from input_pipeline.prepare.__main__ import main
from input_pipeline.prepare.shards import write_shards
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.tokenizers import Tokenizer, source_texts, train_tokenizer
from input_pipeline.transforms.audio import decode_audio
from input_pipeline.transforms.image import decode_image
from mmfuse.types import Caption, ConfigError, DataError, Example, Question, Rejected


class Tones:
    """A source of 7 records with sound; record 3 is bad, record 5 has no sound."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        if index == 3:
            return Rejected("bad", "3")
        wave = np.sin(np.arange(800 + index) * 0.01 * (index + 1)).astype(np.float32)
        image = np.full((5, 11, 3), 30 * index, np.uint8)
        signals = {"image": image} if index == 5 else {"image": image, "audio": wave}
        captions = (Caption(f"ton {index}", "de"), Caption("a part", "en", False))
        return Example(str(index), "c", signals, captions, (Question("q?", "a", "k"),), "described")


def read(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in files.items() if file}


def every(source) -> list:
    return [source[index] for index in range(len(source))]


def test_layout_of_img2dataset(tmp_path):
    shards = write_shards(Tones(), tmp_path / "new" / "folder", count=6, per_shard=4)
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    assert sorted(path.name for path in shards[0].parent.iterdir()) == ["00000.tar", "00001.tar"]
    files = [
        f"00000000{row}.{kind}"
        for row, image in enumerate(["jpg", "png", "webp"])
        for kind in (image, "flac", "txt", "json")
    ]
    first, second = (read(path) for path in shards)
    assert list(first) == files
    assert list(second) == [f"000010000.{kind}" for kind in ("png", "flac", "txt", "json")] + [
        f"000010001.{kind}" for kind in ("webp", "txt", "json")
    ]
    assert second["000010001.txt"] == b"ton 5"
    assert json.loads(second["000010001.json"]).items() > {"key": "000010001", "height": 5, "width": 11}.items()


def test_records_come_back(tmp_path):
    write_shards(Tones(), tmp_path, count=7, per_shard=3)
    records = every(Webdataset(str(tmp_path / "{00000..00002}.tar")))
    expected = [example for example in every(Tones()) if not isinstance(example, Rejected)]
    for got, example in zip(records, expected, strict=True):
        assert (got.captions, got.questions, got.description) == (example.captions, example.questions, "described")
        np.testing.assert_allclose(decode_image(got.signals["image"]).astype(int), example.signals["image"], atol=2)
        assert set(got.signals) == set(example.signals)
        if "audio" in got.signals:
            wave = decode_audio(got.signals["audio"], max_seconds=1.0)
            np.testing.assert_allclose(wave, example.signals["audio"], atol=1e-4)


def test_commands(tmp_path, capsys):
    out, trained = str(tmp_path / "tars"), str(tmp_path / "tokenizer")
    main(["shards", f"--out={out}", "--source=digits", "--split=test", "--count=20", "--per-shard=9"])
    main(["tokenizer", f"--out={trained}", "--shards", f"{out}/*.tar", "--vocab-size=400", "--limit=20"])
    tokenizer = Tokenizer.load(trained)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"wrote 3 tars, {out}/00000.tar … 00002.tar"
    assert second == f"wrote a tokenizer of 400 ids to {trained}; sha256 {tokenizer.sha256}"
    tars = Webdataset(f"{out}/*.tar")
    assert [example.captions for example in every(tars)] == [example.captions for example in every(Digits("test"))[:20]]
    assert tokenizer.sha256 == train_tokenizer(source_texts([tars], 20), vocab_size=400).sha256


def test_png_is_exact(tmp_path):
    (path,) = write_shards(Digits("test"), tmp_path, count=2, per_shard=2)
    np.testing.assert_array_equal(decode_image(read(path)["000000001.png"]), Digits("test")[1].signals["image"])


def test_same_source_same_bytes(tmp_path):
    one, two = (write_shards(Tones(), tmp_path / name, count=3, per_shard=3)[0].read_bytes() for name in "ab")
    assert one == two


def test_tars_are_not_overwritten(tmp_path):
    write_shards(Tones(), tmp_path, count=1, per_shard=1)
    with pytest.raises(DataError, match="holds tars already"):
        write_shards(Tones(), tmp_path, count=1, per_shard=1)


@pytest.mark.parametrize(("count", "per_shard"), [(0, 1), (8, 1), (1, 0)])
def test_wrong_numbers(tmp_path, count, per_shard):
    with pytest.raises(ConfigError, match="choose count in 1 … 7"):
        write_shards(Tones(), tmp_path, count=count, per_shard=per_shard)


def test_an_error_is_one_sentence_and_exit_code_two(tmp_path):
    command = [sys.executable, "-m", "input_pipeline.prepare", "tokenizer", f"--out={tmp_path}", "--shards", "none.tar"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("prepare tokenizer: no file is named 'none.tar'.")
    assert list(tmp_path.iterdir()) == []
