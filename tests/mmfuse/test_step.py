"""One step: sharded equals unsharded, cut equals whole, what is not finite changes nothing, what is frozen stays."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.experiment import Experiment
from mmfuse.objectives.cost import count_flops
from mmfuse.training.rules import named_leaves
from mmfuse.training.sharding import place
from mmfuse.training.step import make_step
from mmfuse.types import ConfigError
from tests.small_silent import get_config

STEPS = 10
COEFFICIENT = 0.25


def make(folder, streams=("pairs", "answers"), **changes):
    """The experiment; changes are given by names with __ for dots."""
    config = get_config(streams)
    changes = {"streams__answers__objectives__answering": COEFFICIENT} | changes
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return Experiment(config, folder)


def batches(experiment, step):
    return {name: place(stream[step].batch, experiment.mesh) for name, stream in experiment.streams.items()}


def compile_step(experiment):
    """(state, batches) → (state, metrics, the gradient that the optimizer is given) in one program."""
    optimizer, given = experiment.maker.optimizer, []

    def update(gradient, *rest, **more):
        given.append(gradient)
        return optimizer.update(gradient, *rest, **more)

    step = make_step(experiment.maker.graph, optimizer._replace(update=update), experiment.objectives, seed=0)

    def watched(state, batches):
        return *step(state, batches), named_leaves(given.pop())

    jitted = jax.jit(watched, out_shardings=(experiment.maker.shardings, None, None))
    return jitted.lower(experiment.abstract_state, experiment.abstract_batches).compile()


def run(experiment, steps, program=None):
    """The metrics of the first steps, and the gradient of the first one."""
    program = program or compile_step(experiment)
    state, metrics, gradient = program(experiment.maker.create(0), batches(experiment, 0))
    losses = [float(metrics["loss"])]
    for index in range(1, steps):
        state, later, _ = program(state, batches(experiment, index))
        losses.append(float(later["loss"]))
    return losses, jax.tree.map(np.asarray, metrics), jax.tree.map(np.asarray, gradient)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """On one device: the experiment, its compiled step, and what `run` gives."""
    experiment = make(tmp_path_factory.mktemp("alone"))
    program = compile_step(experiment)
    return experiment, program, run(experiment, STEPS, program)


def assert_same_gradient(found, expected, tolerance):
    assert found.keys() == expected.keys()
    largest = max(np.abs(leaf).max() for leaf in expected.values())
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=0, atol=tolerance * largest, err_msg=name)


def test_eight_devices_compute_what_one_does(tmp_path, alone):
    experiment = make(tmp_path, mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
    losses, _, gradient = run(experiment, STEPS)
    expected_losses, _, expected = alone[2]
    assert_same_gradient(gradient, expected, 1e-5)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert losses[-1] < losses[0]


def test_state_is_made_where_it_is_to_lie(tmp_path):
    state = make(tmp_path, mesh__data=2, mesh__fsdp=2, mesh__tensor=2).maker.create(0)
    kernels = {name: leaf for name, leaf in named_leaves(state).items() if name.endswith("attention/query/kernel")}
    assert len(kernels) > 3  # parameters, and what the optimizer keeps for them
    for name, leaf in kernels.items():
        assert leaf.sharding.spec[-2:] == ("fsdp", "tensor"), name
        assert leaf.addressable_shards[0].data.size * 4 == leaf.size, name


def test_an_accumulated_gradient_is_the_whole_gradient(tmp_path, alone):
    cut = make(tmp_path, streams__answers__accumulate=4)
    _, metrics, gradient = run(cut, 1)
    _, expected_metrics, expected = alone[2]
    assert_same_gradient(gradient, expected, 1e-6)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_contrastive_batch_is_not_cut(tmp_path):
    with pytest.raises(ConfigError, match=r"streams.pairs.accumulate=2: the objective 'contrastive' compares"):
        make(tmp_path, streams__pairs__accumulate=2)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(alone, poison):
    experiment, program, _ = alone
    state, good = experiment.maker.create(0), batches(experiment, 0)
    weight = good["answers"].text["target"].weight.at[0, 0, -1].set(poison)
    target = good["answers"].text["target"]._replace(weight=weight)
    bad = good | {"answers": good["answers"]._replace(text={"target": target})}
    before = jax.tree.map(np.array, state)
    for in_a_row in (1, 2):
        state, metrics, _ = program(state, bad)
        assert int(metrics["skipped"]) == in_a_row == int(state.skipped)
    assert int(state.step) == 2
    for part in ("trainable", "opt_state", "model_state"):
        chex.assert_trees_all_equal(getattr(state, part), getattr(before, part))
    state, metrics, _ = program(state, good)
    assert int(metrics["skipped"]) == 0
    scales = [named_leaves(part.trainable)["dual/log_scale"] for part in (state, before)]
    assert scales[0] != scales[1]


def test_what_is_frozen_gets_no_gradient_and_stays(tmp_path):
    experiment = make(tmp_path, ("answers",), optimizer__frozen=((r"^towers/image/", True), (".*", False)))
    state = experiment.maker.create(0)
    frozen, trainable = named_leaves(state.frozen), named_leaves(state.trainable)
    assert frozen and all(name.startswith("towers/image/") for name in frozen)
    assert trainable and not any(name.startswith("towers/image/") for name in trainable)
    assert not any("towers/image/" in name for name in named_leaves(state.opt_state))
    before = jax.tree.map(np.array, frozen)
    state, _, gradient = compile_step(experiment)(state, batches(experiment, 0))
    chex.assert_trees_all_equal(named_leaves(state.frozen), before)
    assert gradient.keys() == trainable.keys()


def test_the_loss_is_the_sum_of_its_weighed_parts(alone):
    metrics = alone[2][1]
    parts = {name: value for name, value in metrics.items() if name.endswith("/loss")}
    expected = sum(value * (COEFFICIENT if name.startswith("answers") else 1) for name, value in parts.items())
    assert len(parts) == 3
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def test_parameters_stay_float32_in_a_bfloat16_model(tmp_path, alone):
    # the attention of jax.nn mixes bfloat16 and float32 by itself
    with jax.numpy_dtype_promotion("standard"):
        losses, _, gradient = run(make(tmp_path, model__dtype="bfloat16"), 2)
    assert {leaf.dtype for leaf in gradient.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses, alone[2][0][:2], rtol=0.02)


def test_flops_are_what_the_compiler_counts_on_an_unrolled_build(tmp_path):
    """The real model at a width where products of matrices matter; the compiler counts a scan's body once."""
    changes = {"width": 128, "depth": 2, "heads": 4, "key_heads": 2, "mlp": 512}
    config = get_config(("answers",))
    config.optimizer.orthogonal = ((".*", False),)  # whose own products would hide what is made again
    for tower in (*config.model.towers.values(), config.model.single):
        tower.update(changes)
    scanned = Experiment(config, tmp_path)
    unrolled_config = config.copy_and_resolve_references()
    for tower in (*unrolled_config.model.towers.values(), unrolled_config.model.single):
        tower.unroll = True
    unrolled = Experiment(unrolled_config, tmp_path)
    counted = unrolled.traced_step.lower().compile().cost_analysis()["flops"]
    assert scanned.flops == pytest.approx(counted, rel=0.03)
    rematerialised = config.copy_and_resolve_references()
    rematerialised.model.towers.image.remat = True
    again = Experiment(rematerialised, tmp_path)
    assert count_flops(again.traced_step.jaxpr) > 1.02 * scanned.flops
    assert again.flops == scanned.flops
