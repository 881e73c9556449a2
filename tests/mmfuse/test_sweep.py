"""Are runs made in their order, each once, and does a sweep that was stopped or hit by a failure go on?"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmfuse.results import read_lines
from mmfuse.sweep import MAIN, Planned, config_name, main, plan, sweep, table
from tests.running import ENVIRONMENT, ROOT
from tests.small_report import write_workdir

SMALL = "tests/small_sweep.py"


def test_one_seed_of_each_config_comes_first():
    runs = plan(["configs/a.py", "b.py:base"], [3, 0, 1], Path("out"), ["--config.x=1"])
    assert [(run.name, run.seed) for run in runs] == [(name, seed) for seed in (3, 0, 1) for name in ("a", "b_base")]
    assert runs[1].workdir == Path("out/b_base-seed3")
    own = ["--config=b.py:base", "--workdir=out/b_base-seed3", "--config.seed=3"]
    assert runs[1].command == [sys.executable, str(MAIN), *own, "--config.x=1"]


@pytest.mark.parametrize(
    ("config", "name"), [("configs/a.py", "a"), ("a.b.py", "a.b"), ("configs/a.py:x/*.tar,{0..3}", "a_x_.tar_0..3")]
)
def test_a_config_has_a_name_for_files(config, name):
    assert config_name(config) == name


def program(words):
    """A run whose process is this program."""
    return [sys.executable, "-c", words]


def planned(folder, *programs):
    """A run for each program, whose folder says that it is complete."""
    runs = [Planned("some", seed, folder / f"run{seed}", program(words)) for seed, words in enumerate(programs)]
    for run in runs:
        if not run.workdir.exists():
            write_workdir(run.workdir, loss=1.0 + run.seed)
            summary = {"step": 40, "accuracy": 0.25 + 0.5 * run.seed}
            (run.workdir / "summary.json").write_text(json.dumps(summary))
            timing = {"step": 1, "seconds": 60.0 * (1 + run.seed), "wait_share": 0.0}
            (run.workdir / "timing.jsonl").write_text(json.dumps(timing) + "\n")
    return runs


def test_a_sweep_ends_with_a_table_and_adds_each_run_once(tmp_path, capfd):
    for _ in range(2):
        assert sweep(planned(tmp_path, "print('of one')", "print('of two')"), tmp_path / "results") == 0
        told = capfd.readouterr().out
        assert told.index("[1/2]") < told.index("of one") < told.index("[2/2]") < told.index("of two")
        assert "| some | accuracy | 0.500 ± 0.354 | 2 |" in told.splitlines()
        lines = read_lines(tmp_path / "results" / "some.jsonl")
        assert [line["summary"]["accuracy"] for line in lines] == [0.25, 0.75]


def test_a_failure_is_told_and_the_rest_is_made(tmp_path, capfd):
    runs = planned(tmp_path, "raise SystemExit(2)", "pass", "raise SystemExit(1)")
    assert sweep(runs, tmp_path / "results") == 1
    last = capfd.readouterr().out.splitlines()[-3:]
    assert last[0] == "| some | accuracy | 0.750 | 1 |"
    assert last[1:] == [f"{tmp_path}/run0: failed with exit code 2", f"{tmp_path}/run2: failed with exit code 1"]
    assert len(read_lines(tmp_path / "results" / "some.jsonl")) == 1


def test_a_run_that_stops_stops_the_sweep(tmp_path, capfd):
    runs = planned(tmp_path, "pass", "raise SystemExit(75)", "print('never')")
    assert sweep(runs, tmp_path / "results") == 75
    assert "never" not in capfd.readouterr().out.replace(" ".join(runs[2].command), "")
    assert len(read_lines(tmp_path / "results" / "some.jsonl")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_run_and_no_other_is_begun(tmp_path, number):
    """The run ends in its own time, and whatever it ends with, the sweep has stopped."""
    before = signal.getsignal(number)
    catch = f"import os, signal, time; signal.signal({number:d}, lambda *_: (print('told'), os._exit(0)));"
    runs = planned(tmp_path, f"{catch} os.kill(os.getppid(), {number:d}); time.sleep(30)", "print('never')")
    start = time.monotonic()
    assert sweep(runs, tmp_path / "results") == 75
    assert time.monotonic() - start < 20 and signal.getsignal(number) == before
    assert not (tmp_path / "results").exists()


class Interrupted(list):
    """Runs, between which a signal comes."""

    def __iter__(self):
        for number, run in enumerate(super().__iter__()):
            if number:
                os.kill(os.getpid(), signal.SIGTERM)
            yield run


def test_a_signal_between_two_runs_is_heard(tmp_path, capfd):
    touched = tmp_path / "touched"
    runs = planned(tmp_path, "pass", f"open({str(touched)!r}, 'w')")
    assert sweep(Interrupted(runs), tmp_path / "results") == 75
    assert len(read_lines(tmp_path / "results" / "some.jsonl")) == 1 and not touched.exists()


def test_a_table_counts_the_seeds_that_have_a_number():
    assert table({"a": [{"x": 1.0, "y": 2.0}, {"x": 2.0}], "b": [{"x": 1234.5}]})[2:] == [
        "| a | x | 1.500 ± 0.707 | 2 |",
        "| a | y | 2.000 | 1 |",
        "| b | x | 1,234.500 | 1 |",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["configs/tiny.py", "configs/none.py"], "there is no config configs/none.py"),
        (["configs/tiny.py", "configs/tiny.py"], "two configs have the same name"),
        (["configs/tiny.py", "--seeds=0,0"], "0,0: write different whole numbers"),
        (["configs/tiny.py", "--seeds=0,-1"], "write different whole numbers"),
        (["configs/tiny.py", "--", "--config.seed=3"], "--config.seed=3: the sweep itself says this"),
        (["configs/tiny.py", "--", "--workdir", "here"], "--workdir: the sweep itself says this"),
        ([], "required: configs"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_begun(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as refusal:
        main([f"--out={tmp_path}", f"--results={tmp_path}", "--seeds=0,1", *arguments])
    assert refusal.value.code == 2 and words in capsys.readouterr().err


def start(folder, *changes):
    """A sweep over two seeds as a person starts it."""
    command = [sys.executable, "-m", "mmfuse.sweep", f"--out={folder}", "--seeds=0,1", f"--results={folder}/results"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, SMALL, "--", *changes], cwd=ROOT, env=os.environ | ENVIRONMENT, **streams)


@pytest.mark.processes
def test_a_sweep_that_was_stopped_goes_on(tmp_path):
    process = start(tmp_path, "--config.checkpoint.every=5")
    metrics = tmp_path / "small_sweep-seed0" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert "[2/2]" not in output and not (tmp_path / "results").exists()

    process = start(tmp_path, "--config.checkpoint.every=5")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "going on from step" in output
    lines = read_lines(tmp_path / "results" / "small_sweep.jsonl")
    assert [(line["seed"], line["steps"]) for line in lines] == [(0, 60), (1, 60)]
    first, second = (tmp_path / f"small_sweep-seed{seed}" / "metrics.jsonl" for seed in (0, 1))
    assert first.read_text().splitlines()[-1] != second.read_text().splitlines()[-1]
    number = next(row for row in output.splitlines() if "| classification/digits |" in row)
    assert number.endswith("| 2 |") and "±" in number
