"""A config that was written down is the one that was asked for, and its shared values are one."""

import importlib
import json

import pytest
from ml_collections import ConfigDict

from mmfuse.training.asked import read_back, write_down


def over_json(config):
    return read_back(json.loads(json.dumps(write_down(config))))


@pytest.mark.parametrize("name", ["tiny", "quickstart", "router", "router_consensus", "emoji", "own_data", "clip"])
def test_a_config_comes_back(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    back = over_json(config)
    assert back.to_dict() == config.to_dict()
    assert back.is_locked


def test_whoever_changes_a_shared_value_changes_all():
    config = ConfigDict({"data": {"train": "a", "test": "b", "other": "b"}})
    test = {"shards": config.data.get_ref("test"), "rows": (4, (5, None))}
    config.update({"first": {"source": test}, "second": {"inner": {"source": test}}})
    for made in (config, over_json(config)):
        made.data.test = "c"
        assert made.first.source.shards == made.second.inner.source.shards == "c"
        assert made.data.other == "b" and made.data.train == "a"
        assert made.first.source.rows == (4, (5, None))


def test_the_test_of_own_data_is_one():
    back = over_json(importlib.import_module("configs.own_data").get_config())
    back.data.test = "elsewhere.tar"
    assert {evaluator.source.shards for evaluator in back.evaluators.values()} == {"elsewhere.tar"}
