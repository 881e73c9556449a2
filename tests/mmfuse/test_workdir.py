"""Is a folder refused to a run that it does not belong to, and given back to the one it does?"""

import json
import os
import runpy
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from ml_collections import ConfigDict

from mmfuse.training.workdir import CONFIG, PACKAGES, PROVENANCE, alone, check_claimed, claim, flatten, with_config
from mmfuse.types import CheckpointError

DATA = {"tokenizer": "a5", "records": {"scenes": 7, "tars": 5}, "files": {"tars": "c7"}}


def config(**changes):
    plain = {
        "seed": 0,
        "optimizer": {"learning_rate": 1e-3, "weight_decay": ((".*", 0.05), ("bias", (0.0, None)))},
        "sources": {"scenes": {"kind": "scenes"}},
        "loader": {"workers": 1},
        "log_every": 10,
        "data": {"train": "a", "test": "b"},
        "eval": {"name": ""},
    }
    made = ConfigDict(plain)
    made.update_from_flattened_dict(changes)
    return made


def test_the_same_run_comes_back(tmp_path):
    for folder in (tmp_path / "new" / "run", str(tmp_path / "other")):
        claim(folder, config(), DATA)
        claim(folder, config(), DATA)


def test_what_is_written_down(tmp_path):
    claim(tmp_path, config(), DATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, PROVENANCE]
    written = json.loads((tmp_path / CONFIG).read_text())
    assert written["config"]["optimizer"]["learning_rate"] == 1e-3 and written["data"] == DATA
    origin = json.loads((tmp_path / PROVENANCE).read_text())
    assert {"git", "flags", "changed", "python", "machine", *PACKAGES} == set(origin)
    assert origin["jax"][0].isdigit() and isinstance(origin["changed"], bool)
    assert origin["machine"].startswith(f"{jax.device_count()} × cpu, {os.cpu_count()} cores, ")


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("seed", 1, "  seed: 0 there, 1 now"),
        ("optimizer.learning_rate", 2e-3, "  optimizer.learning_rate: 0.001 there, 0.002 now"),
        ("sources.scenes.kind", "digits", "  sources.scenes.kind: scenes there, digits now"),
        (
            "optimizer.weight_decay",
            ((".*", 0.05), ("bias", (0.1, None))),
            "  optimizer.weight_decay: [['.*', 0.05], ['bias', [0.0, None]]] there, "
            "[['.*', 0.05], ['bias', [0.1, None]]] now",
        ),
    ],
)
def test_another_config_is_refused_by_field_and_values(tmp_path, field, value, line):
    claim(tmp_path, config(), DATA)
    before = (tmp_path / CONFIG).read_bytes()
    with pytest.raises(CheckpointError) as refusal:
        claim(tmp_path, config(**{field: value}), DATA)
    assert line in str(refusal.value).splitlines() and str(tmp_path) in str(refusal.value)
    assert "another --workdir" in str(refusal.value)
    assert (tmp_path / CONFIG).read_bytes() == before
    claim(tmp_path, config(), DATA)


@pytest.mark.parametrize(("here", "message"), [(True, "new.key: nothing there, 3 now"), (False, "new.key: 3 there")])
def test_a_field_that_came_or_went_is_refused(tmp_path, here, message):
    more = config()
    more.new = {"key": 3}
    claim(tmp_path, config() if here else more, DATA)
    with pytest.raises(CheckpointError, match=message):
        claim(tmp_path, more if here else config(), DATA)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**DATA, "tokenizer": "b6"}, "found.tokenizer: a5 there, b6 now"),
        ({**DATA, "records": {"scenes": 8, "tars": 5}}, "found.records.scenes: 7 there, 8 now"),
        ({**DATA, "files": {"tars": "d8"}}, "found.files.tars: c7 there, d8 now"),
        ({**DATA, "files": {}}, "found.files.tars: c7 there, nothing now"),
    ],
)
def test_other_data_are_refused(tmp_path, data, message):
    claim(tmp_path, config(), DATA)
    with pytest.raises(CheckpointError, match=message):
        claim(tmp_path, config(), data)


