"""Does a run know its data again?"""

import json
import os

import pytest

from input_pipeline.prepare.shards import write_shards
from input_pipeline.sources.digits import Digits
from mmfuse.experiment import Experiment
from mmfuse.types import CheckpointError
from tests import small


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
