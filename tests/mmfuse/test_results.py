"""Is a finished run told rightly in a line, and are numbers over seeds those of the textbook?"""

import json

import numpy as np
import pytest

from mmfuse.results import add_run, append_line, newest_of_each_seed, over_seeds, read_lines, run_line, without_seed
from mmfuse.types import CheckpointError
from tests.small_report import HOSTILE, write_workdir


def test_a_line_is_what_the_folder_says(tmp_path):
    line = run_line(write_workdir(tmp_path / "run"))
    assert line["command"] == f"python main.py --config={HOSTILE}" and line["git"] == "0123abc" and line["seed"] == 0
    assert line["steps"] == 40 and line["minutes"] == pytest.approx(40 * 0.5 / 60)
    assert line["summary"]["vqa/accuracy"] == 0.75


def test_a_run_without_numbers_is_no_result(tmp_path):
    with pytest.raises(CheckpointError, match=r"summary.json is missing"):
        run_line(tmp_path)


def test_a_run_is_added_once(tmp_path):
    workdir, path = write_workdir(tmp_path / "run"), tmp_path / "results" / "some.jsonl"
    line = run_line(workdir)
    assert read_lines(path) == []
    assert add_run(path, line) and not add_run(path, run_line(workdir))
    summary = workdir / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "time/wall_seconds": 3.0}))
    assert not add_run(path, run_line(workdir))
    timing = workdir / "timing.jsonl"
    timing.write_text(timing.read_text().replace("0.5", "0.50000001", 1))
    again = run_line(workdir)
    assert add_run(path, again)
    assert read_lines(path) == [line, again]


def test_spread_is_that_of_a_sample():
    values = [0.25, 0.5, 1.0]
    runs = [{"a": value, "machine": "some", "b": 7} for value in values[:2]] + [{"a": values[2], "c": 1234.5}]
    found = over_seeds(runs)
    assert found.keys() == {"a", "b", "c"}
    assert found["a"] == pytest.approx((np.mean(values), np.std(values, ddof=1), 3))
    assert found["b"] == (7, 0, 2) and found["c"] == (1234.5, 0, 1)
    assert (
        f"{found['a']:.3f}" == "0.583 ± 0.382" and f"{found['b']:.0f}" == "7 ± 0" and f"{found['c']:,.1f}" == "1,234.5"
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_seen_in_the_mean(value):
    found = over_seeds([{"a": 0.25, "b": 1.0}, {"a": value, "b": 3.0, "machine": "some", "flags": ["nan"]}])
    assert found.keys() == {"a", "b"} and found["b"].mean == 2
    assert f"{found['a']:.3f}" == "nan ± nan" and found["a"].seeds == 2
    assert f"{over_seeds([{'a': value}])['a']:.3f}" == "nan"


def test_an_experiment_is_a_command_over_seeds(tmp_path):
    path, command = tmp_path / "some.jsonl", "python main.py --config=a.py --config.x=2"
    commands = [
        (command, 0, "old"),
        (f"{command} --config.seed=12", 12, "new"),
        (f"{command} --config.seeds=1", 1, "another"),
        ("python main.py --config=a.py --config.seed 3", 3, "another"),
        ("python main.py --config.seed 0 --config=a.py --config.x=2", 0, "new"),
    ]
    for words, seed, age in commands:
        append_line(path, {"command": words, "seed": seed, "age": age})
    found = newest_of_each_seed(read_lines(path))
    assert [(line["seed"], line["age"]) for line in found] == [(0, "new"), (12, "new")]
    assert {without_seed(line["command"]) for line in found} == {command}
    assert newest_of_each_seed([]) == []
