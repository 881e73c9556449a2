"""Every experiment resolves to its golden rendering, so that a change shows in review; and every one can be built.

After a change that is meant: python -m tests.test_configs
"""

import importlib
import json
from pathlib import Path

import jax
import pytest

from mmfuse.experiment import Experiment

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = {  # by the names of their golden files
    "tiny": "tiny",
    "tiny_tars": "tiny:shards/train-{000..003}.tar",
    "quickstart": "quickstart",
    "emoji": "emoji",
    "own_data_small": "own_data:small",
    "own_data_base": "own_data:base",
}


def resolve(name):
    module, _, argument = CONFIGS[name].partition(":")
    get_config = importlib.import_module(f"configs.{module}").get_config
    return get_config(argument) if argument else get_config()


def render(name) -> str:
    return json.dumps(resolve(name).to_dict(), indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_its_golden_rendering(name):
    assert render(name) == (GOLDEN / f"{name}.json").read_text()


def test_every_config_is_tested():
    files = {path.stem for path in (GOLDEN.parent.parent / "configs").glob("*.py")} - {"__init__", "parts"}
    assert files == {config.partition(":")[0] for config in CONFIGS.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_can_be_built(name, tmp_path):
    experiment = Experiment(resolve(name), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert jax.tree.leaves(experiment.abstract_state.trainable)


def test_the_tiny_experiment_is_tiny():
    experiment = Experiment(resolve("tiny"), "none")
    assert sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_state.trainable)) == 671_430 < 1_000_000


def test_a_config_is_locked():
    config = resolve("tiny")
    with pytest.raises(AttributeError, match='Did you mean "steps"'):
        config.train.stepz = 3


if __name__ == "__main__":
    for config_name in CONFIGS:
        (GOLDEN / f"{config_name}.json").write_text(render(config_name))
