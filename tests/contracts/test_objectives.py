"""Does every objective keep the contract of `objectives/objective.py`? A new one joins by one row of `MAKE`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build import make_model
from mmfuse.build_goals import CONTRASTIVE_LOSSES, OBJECTIVES
from mmfuse.objectives.objective import Objective, PerExample
from mmfuse.routing.consensus import Consensus
from tests.mmfuse import conftest

# fixtures: what the small model is made of, and its batch
model_config, batch = conftest.model_config, conftest.batch

PAIRS = (("image", "caption"), ("audio", "caption"))

# name → (kind, how it is made)
MAKE = {
    **{
        f"contrastive {name}": ("contrastive", {"between": PAIRS, "loss": loss})
        for name, loss in CONTRASTIVE_LOSSES.items()
    },
    "generation": ("generation", {"chunk": 4}),
    "matching": ("matching", {"between": (("image", "caption"),), "mates": 2}),
    "expected_cost": ("expected_cost", {}),
    "balance": ("balance", {}),
    "entropy_floor": ("entropy_floor", {"floor": 1.0}),
}
ROLES = ("caption", "target")


@pytest.fixture(scope="module")
def model(model_config):
    """The small model with a router, some of whose gates are shut, and a consensus."""
    config = ConfigDict(model_config.to_dict())
    for tower in config.model.towers.values():
        tower.depth = 0  # how tokens are mixed is nothing to an objective
    config.model.towers.image.pool = "mean"
    config.model.router = parts.router({"image": 1.0, "audio": 1.0}, open_at_first=0.0, ladder=(1.0,))
    model = conftest._shake(nnx.jit(lambda: make_model(config, nnx.Rngs(0)))())
    widths = {"image": config.model.towers.image.width, "caption": config.model.towers.text.width}
    consensus = Consensus(widths, width=5, hidden=3, threshold=0.5, rngs=nnx.Rngs(0))
    model.consensus = nnx.data(conftest._shake(consensus))
    return model


@pytest.fixture(scope="module", params=sorted(MAKE))
def objective(request):
    kind, arguments = MAKE[request.param]
    return OBJECTIVES[kind](**arguments)


@pytest.fixture
def rows(batch):
    """The batch with its texts of these roles."""
    return batch._replace(text={role: batch.text[role] for role in ROLES})


def take(batch, order):
    return jax.tree.map(lambda array: array[jnp.asarray(order)], batch)


def hole_at(batch, index):
    """The batch with everything of one row masked, and rubbish where it stood."""
    signals = {
        name: signal._replace(values=signal.values.at[index].set(99), item_mask=signal.item_mask.at[index].set(False))
        for name, signal in batch.signals.items()
    }
    text = {
        role: text._replace(segment=text.segment.at[index].set(0), weight=text.weight.at[index].set(0))
        for role, text in batch.text.items()
    }
    return batch._replace(signals=signals, text=text, valid=batch.valid.at[index].set(False))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compute(objective, graph, params, batch):
    def total(params):
        model = nnx.merge(graph, params)
        terms = objective(model, model.encode(batch), batch, jax.random.key(0))
        return (terms.value * terms.weight).sum(), terms

    return jax.grad(total, has_aux=True)(params)


def compute(objective, model, batch):
    """The gradient of Σ value · weight, and the terms."""
    graph, params = nnx.split(model)
    return jax.tree.map(np.asarray, _compute(objective, graph, params, batch))


def agree(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_every_kind_of_objective_is_tested():
    assert {kind for kind, _ in MAKE.values()} == OBJECTIVES.keys()


def test_terms_are_finite_and_weighed_as_it_says(objective, model, rows):
    assert isinstance(objective, Objective)
    gradient, terms = compute(objective, model, rows)
    for value, weight in ((terms.value, terms.weight), *terms.metrics.values()):
        assert value.shape == weight.shape == (3,) and value.dtype == weight.dtype == np.float32
        assert np.isfinite(value).all() and (weight >= 0).all() and (value[weight == 0] == 0).all()
    assert terms.weight.sum() > 0
    if isinstance(objective, PerExample):
        np.testing.assert_array_equal(terms.weight, objective.weight(rows))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_order_of_rows_does_not_matter(objective, model, rows):
    gradient, terms = compute(objective, model, rows)
    other, permuted = compute(objective, model, take(rows, [2, 0, 1]))
    agree(permuted, jax.tree.map(lambda array: array[[2, 0, 1]], terms))
    agree(gradient, other)


def test_a_hole_is_as_if_it_were_not_there(objective, model, rows):
    gradient, terms = compute(objective, model, hole_at(rows, 1))
    without, rest = compute(objective, model, take(rows, [0, 2]))
    assert terms.weight[1] == 0
    agree(jax.tree.map(lambda array: array[[0, 2]], terms), rest)
    agree(gradient, without)


def test_a_batch_of_holes_alone_counts_nothing(objective, model, rows):
    gradient, terms = compute(objective, model, functools.reduce(hole_at, range(3), rows))
    assert (terms.weight == 0).all() and all((weight == 0).all() for _, weight in terms.metrics.values())
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_per_example_means_that_a_cut_batch_has_the_same_terms(objective, model, rows):
    before = model.dual.logit_bias[...]
    model.dual.logit_bias[...] = jnp.full((), 20.0)  # at its start, −10, one negative more is hardly felt
    _, whole = compute(objective, model, rows)
    _, part = compute(objective, model, take(rows, [0, 2]))
    model.dual.logit_bias[...] = before
    same = np.allclose(part.value, whole.value[[0, 2]], rtol=1e-4)
    assert same == isinstance(objective, PerExample)
