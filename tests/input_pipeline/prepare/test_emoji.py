"""Do emoji become records with the right picture, words and concept, from the pinned packages alone?"""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from input_pipeline.prepare import emoji
from input_pipeline.prepare.__main__ import main
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.transforms.image import decode_image
from mmfuse.types import DataError, Example

DRAWN = [  # as each package writes them: unified and image with FE0F, hexcode without
    {"unified": "0023-FE0F-20E3", "image": "0023-fe0f-20e3.png", "category": "Symbols", "subcategory": "keycap"},
    {"unified": "1F600", "image": "1f600.png", "category": "Smileys & Emotion", "subcategory": "face-smiling"},
    {"unified": "1F6DF", "image": "1f6df.png", "category": "Travel & Places", "subcategory": "transport-water"},
]
WORDED = [
    {"hexcode": "1F1E6", "emoji": "🇦", "label": "regional indicator A"},
    {"hexcode": "0023-20E3", "emoji": "#️⃣", "label": "keycap: #"},
    {"hexcode": "1F600", "emoji": "😀", "label": "grinning face", "tags": ["cheerful", "face"]},
]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((7, 5, 4), (shade, 3, 11, 255), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {entry["image"]: png(shade) for shade, entry in zip((19, 23, 29), DRAWN, strict=True)}


def write_package(path, files: dict[str, bytes]) -> str:
    """Writes a .tgz in npm's layout; returns its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pin(monkeypatch, folder, *, languages=emoji.LANGUAGES, drawn=DRAWN, worded=WORDED, thai=None):
    """Writes small packages into a folder, and pins them in place of the real ones."""
    entries = [{"has_img_twitter": True} | entry for entry in drawn]
    drawings = {f"img/twitter/64/{name}": data for name, data in PICTURES.items()}
    drawings |= {"emoji.json": json.dumps(entries).encode(), "img/twitter/64/1f44b-1f3fb.png": b"a skin tone"}
    words = {}
    for language in languages:
        own = [
            entry | {"label": f"{language} {entry['label']}"}
            for entry in (thai if thai and language == "th" else worded)
        ]
        words[f"{language}/data.json"] = json.dumps(own).encode()
    folder.mkdir()
    for package, files in ((emoji.ARTISTS["twitter"], drawings), (emoji.WORDS, words)):
        pinned = package._replace(sha256=write_package(folder / package.file, files))
        if package is emoji.WORDS:
            monkeypatch.setattr(emoji, "WORDS", pinned)
        else:
            monkeypatch.setitem(emoji.ARTISTS, "twitter", pinned)


def prepare(tmp_path, *flags: str) -> dict[str, dict]:
    """Runs the command; returns key → the record's files, its json parsed."""
    main(["emoji", f"--out={tmp_path / 'tars'}", *flags])
    records = {}
    for path in sorted((tmp_path / "tars").iterdir()):
        with tarfile.open(path) as tar:
            for member in tar:
                key, kind = member.name.split(".")
                data = tar.extractfile(member)
                assert data is not None
                records.setdefault(key, {})[kind] = data.read()
    return {key: files | {"json": json.loads(files["json"])} for key, files in records.items()}


def put_npm(monkeypatch, tmp_path, script: str):
    """Puts a program `npm` alone on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_records(monkeypatch, tmp_path, capsys):
    pin(monkeypatch, tmp_path / "npm")
    records = prepare(tmp_path, f"--packages={tmp_path / 'npm'}")
    assert capsys.readouterr().out == (
        f"wrote 2 emoji in 28 languages to 1 tars in {tmp_path / 'tars'}; "
        "left out: drawings without words in every language: 1, words without a drawing: 1\n"
    )
    assert set(records) == {"0023-20E3", "1F600"}
    keycap, face = records["0023-20E3"], records["1F600"]
    assert (keycap["png"], face["png"]) == (PICTURES["0023-fe0f-20e3.png"], PICTURES["1f600.png"])
    captions = face["json"].pop("captions")
    assert face["json"] == {
        "key": "1F600",
        "concept": "1F600",
        "emoji": "😀",
        "artist": "twitter",
        "group": "Smileys & Emotion",
        "subgroup": "face-smiling",
    }
    assert [entry for entry in captions if entry["language"] == "zh-hant"] == [
        {"text": "zh-hant grinning face", "language": "zh-hant", "whole": True},
        {"text": "zh-hant grinning face: cheerful, face", "language": "zh-hant", "whole": True},
        {"text": "cheerful, face", "language": "zh-hant", "whole": False},
    ]
    assert [entry["language"] for entry in captions] == [code for code in emoji.LANGUAGES for _ in range(3)]
    assert [entry["text"] for entry in keycap["json"]["captions"]] == [f"{code} keycap: #" for code in emoji.LANGUAGES]


def test_another_artist_draws_the_same_concepts(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path / "npm")
    package = emoji.ARTISTS["emojione"]
    entry = {"category": "people", "diversity": None}
    entries = {"1f600": entry, "1f600-1f3fb": entry | {"diversity": "1f3fb"}, "1f601": entry}
    files = {f"png/64/{code}.png": code.encode() for code in ("1f600", "1f600-1f3fb")}
    written = write_package(tmp_path / "npm" / package.file, {"emoji.json": json.dumps(entries).encode(), **files})
    monkeypatch.setitem(emoji.ARTISTS, "emojione", package._replace(sha256=written))
    records = prepare(tmp_path, f"--packages={tmp_path / 'npm'}", "--artist=emojione")
    assert set(records) == {"1F600"} and records["1F600"]["png"] == b"1f600"
    fields = records["1F600"]["json"]
    assert (fields["concept"], fields["artist"], fields["group"]) == ("1F600", "emojione", "people")


def test_webdataset_reads_them(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path / "npm")
    prepare(tmp_path, f"--packages={tmp_path / 'npm'}")
    source = Webdataset(str(tmp_path / "tars" / "*.tar"))
    assert len(source) == 2
    for example in (source[0], source[1]):
        assert isinstance(example, Example)
        captions, shade = (84, 23) if example.captions[0].text == "bn grinning face" else (28, 19)
        assert len(example.captions) == captions
        pixels = np.full((7, 5, 3), (shade, 3, 11), np.uint8)
        np.testing.assert_array_equal(decode_image(example.signals["image"]), pixels)


def test_an_emoji_that_the_artist_did_not_draw(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path / "npm", drawn=[DRAWN[0], DRAWN[1] | {"has_img_twitter": False}])
    assert set(prepare(tmp_path, f"--packages={tmp_path / 'npm'}")) == {"0023-20E3"}


def test_an_emoji_that_has_no_word_in_one_language(monkeypatch, tmp_path, capsys):
    pin(monkeypatch, tmp_path / "npm", thai=WORDED[:2])
    assert set(prepare(tmp_path, f"--packages={tmp_path / 'npm'}")) == {"0023-20E3"}
    assert "without words in every language: 2, words without a drawing: 1\n" in capsys.readouterr().out


def test_tars_are_full_in_the_order_of_the_hash_and_always_the_same(monkeypatch, tmp_path):
    codes = [f"{code:X}" for code in range(0x1F600, 0x1F600 + 7)]
    image = {"image": "1f600.png", "category": "c", "subcategory": "s"}
    pin(
        monkeypatch,
        tmp_path / "npm",
        drawn=[image | {"unified": code} for code in codes],
        worded=[{"hexcode": code, "emoji": "e", "label": code} for code in reversed(codes)],
    )
    monkeypatch.setattr(emoji, "RECORDS_PER_TAR", 3)
    tars = []
    for out in (tmp_path / "a", tmp_path / "b"):
        main(["emoji", f"--out={out}", f"--packages={tmp_path / 'npm'}"])
        assert sorted(path.name for path in out.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
        tars.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert tars[0] == tars[1]
    keys, sizes = [], []
    for path in sorted((tmp_path / "a").iterdir()):
        with tarfile.open(path) as tar:
            keys += [name.removesuffix(".png") for name in tar.getnames() if name.endswith(".png")]
        sizes.append(len(keys))
    assert sizes == [3, 6, 7]
    assert keys == sorted(codes, key=lambda code: hashlib.sha256(code.encode()).hexdigest())


def test_npm_downloads_both_packages(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path / "npm")
    put_npm(monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/asked; /bin/cp {tmp_path}/npm/*.tgz "$4"')
    assert set(prepare(tmp_path)) == {"0023-20E3", "1F600"}
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:3] == ["pack", "--ignore-scripts", "--pack-destination"]
    assert asked[4:] == ["emoji-datasource-twitter@16.0.0", "emojibase-data@17.0.0"]


def test_no_npm(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as stop:
        main(["emoji", f"--out={tmp_path / 'tars'}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("prepare emoji: npm is not installed")
    assert "npm pack emoji-datasource-twitter@16.0.0 emojibase-data@17.0.0`" in error and "--packages" in error
    assert list(tmp_path.iterdir()) == []


def test_npm_fails(monkeypatch, tmp_path):
    put_npm(monkeypatch, tmp_path, "echo the network is down >&2; exit 1")
    with pytest.raises(DataError, match="could not download the packages: the network is down"):
        emoji.download_packages([emoji.WORDS], tmp_path)


@pytest.mark.parametrize("package", [emoji.ARTISTS["twitter"], emoji.WORDS])
def test_another_content_than_the_pinned_one_is_refused(monkeypatch, tmp_path, package):
    pin(monkeypatch, tmp_path / "npm")
    path = tmp_path / "npm" / package.file
    path.write_bytes(path.read_bytes() + b"\0")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"{package.file} has sha256 {found} instead of"):
        emoji.read_twitter(tmp_path / "npm")
        emoji.read_words(tmp_path / "npm")


def test_a_package_is_not_in_the_folder(tmp_path):
    with pytest.raises(
        DataError, match=r"emojibase-data-17.0.0.tgz is not there: run `npm pack emojibase-data@17.0.0`"
    ):
        emoji.read_words(tmp_path)


def test_a_language_is_missing(monkeypatch, tmp_path):
    pin(monkeypatch, tmp_path / "npm", languages=[code for code in emoji.LANGUAGES if code not in ("de", "zh")])
    with pytest.raises(DataError, match=r"emojibase-data-17.0.0.tgz has no data.json of de, zh"):
        emoji.read_words(tmp_path / "npm")


def test_tars_are_not_overwritten(monkeypatch, tmp_path, capsys):
    pin(monkeypatch, tmp_path / "npm")
    prepare(tmp_path, f"--packages={tmp_path / 'npm'}")
    with pytest.raises(SystemExit):
        prepare(tmp_path, f"--packages={tmp_path / 'npm'}")
    assert "holds tars already" in capsys.readouterr().err
