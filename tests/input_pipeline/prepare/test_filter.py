"""Does each rule drop what it should and nothing else, and are the records that stay the same bytes?"""

import os
import tarfile

import numpy as np
import pytest

from input_pipeline.prepare.__main__ import main
from input_pipeline.prepare.filter import RECIPES, filter_shards
from input_pipeline.prepare.shards import encode_image
from input_pipeline.sources.webdataset import Webdataset
from mmfuse.types import DataError
from tests.input_pipeline.test_tar_scan import tar_bytes, write_tar

TEXT = b"three plain words"


def picture(height=200, width=211, seed=0):
    """Noise in few colours: over 5,000 bytes, decoded fast."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return encode_image(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width], "jpg")


IMAGE = picture()
FLAT = encode_image(np.zeros((200, 200, 3), np.uint8), "jpg")


def english(text, image=IMAGE):
    return [("jpg", image), ("txt", text)]


# Each case: the reason, a record that it drops, and a record just within it, which is kept.
COYO = [
    ("image under 5 KB", english(b"a text one", FLAT.ljust(4_999)), english(b"a text two", FLAT.ljust(5_000))),
    ("image under 5 KB", [("txt", b"there is no image")], english(b"there is an image")),
    ("aspect over 3", english(b"a wide one", picture(200, 601)), english(b"a wide two", picture(200, 600))),
    ("aspect over 3", english(b"a high one", picture(601, 200)), english(b"a high two", picture(600, 200))),
    ("side under 200 pixels", english(b"a low one", picture(199, 400)), english(b"a low two", picture(200, 400))),
    (
        "not English",
        [("jpg", IMAGE), ("json", b'{"caption": "ein anderer Satz", "language": "de"}')],
        [("jpg", IMAGE), ("json", b'{"caption": "the same sentence"}')],
    ),
    ("text of 5 characters or fewer", english(b" a  b c "), english(b"a b cd")),
    ("text of 5 characters or fewer", [("jpg", IMAGE)], english(b"an image alone")),
    ("text not of 3 to 256 words", english(b"two words"), english(b"these three words")),
    ("text not of 3 to 256 words", english(b"a " * 257), english(b"a " * 256)),
    ("text over 1,000 characters", english(b"b " * 200 + 601 * b"x"), english(b"b " * 200 + 600 * b"x")),
    ("json does not parse", [("jpg", IMAGE), ("json", b"{")], english(b"no json at all")),
    ("not JPEG, PNG or WEBP", english(b"bad picture one", b"x" * 6_000), english(b"bad picture two")),
    ("lone surrogate", [("jpg", IMAGE), ("json", b'{"caption": "a b c \\ud800"}')], english(b"no lone surrogate")),
]


def files_of(key, parts):
    return [(f"{key}.{kind}", data) for kind, data in parts]


def read(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize(("reason", "bad", "good"), COYO, ids=[f"{n} {case[0]}" for n, case in enumerate(COYO)])
def test_coyo_on_both_sides_of_each_border(tmp_path, reason, bad, good):
    shards = write_tar(tmp_path / "x.tar", files_of("bad", bad) + files_of("good", good))
    counts, _ = filter_shards([shards], tmp_path / "out", RECIPES["coyo"])
    assert counts == {reason: 1, "kept": 1}
    assert read(tmp_path / "out" / "x.tar") == dict(files_of("good", good))


def test_texts_are_counted_over_all_tars(tmp_path):
    pictures = [picture(seed=seed) for seed in range(11)]
    times = {b"ten times this": 10, b"eleven times  this": 11}
    for number, (text, count) in enumerate(times.items()):
        for half in (0, 1):
            files = [file for n in range(half, count, 2) for file in files_of(f"{n}", english(text, pictures[n]))]
            write_tar(tmp_path / f"{number}{half}.tar", files)
    paths = [str(tmp_path / f"{name}.tar") for name in ("00", "10", "01", "11")]
    counts, written = filter_shards(paths, tmp_path / "out", RECIPES["coyo"])
    assert counts == {"kept": 10, "text more than 10 times": 11}
    assert written == 2 and sorted(os.listdir(tmp_path / "out")) == ["00.tar", "01.tar"]


def test_the_first_good_one_of_duplicates_is_kept(tmp_path):
    small, other = picture(199, 400, seed=3), picture(seed=4)
    one = files_of("a", english(TEXT, small)) + files_of("b", english(TEXT)) + files_of("c", english(TEXT, other))
    two = files_of("d", english(b"another text here")) + files_of("e", english(b"three  plain words "))
    paths = [write_tar(tmp_path / "1.tar", one), write_tar(tmp_path / "2.tar", two)]
    counts, _ = filter_shards(paths, tmp_path / "out", RECIPES["coyo"])
    assert counts == {"side under 200 pixels": 1, "kept": 3, "duplicate of image and text": 1}
    kept = [example.key.split(":")[1] for example in map(Webdataset(f"{tmp_path}/out/*.tar").__getitem__, range(3))]
    assert kept == ["b", "c", "d"]


def test_laion(tmp_path):
    records = {
        "good": english(b"12345"),
        "short": english(b"1234"),
        "both": english(b"1", b"x"),
        "small": english(b"12345", picture(8, 8)),
        "least": english(b"12345", picture(16, 16).ljust(5_000, b"\0")),
    }
    shards = write_tar(tmp_path / "x.tar", [file for key, parts in records.items() for file in files_of(key, parts)])
    counts, _ = filter_shards([shards], tmp_path / "out", RECIPES["laion"])
    assert counts == {
        "kept": 2,
        "text under 5 characters": 1,
        "not JPEG, PNG or WEBP": 1,
        "image under 5 KB": 1,
    }
    assert {name.split(".")[0] for name in read(tmp_path / "out" / "x.tar")} == {"good", "least"}


@pytest.fixture
def command(tmp_path):
    """Two tars, with long names and files of no kind of ours, and the command that filters them."""
    long = "folder/" * 30 + "größe"
    files = [*files_of("drop", english(b"no")), *files_of(long, english(TEXT)), (f"{long}.cls", b"7"), ("no.cls", b"8")]
    write_tar(tmp_path / "1.tar", files, tarfile.GNU_FORMAT)
    write_tar(tmp_path / "2.tar", files_of("b", english(TEXT)) + files_of("c", english(b"c is kept too")))
    flags = [f"--out={tmp_path / 'out'}", "--recipe=coyo", f"--dropped={tmp_path / 'dropped.tsv'}"]
    return ["filter", "--shards", f"{tmp_path}/?.tar", *flags]


def test_command(command, tmp_path, capsys):
    main(command)
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    table = {line[0]: int(line[-1]) for line in lines[:-1]}
    assert list(table) == ["read", *(name for name, _ in RECIPES["coyo"]), "kept"]
    assert {name: number for name, number in table.items() if number} == {
        "read": 4,
        "text of 5 characters or fewer": 1,
        "duplicate of image and text": 1,
        "kept": 2,
    }
    assert lines[-1] == [f"wrote 2 tars to {tmp_path / 'out'}"]
    assert (tmp_path / "dropped.tsv").read_text() == (
        f"{tmp_path}/1.tar:drop\ttext of 5 characters or fewer\n{tmp_path}/2.tar:b\tduplicate of image and text\n"
    )
    for number, dropped in (("1", ("drop.jpg", "drop.txt", "no.cls")), ("2", ("b.jpg", "b.txt"))):
        before = read(tmp_path / f"{number}.tar")
        assert read(tmp_path / "out" / f"{number}.tar") == {
            name: data for name, data in before.items() if name not in dropped
        }


def test_going_on_gives_the_same_tars(command, tmp_path, capsys):
    main(command)
    first = capsys.readouterr().out
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "2.tar").unlink()
    (tmp_path / "out" / "2.tar.part").write_bytes(b"half")
    before = os.stat(tmp_path / "out" / "1.tar").st_mtime_ns
    main(command)
    assert capsys.readouterr().out == first.replace("wrote 2", "wrote 1")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    assert os.stat(tmp_path / "out" / "1.tar").st_mtime_ns == before


@pytest.mark.parametrize("fault", ["cut in the last file", "a record less", "other files"])
def test_what_is_there_is_never_overwritten(command, tmp_path, fault, capsys):
    main(command)
    target = tmp_path / "out" / "2.tar"
    content = target.read_bytes()
    if fault == "cut in the last file":
        content = content[: content.index(b"c.txt") + 515]
    elif fault == "a record less":
        content = tar_bytes(tmp_path, [])
    else:
        content = (tmp_path / "1.tar").read_bytes()
    target.write_bytes(content)
    with pytest.raises(SystemExit) as exit:
        main(command)
    assert exit.value.code == 2 and "is not what this command would write" in capsys.readouterr().err
    assert target.read_bytes() == content


def test_two_tars_of_one_name(tmp_path):
    with pytest.raises(DataError, match=r"2 tars are named x\.tar"):
        filter_shards(["a/x.tar", "b/x.tar", "a/y.tar"], tmp_path, RECIPES["laion"])


def test_a_cut_record_is_dropped(tmp_path):
    content = tar_bytes(tmp_path, files_of("a", english(b"a is whole")) + files_of("b", english(b"b is cut")))
    path = tmp_path / "x.tar"
    path.write_bytes(content[: content.index(b"b.jpg") + 3_000])
    counts, _ = filter_shards([str(path)], tmp_path / "out", RECIPES["coyo"])
    assert counts == {"kept": 1, "truncated tar": 1}
    assert sorted(read(tmp_path / "out" / "x.tar")) == ["a.jpg", "a.txt"]


def test_a_tar_without_records_is_passed_over(tmp_path):
    empty = write_tar(tmp_path / "empty.tar", [])
    full = write_tar(tmp_path / "full.tar", [("a.jpg", IMAGE), ("a.txt", TEXT)])
    counts, written = filter_shards([empty, full], tmp_path / "out", RECIPES["coyo"])
    assert counts.total() == 1 and written == counts["kept"] and not (tmp_path / "out" / "empty.tar").exists()
