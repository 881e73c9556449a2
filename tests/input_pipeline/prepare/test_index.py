"""Are all indexes there when the command is done?"""

import os

import pytest

from input_pipeline.prepare.__main__ import main
from input_pipeline.sources import tar_index
from input_pipeline.sources.webdataset import Webdataset
from tests.input_pipeline.test_tar_scan import write_tar


@pytest.fixture
def tars(tmp_path, monkeypatch):
    """Five tars of 1, 2, … records."""
    monkeypatch.setenv("MMFUSE_CACHE", str(tmp_path / "cache"))
    for number in range(5):
        write_tar(tmp_path / f"{number}.tar", [(f"{row}.txt", b"text") for row in range(number + 1)])
    return f"{tmp_path}/*.tar"


def test_a_run_finds_all_indexes(tars, capsys, monkeypatch):
    main(["index", "--shards", tars, "--workers=2"])
    assert capsys.readouterr().out == f"15 records in 5 tars; their indexes are in {tar_index.cache_folder()}\n"
    assert len(os.listdir(tar_index.cache_folder())) == 5
    monkeypatch.setattr(tar_index, "make_index", lambda path: pytest.fail(f"{path} was read again"))
    assert len(Webdataset(tars)) == 15


def test_what_cannot_be_done_is_said(tars, tmp_path, capsys):
    (tmp_path / "9.tar").write_bytes(b"no tar")
    for arguments, words in ((["--workers=1"], "9.tar is no tar"), (["--workers=0"], "workers is 0: write 1 or more")):
        with pytest.raises(SystemExit, match="2"):
            main(["index", "--shards", tars, *arguments])
        assert words in capsys.readouterr().err
