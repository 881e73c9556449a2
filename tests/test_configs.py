"""Every experiment resolves to its golden rendering, so that a change shows in review; and every one can be built.

After a change that is meant: python -m tests.test_configs
"""

import contextlib
import importlib
import json
import tempfile
from pathlib import Path

import jax
import pytest

from mmfuse.experiment import Experiment
from tests import small_released

GOLDEN = Path(__file__).parent / "golden"
CONFIGS = {  # by the names of their golden files
    "tiny": "tiny",
    "tiny_tars": "tiny:shards/train-{000..003}.tar",
    "quickstart": "quickstart",
    "scenes": "scenes",
    "router": "router",
    "router_dense": "router:dense",
    "router_dense_16": "router:dense_16",
    "router_frugal": "router:frugal_53",
    "router_random": "router:random_30",
    "router_two": "router:image,audio",
    "router_consensus": "router_consensus",
    "emoji": "emoji",
    "own_data_small": "own_data:small",
    "own_data_base": "own_data:base",
    "clip_b32": "clip:b32",
    "clip_b16": "clip:b16",
    "clip_l14": "clip:l14",
    "siglip_b16": "siglip:b16",
    "siglip_l16": "siglip:l16",
    "siglip_so400m": "siglip:so400m",
    "zero_shot_clip": "zero_shot:clip",
    "zero_shot_siglip": "zero_shot:siglip",
    "finetune_clip": "finetune:clip",
    "finetune_siglip": "finetune:siglip",
    "finetune_siglip2": "finetune:siglip2",
}
OF_FOLDERS = ("zero_shot", "finetune")
PARAMETERS = {  # of the released models
    "tiny": 671_430,
    "clip_b32": 151_277_313,
    "clip_b16": 149_620_737,
    "clip_l14": 427_616_513,
    "siglip_b16": 203_155_970,
    "siglip_l16": 652_150_786,
    "siglip_so400m": 877_360_306,
}


def resolve(name):
    module, _, argument = CONFIGS[name].partition(":")
    get_config = importlib.import_module(f"configs.{module}").get_config
    if module not in OF_FOLDERS:
        return get_config(argument) if argument else get_config()
    with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):
        small_released.write_model(Path(argument), argument)
        return get_config(argument)


def render(name) -> str:
    return json.dumps(resolve(name).to_dict(), indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_its_golden_rendering(name):
    assert render(name) == (GOLDEN / f"{name}.json").read_text()


def test_every_config_is_tested():
    files = {path.stem for path in (GOLDEN.parent.parent / "configs").glob("*.py")} - {
        "__init__",
        "parts",
        "released",
        "saved",
    }
    assert files == {config.partition(":")[0] for config in CONFIGS.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_can_be_built(name, tmp_path):
    experiment = Experiment(resolve(name), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert jax.tree.leaves([experiment.abstract_state.trainable, experiment.abstract_state.frozen])


@pytest.mark.parametrize("name", PARAMETERS)
def test_counts_are_those_of_the_released_models(name):
    experiment = Experiment(resolve(name), "none")
    assert sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_state.trainable)) == PARAMETERS[name]


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "tiny"])
def test_released_models_divide_among_eight_devices(name):
    config = resolve(name).copy_and_resolve_references()
    config.mesh.update(data=1, fsdp=8)
    shardings = Experiment(config, "none").maker.shardings.trainable
    assert sum(not sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings)) > 10


def test_a_config_is_locked():
    config = resolve("tiny")
    with pytest.raises(AttributeError, match='Did you mean "steps"'):
        config.train.stepz = 3


if __name__ == "__main__":
    for config_name in CONFIGS:
        (GOLDEN / f"{config_name}.json").write_text(render(config_name))
