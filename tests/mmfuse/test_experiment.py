"""A run knows its data again, compiles all its programs before the first step, and goes on from its own tally."""

import json
import os
from collections import Counter
from types import SimpleNamespace

import pytest

from input_pipeline.prepare.shards import write_shards
from input_pipeline.sources.digits import Digits
from mmfuse.experiment import Experiment
from mmfuse.training.state import TrainState
from mmfuse.types import CheckpointError
from tests import small, small_routed

STATE = TrainState({}, {}, {}, {}, 3, 0)


def test_a_run_does_not_go_on_with_other_tars_that_have_as_many_records(tmp_path):
    tars = write_shards(Digits("train"), tmp_path / "tars", count=7, per_shard=5)
    config = small.get_config(str(tmp_path / "tars" / "*.tar"))
    config.mesh.data = 1
    Experiment(config, tmp_path / "run")._claim()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["files"].keys() == {"tars"}
    os.utime(tars[0], ns=(0, 7))  # as when a record is mended
    Experiment(config, tmp_path / "run")._claim()
    tars[0].rename(tmp_path / "tars" / "00007.tar")
    with pytest.raises(CheckpointError, match=r"differs in 1 fields:\n  found\.files\.tars: "):
        Experiment(config, tmp_path / "run")._claim()


def test_all_phases_ahead_are_compiled_before_the_first_step(monkeypatch, tmp_path):
    config = small_routed.get_config("nothing")
    with config.unlocked():
        config.model.router.update(dense_steps=3, falling=((5, 0.8),))
    compiled = []

    class Traced:
        def __init__(self, experiment):
            self.capacity = experiment.config.model.router.capacity.image

        def lower(self):
            return self

        def compile(self):
            compiled.append(self.capacity)
            if self.capacity == 0.5:
                raise RuntimeError("out of memory")

    monkeypatch.setattr(Experiment, "traced_step", property(Traced))
    monkeypatch.setattr(Experiment, "flops", 0.0)
    monkeypatch.setattr(Experiment, "_resume", lambda *_: (STATE, Counter()))
    checkpointer = SimpleNamespace(latest_step=lambda: STATE.step)
    with pytest.raises(RuntimeError, match="out of memory"):  # and not that there is nothing to train with
        Experiment(config, tmp_path)._train(checkpointer, SimpleNamespace(rewind=lambda step: None))
    assert compiled == [0.8, 0.5]


@pytest.mark.parametrize("process", [0, 1])
def test_only_the_first_process_goes_on_from_the_tally_that_it_has_saved(monkeypatch, tmp_path, process):
    tally = {"scenes/read": 8, "scenes/used": 7, "scenes/rejected/torn": 1}
    checkpointer = SimpleNamespace(latest_step=lambda: 3, restore=lambda _: (STATE, {"step": 3, "tally": tally}))
    experiment = SimpleNamespace(abstract_state=None, workdir=tmp_path)
    monkeypatch.setattr("jax.process_index", lambda: process)
    assert Experiment._resume(experiment, checkpointer, None) == (STATE, tally if process == 0 else {})
