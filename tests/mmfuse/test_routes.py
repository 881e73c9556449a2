"""Routes answer as one program with a router does, without the towers that are shut."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.routing.routes import Routes, sort_rows
from tests.mmfuse import test_router

batch, routed = test_router.batch, test_router.routed  # fixtures


class Model:
    """The routed model's functions of its parameters."""

    def __init__(self, model):
        self.graph, self.parameters = nnx.split(model)

    def decide(self, parameters, batch):
        return {name: gates.open for name, gates in nnx.merge(self.graph, parameters).router(batch).items()}

    def compute(self, parameters, batch):
        """A number of each example, of all that the batch has."""
        model = nnx.merge(self.graph, parameters)
        model.router = None
        return self._answer(model, batch)

    def compute_at_once(self, parameters, batch):
        """The same by one program, which has the router in it."""
        return self._answer(nnx.merge(self.graph, parameters), batch)

    def _answer(self, model, batch):
        read = model.encode(batch).tokens.values()
        return {"seen": sum(jnp.where(tokens.segment[..., None] > 0, tokens.values, 0).sum((1, 2)) for tokens in read)}


@pytest.fixture(scope="module")
def model(routed):
    return Model(routed)


@pytest.fixture(scope="module")
def examples(batch):
    """Twelve, of which one is a hole."""
    return batch._replace(text={"source": batch.text["source"]}, valid=batch.valid.at[4].set(False))


def make(model, sizes=(3, 12)):
    return Routes("writing", model.decide, model.compute, sizes=sizes)


@pytest.fixture(scope="module")
def answered(model, examples):
    """Routes that have answered once, and what they said."""
    routes = make(model)
    return routes, routes(model.parameters, examples)


def test_answers_are_those_of_one_program_with_the_router(model, examples, answered):
    expected = jax.jit(model.compute_at_once)(model.parameters, examples)
    for name, answers in answered[1].items():
        valid = np.asarray(examples.valid)
        np.testing.assert_allclose(answers[valid], np.asarray(expected[name])[valid], atol=1e-5)
        assert (answers[~valid] == 0).all() and len(np.unique(answers[valid])) > 3


def test_a_program_has_no_tower_that_is_shut(answered):
    rows = {route: route.shapes[-1][0] for route in answered[0].programs}
    flops = {route: program.cost_analysis()["flops"] for route, program in answered[0].programs.items()}
    pairs = [
        (less, more)
        for less, more in itertools.permutations(flops, 2)
        if set(less.modalities) < set(more.modalities) and rows[less] == rows[more]
    ]
    assert pairs and all(flops[less] < flops[more] for less, more in pairs)
    assert {route.task for route in flops} == {"writing"}


def test_a_program_is_made_once(model, examples, answered):
    routes, first = answered
    batches = routes.hits + routes.misses
    assert routes.misses == len(routes.programs) > 2
    np.testing.assert_array_equal(routes(model.parameters, examples)["seen"], first["seen"])
    assert routes.misses == len(routes.programs) and routes.hits == 2 * batches - routes.misses


def test_parameters_of_the_same_form_need_no_other_programs(model, examples, answered):
    routes, first = answered
    misses = routes.misses
    _, parameters, rest = nnx.split(nnx.merge(model.graph, model.parameters), nnx.PathContains("towers"), ...)
    moved = nnx.merge_state(jax.tree.map(lambda leaf: 1.01 * leaf, parameters), rest)
    assert not np.allclose(routes(moved, examples)["seen"], first["seen"])
    assert routes.misses == misses and routes.invalidated == 0


def test_programs_are_dropped_where_parameters_have_another_form(model, examples, answered):
    routes = make(model)
    routes.programs, routes._made_for = {"some": None}, jax.tree.map(jax.typeof, {"other": jnp.zeros(2)})
    routes._check(model.parameters)
    assert routes.invalidated == 1 and not routes.programs


def test_rows_of_a_route_are_found():
    opened = {"a": np.array([True, False, True, True, False]), "b": np.array([False, True, False, True, False])}
    found = {route: rows.tolist() for route, rows in sort_rows(opened, np.array([True, True, True, True, False]))}
    assert found == {("a",): [0, 2], ("b",): [1], ("a", "b"): [3]}
    ((nothing, rows),) = sort_rows({}, np.array([True, False]))
    assert nothing == () and rows.tolist() == [0]
