"""Do stamps become records in each language that they are spoken in, and stay on one side of the test?"""

import tarfile
from collections.abc import Iterator

import pytest

from input_pipeline.prepare.__main__ import main
from input_pipeline.prepare.shards import encode_flac, encode_image
from input_pipeline.prepare.stamps import read_description, read_stamps, split_of
from input_pipeline.sources.scenes.source import Scenes
from input_pipeline.sources.webdataset import Webdataset
from mmfuse.types import Example

LION = "A lion.\nde.utf8=Ein Löwe.\nfr.utf8= \nka.utf8=ლომი = ლომი\nde_AT=no utf8\n"


@pytest.fixture
def folder(tmp_path):
    """Two stamps that are spoken, one that is not, one that nobody described; a sound is any that decodes."""
    stamps = tmp_path / "stamps"
    scene = Scenes("train")[0]
    png, sound = encode_image(scene.signals["image"], "png"), encode_flac(scene.signals["audio"])
    spoken = {"animals/lion": (LION, ("", "_de", "_fr")), "animals/cartoon/lion": (LION, ("_de",))}
    for name, (text, languages) in {**spoken, "coins/euro": ("A euro.", ())}.items():
        path = stamps / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        path.with_suffix(".txt").write_text(text, "utf-8")
        for language in languages:
            (path.parent / f"{path.stem}_desc{language}.ogg").write_bytes(sound)
    (stamps / "animals/lion.ogg").write_bytes(sound)  # a roar is no description
    (stamps / "animals/lion_mirror.png").write_bytes(png)
    return stamps


def records(out) -> Iterator[Example]:
    """All that can be used of the tars."""
    source = Webdataset(f"{out}/*.tar")
    for index in range(len(source)):
        example = source[index]
        assert isinstance(example, Example), example
        yield example


def test_records(folder, tmp_path, capsys):
    main(["stamps", f"--folder={folder}", f"--out={tmp_path / 'out'}"])
    split = split_of("A lion.")
    assert capsys.readouterr().out.startswith("wrote 4 records of 1 concepts: ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{split}-00000.tar"]
    found = {example.key.rpartition(":")[2]: example for example in records(tmp_path / "out")}
    assert set(found) == {"animals_lion-en", "animals_lion-de", "animals_lion-fr", "animals_cartoon_lion-de"}
    assert {example.concept for example in found.values()} == {"A lion."}
    assert all(set(example.signals) == {"image", "audio"} for example in found.values())
    captions = {key: [(text, language) for text, language, *_ in example.captions] for key, example in found.items()}
    assert captions == {
        "animals_lion-en": [("A lion.", "en")],
        "animals_lion-de": [("Ein Löwe.", "de")],
        "animals_lion-fr": [],  # spoken, and not written
        "animals_cartoon_lion-de": [("Ein Löwe.", "de")],
    }


def test_description():
    assert read_description(LION) == {"en": "A lion.", "de": "Ein Löwe.", "ka": "ლომი = ლომი"}
    assert read_description("") == {}


def test_language_of_a_name_with_two_extensions(folder):
    sound = folder / "animals/lion_desc_de.ogg"
    sound.rename(folder / "animals/lion_desc_da.ogg.ogg")
    assert "animals_lion-da.ogg" in {name for record in read_stamps(folder) for name in record.files}


def test_splits_have_their_shares():
    splits = [split_of(f"concept {number}") for number in range(2000)]
    shares = {split: splits.count(split) / len(splits) for split in sorted(set(splits))}
    assert shares == pytest.approx({"test": 0.15, "train": 0.7, "validation": 0.15}, abs=0.03)
    assert splits == [split_of(f"concept {number}") for number in range(2000)]


def test_refusals(folder, tmp_path, capsys):
    out = tmp_path / "out"
    for flag, said in (
        (tmp_path / "none", "is no folder: install tuxpaint-stamps-default"),
        (folder / "coins", "no stamp that is spoken"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["stamps", f"--folder={flag}", f"--out={out}"])
        assert stop.value.code == 2 and said in capsys.readouterr().err
    out.mkdir()
    with tarfile.open(out / "there.tar", "w"):
        pass
    with pytest.raises(SystemExit):
        main(["stamps", f"--folder={folder}", f"--out={out}"])
    assert "holds tars already" in capsys.readouterr().err
