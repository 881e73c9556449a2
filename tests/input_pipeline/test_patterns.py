"""Do patterns name what a shell would name?"""

import os
import subprocess

import pytest

from input_pipeline.sources.patterns import expand_braces, expand_patterns
from mmfuse.types import DataError


@pytest.mark.parametrize(
    "pattern",
    ["{00008..00012}.tar", "{8..12}", "{12..8}", "{a,b}/{1..2}{x,y}", "{x}", "{}", "a{1..}b{1,2}", "{05..7}", "p"],
)
def test_braces_as_bash_expands_them(pattern):
    shell = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert sorted(expand_braces(pattern)) == sorted(shell.stdout.split())


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.tar",
        "a.tar",
        "s-00.tar",
        "s-01.tar",
        "s-02.tar",
        "odd[1]{2}.tar",
        "deep/er/c.tar",
        "run[1]/0.tar",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("?.tar", ["a.tar", "b.tar"]),
        ("s-{02..00}.tar", ["s-02.tar", "s-01.tar", "s-00.tar"]),
        (["b.tar", "s-*.tar"], ["b.tar", "s-00.tar", "s-01.tar", "s-02.tar"]),
        ("{s-*,[ab]}.tar", ["s-00.tar", "s-01.tar", "s-02.tar", "a.tar", "b.tar"]),
        ("odd[1]{2}.tar", ["odd[1]{2}.tar"]),
        ("**/c.tar", ["deep/er/c.tar"]),
        ("run[1]/{0..0}.tar", ["run[1]/0.tar"]),
    ],
)
def test_files_in_order(folder, patterns, names):
    patterns = [patterns] if isinstance(patterns, str) else patterns
    assert expand_patterns([str(folder / pattern) for pattern in patterns]) == [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.zip", "The folder '.*' holds 8 names: a.tar, b.tar, deep, odd.*, run.*, …"),
        ("s-{00..03}.tar", r"no file is named '.*s-03.tar' \(from '.*s-{00..03}.tar'\)"),
        ("s-{00..99999999999}.tar", "s-00000000000.tar"),
        ("none/*.tar", "holds 8 names"),
        ("deep", r"deep is a folder: name the files in it, such as '.*deep/\*.tar'"),
        ("{a,a}.tar", "a.tar is named twice"),
    ],
)
def test_what_is_not_found_is_said(folder, pattern, message):
    with pytest.raises(DataError, match=message):
        expand_patterns(str(folder / pattern))


def test_a_pipe_is_a_name_of_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no file is named 'pipe:touch done'"):
        expand_patterns("pipe:touch done")
    assert os.listdir(tmp_path) == []


def test_a_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert expand_patterns("~/a.*") == [str(folder / "a.tar")]


def test_no_patterns():
    with pytest.raises(DataError, match="at least one pattern"):
        expand_patterns([])