def test_a_run_from_before_files_were_written_down_goes_on(tmp_path):
    claim(tmp_path, config(), {key: value for key, value in DATA.items() if key != "files"})
    claim(tmp_path, config(), DATA)


def test_how_fast_steps_come_may_change(tmp_path):
    claim(tmp_path, config(), DATA)
    claim(tmp_path, config(**{"loader.workers": 3, "log_every": 1}), DATA)


def test_an_evaluation_may_measure_on_other_data(tmp_path):
    claim(tmp_path, config(), DATA)
    check_claimed(tmp_path, config(**{"data.test": "c", "eval.name": "c"}))
    with pytest.raises(CheckpointError, match="train: a there, c now"):
        check_claimed(tmp_path, config(**{"data.train": "c"}))
    with pytest.raises(CheckpointError, match="test: b there, c now"):  # training measures on it on the way
        claim(tmp_path, config(**{"data.test": "c"}), DATA)
    with pytest.raises(CheckpointError, match="there is no run"):
        check_claimed(tmp_path / "none", config())


def test_a_command_without_a_config_takes_that_of_the_run(tmp_path):
    asked = config(**{"eval.name": "asked"})
    claim(tmp_path, config(seed=3), DATA, asked=asked)
    changes = ["--config.eval.name=new", "--mode=evaluate"]
    for workdir in ([f"--workdir={tmp_path}"], ["--workdir", str(tmp_path)]):
        program, flag, *rest = with_config(["main.py", *workdir, *changes])
        assert [program, *rest] == ["main.py", *workdir, *changes]
        file, _, folder = flag.removeprefix("--config=").partition(":")
        found = runpy.run_path(file)["get_config"](folder)
        assert found.to_dict() == asked.to_dict()
    for whole in (["main.py", "--config=a", *workdir], ["main.py", *changes], ["main.py", "--config=a"]):
        assert with_config(whole) == whole
    with pytest.raises(CheckpointError, match="there is no run in /none: name its --config"):
        with_config(["main.py", "--workdir=/none", *changes])


def test_of_older_runs_the_flags_that_made_them_are_found_again(tmp_path, monkeypatch):
    for name, flags in {
        "one": ["--config=configs/tiny.py", "--config.seed=3"],
        "words": ["--config", "configs/tiny.py", "--config.seed=3", "--config.mesh.data", "2"],
    }.items():
        monkeypatch.setattr("sys.argv", ["main.py", *flags[:2], "--workdir", "else", *flags[2:]])
        claim(tmp_path / name, config(), DATA)
        path = tmp_path / name / CONFIG
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "asked"})
        )
        workdir = f"--workdir={tmp_path / name}"
        assert with_config(["main.py", workdir, "--mode=evaluate"]) == ["main.py", *flags, workdir, "--mode=evaluate"]


def test_tuples_and_lists_are_the_same(tmp_path):
    claim(tmp_path, config(), DATA)
    claim(tmp_path, config(**{"optimizer.weight_decay": [[".*", 0.05], ["bias", [0.0, None]]]}), DATA)


def test_a_claim_that_was_interrupted_starts_fresh(tmp_path, monkeypatch):
    def crash(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", crash)
        with pytest.raises(KeyboardInterrupt):
            claim(tmp_path, config(), DATA)
    assert not (tmp_path / CONFIG).exists()
    claim(tmp_path, config(seed=5), DATA)
    with pytest.raises(CheckpointError, match="seed: 5 there, 0 now"):
        claim(tmp_path, config(), DATA)


def test_processes_that_start_together_agree(tmp_path):
    for round in range(20):
        with ThreadPoolExecutor(4) as threads:
            for claimed in [threads.submit(claim, tmp_path / str(round), config(), DATA) for _ in range(4)]:
                claimed.result()


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}


def test_two_do_not_train_in_one_folder(tmp_path):
    words = "another process trains in .*: wait for it, or stop it"
    with alone(tmp_path), pytest.raises(CheckpointError, match=words), alone(tmp_path):
        pass
    with alone(tmp_path), alone(tmp_path.parent):
        pass
