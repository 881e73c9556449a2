"""Tests of mmfuse.training.rules."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from mmfuse.training.rules import match_rules, named_leaves
from mmfuse.types import ConfigError

NAMES = ["head/bias", "head/kernel", "layers/0/bias", "layers/0/kernel"]


class Model(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.head = nnx.Linear(3, 5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs)])


@pytest.fixture
def params():
    return nnx.state(Model(), nnx.Param)


def test_a_parameter_has_one_name_in_every_tree(params):
    assert list(named_leaves(params)) == NAMES
    assert list(named_leaves(nnx.to_pure_dict(params))) == NAMES
    moments = named_leaves(optax.adam(1e-3).init(params))
    assert list(moments) == ["0/count", *(f"0/{m}/{name}" for m in ("mu", "nu") for name in NAMES)]


def test_value_is_left_out_of_variables_alone():
    assert list(named_leaves({"value": 1, "a": {"value": 2}})) == ["a/value", "value"]


def test_equal_names_are_refused():
    with pytest.raises(ValueError, match="'a/b'"):
        named_leaves({"a/b": 1, "a": {"b": 2}})


def test_the_first_rule_found_decides(params):
    matched = match_rules([("head", 1), ("bias", 2), (".*", 3)], params)
    assert named_leaves(matched) == dict(zip(NAMES, [1, 1, 2, 3]))
    assert jax.tree.structure(matched) == jax.tree.structure(params)


def test_a_regex_may_be_found_anywhere_and_may_be_anchored():
    tree = {"a": {"bias": 0}, "bias_net": {"kernel": 0}}
    assert match_rules([["bias$", "yes"], ["bias", "no"]], tree) == {"a": {"bias": "yes"}, "bias_net": {"kernel": "no"}}


@pytest.mark.parametrize("rule", [(None, "fsdp"), (), PartitionSpec(None, "fsdp")])
def test_a_tuple_is_one_rule_beside_its_leaf(params, rule):
    matched = match_rules([("kernel", rule), (".*", (7,))], params)
    pairs = []
    jax.tree.map(lambda leaf, its: pairs.append((leaf.ndim, its)), params, matched)
    assert pairs == [(1, (7,)), (2, rule), (1, (7,)), (2, rule)]


def test_uncovered_names_are_listed(params):
    with pytest.raises(ConfigError, match=r"covers 2 of the names, such as head/kernel, layers/0/kernel: .*\(\"\.\*\""):
        match_rules([("bias", 0)], params)


def test_a_regex_found_nowhere_is_refused_with_the_nearest_names(params):
    with pytest.raises(ConfigError, match=r"'haed/kernel' is found in no name.* names are head/kernel"):
        match_rules([("haed/kernel", 0), (".*", 1)], params)


def test_a_rule_in_the_shadow_of_earlier_ones_is_right(params):
    matched = match_rules([("bias|kernel", 0), (".*", 1)], params)
    assert set(named_leaves(matched).values()) == {0}


def test_a_tree_without_leaves_matches_any_rules():
    assert match_rules([("bias", 0)], {"a": {}}) == {"a": {}}


def test_abstract_leaves_will_do():
    tree = jax.eval_shape(lambda: {"w": jnp.ones(3)})
    assert match_rules([("w", 0.5)], tree) == {"w": 0.5}
