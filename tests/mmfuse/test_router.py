"""The router shuts what it may, and a model with a router reads what is open alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build import make_model
from mmfuse.objectives.contrastive import Contrastive, softmax_loss
from mmfuse.objectives.generation import Generation
from mmfuse.objectives.routing import ExpectedCost
from mmfuse.routing.gates import straight_through
from mmfuse.routing.instruments import watch
from mmfuse.routing.router import Moment
from mmfuse.types import Text
from tests.mmfuse import conftest

ROWS = 12  # examples: four times the small batch
NAMES = ("image", "audio", "source")


def moment(step=0):
    return Moment(jax.random.key(7), jnp.asarray(step))


@pytest.fixture(scope="module")
def batch(batch):
    """Twelve examples, of which each modality is absent in some; with a description to read."""
    random = np.random.default_rng(2)
    rows = jax.tree.map(lambda array: jnp.concatenate([array] * 4), batch)
    signals = {
        name: signal._replace(
            values=jnp.asarray(random.permutation(np.asarray(signal.values).ravel()).reshape(signal.values.shape))
        )
        for name, signal in rows.signals.items()
    }
    lengths = random.integers(0, conftest.LENGTH + 1, (ROWS, 1))
    source = jax.tree.map(jnp.asarray, conftest._text(random, lengths))
    concept = jnp.arange(ROWS, dtype=jnp.int32)
    return rows._replace(signals=signals, text={**rows.text, "source": Text(*source)}, concept=concept)


def make(model_config, **changes):
    config = ConfigDict(model_config.to_dict())
    capacity = dict.fromkeys(NAMES, 0.5)
    config.model.router = parts.router(capacity, groups=2, open_at_first=0.0, ladder=(0.0, 0.5, 1.0)) | changes
    return conftest._shake(nnx.jit(lambda: make_model(config, nnx.Rngs(0)))())


@pytest.fixture(scope="module")
def routed(model_config):
    return make(model_config)


def encode(model, batch, **arguments):
    graph, state = nnx.split(model)
    return jax.jit(lambda state, batch: nnx.merge(graph, state).encode(batch, **arguments))(state, batch)


def there(batch, name):
    return np.asarray(batch.present(name).any(axis=1))


def test_costs_are_shares_of_the_flops_of_the_towers(routed):
    assert sum(routed.router.costs.values()) == pytest.approx(1)
    assert routed.router.costs["source"] > routed.router.costs["audio"] > 0  # twice the depth and more than the width


def test_evaluation_opens_something_wherever_there_is_anything(routed, batch):
    gates = encode(routed, batch).gates
    opened = np.stack([gates[name].open for name in NAMES], axis=1)
    existing = np.stack([there(batch, name) for name in NAMES], axis=1)
    assert (opened <= existing).all() and (opened.any(axis=1) == existing.any(axis=1)).all()
    assert 0 < opened.sum() < existing.sum()  # the experiment is about something


@pytest.mark.parametrize("most", [1, 2])
def test_evaluation_opens_the_likeliest_of_those_it_would_and_no_more(routed, batch, most):
    bound = nnx.merge(*nnx.split(routed))
    bound.router.at_most = most
    free, few = encode(routed, batch), encode(bound, batch)
    soft = np.stack([free.gates[name].soft for name in NAMES], axis=1)
    freely, opened = (np.stack([read.gates[name].open for name in NAMES], axis=1) for read in (free, few))
    assert (freely.sum(axis=1) > most).any()
    for row in range(ROWS):
        expected = sorted(np.flatnonzero(freely[row]), key=lambda index: -soft[row, index])[:most]
        np.testing.assert_array_equal(np.flatnonzero(opened[row]), np.sort(expected))
    for index, name in enumerate(NAMES):
        np.testing.assert_array_equal(few.gates[name].value, opened[:, index])
        assert (np.asarray(few.tokens[name].segment)[~opened[:, index]] == 0).all()
    trained = [encode(model, batch, moment=moment()).gates for model in (routed, bound)]
    for name in NAMES:
        np.testing.assert_array_equal(trained[0][name].open, trained[1][name].open)


def test_an_answer_does_not_depend_on_batch_mates(routed, batch):
    together = encode(routed, batch)
    for row in (0, 5, 11):
        alone = encode(routed, jax.tree.map(lambda array, row=row: array[row : row + 1], batch))
        for name in NAMES:
            assert alone.gates[name].open[0] == together.gates[name].open[row]
            np.testing.assert_allclose(alone.tokens[name].values[0], together.tokens[name].values[row], atol=1e-5)
            np.testing.assert_allclose(alone.embeddings[name][0], together.embeddings[name][row], atol=1e-5)


def test_what_is_open_is_read_as_without_a_router(routed, model_config, batch):
    dense = nnx.merge(*nnx.split(routed))
    dense.router = None
    whole, read = encode(dense, batch), encode(routed, batch)
    for name in NAMES:
        opened = np.asarray(read.gates[name].open)
        np.testing.assert_allclose(read.tokens[name].values[opened], whole.tokens[name].values[opened], atol=1e-5)
        np.testing.assert_array_equal(read.tokens[name].segment[opened], whole.tokens[name].segment[opened])
        assert (np.asarray(read.tokens[name].segment)[~opened] == 0).all()
        assert (np.asarray(read.tokens[name].values)[~opened] == 0).all()


def test_training_takes_as_many_as_the_capacity_of_each_group(routed, batch):
    gates = encode(routed, batch, moment=moment()).gates
    for name in NAMES:
        existing = there(batch, name).reshape(2, -1).sum(axis=1)
        np.testing.assert_array_equal(gates[name].open.reshape(2, -1).sum(axis=1), np.minimum(existing, 3))


@pytest.mark.parametrize("gate", ["threshold", "binary_concrete"])
def test_training_takes_the_likeliest_whatever_is_drawn(model_config, batch, gate):
    gates = encode(make(model_config, gate=gate), batch, moment=moment()).gates
    for name in NAMES:
        for group in range(2):
            rows = slice(6 * group, 6 * group + 6)
            soft, opened = np.asarray(gates[name].soft)[rows], np.asarray(gates[name].open)[rows]
            left = there(batch, name)[rows] & ~opened
            assert not left.any() or soft[opened].min() >= soft[left].max()


@pytest.mark.parametrize("gate", ["hard_concrete", "top_1", "top_2"])
def test_what_a_strict_gate_shuts_stays_shut(model_config, batch, gate):
    model = make(model_config, gate=gate, capacity=dict.fromkeys(NAMES, 1.0))
    gates = encode(model, batch, moment=moment()).gates
    opened, wanted, value = (
        np.stack([getattr(gates[name], part) for name in NAMES], axis=1) for part in ("open", "wanted", "value")
    )
    np.testing.assert_array_equal(opened, wanted)
    np.testing.assert_array_equal(value > 0, opened)
    existing = np.stack([there(batch, name) for name in NAMES], axis=1)
    assert (existing & ~opened).any()
    if gate != "hard_concrete":
        np.testing.assert_array_equal(opened.sum(axis=1), np.minimum(existing.sum(axis=1), int(gate[-1])))


@pytest.mark.parametrize(
    "objective", [Generation(4), Contrastive((("image", "audio"), ("image", "caption")), softmax_loss)]
)
def test_what_is_shut_gets_exactly_no_gradient(routed, batch, objective):
    graph, state = nnx.split(routed)

    def loss(wave, state):
        audio = batch.signals["audio"]._replace(values=wave)
        shown = batch._replace(signals={**batch.signals, "audio": audio})
        model = nnx.merge(graph, state)
        memory = model.encode(shown, moment=moment())
        terms = objective(model, memory, shown, jax.random.key(0))
        return (terms.value * terms.weight).sum(), memory.gates["audio"].open

    gradient, opened = jax.jit(jax.grad(loss, has_aux=True))(batch.signals["audio"].values, state)
    shares = np.abs(np.asarray(gradient)).max(axis=(1, 2))
    opened = np.asarray(opened)
    assert (there(batch, "audio") & ~opened).any() and (shares[opened] > 0).any()
    assert (shares[~opened] == 0).all()


@pytest.mark.parametrize("learns", [True, False])
def test_the_gates_learn_from_what_they_let_through_unless_they_are_kept(model_config, batch, learns):
    graph, state = nnx.split(make(model_config, learns=learns), nnx.Param)

    def loss(state):
        model = nnx.merge(graph, state)
        memory = model.encode(batch, moment=moment())
        return sum((memory.tokens[name].values.sum() for name in NAMES), start=jnp.zeros(()))

    router = jax.jit(jax.grad(loss))(state)["router"]
    for name in NAMES:
        assert (np.abs(router["reliability"][name]["up"]["kernel"][...]).max() > 0) == learns
    assert (np.abs(router["up"]["kernel"][...]).max() > 0) == learns


def test_gates_learn_what_a_match_is_worth(model_config, batch):
    """A gate that is scaled is an embedding that is scaled: the gradient of its value is measured by differences."""
    model = make(model_config, capacity=dict.fromkeys(NAMES, 1.0))
    objective = Contrastive((("image", "caption"),), softmax_loss)
    graph, state = nnx.split(model, nnx.Param)

    def loss(state):
        model = nnx.merge(graph, state)
        terms = objective(model, model.encode(batch, moment=moment()), batch, jax.random.key(0))
        return (terms.value * terms.weight).sum()

    router = jax.jit(jax.grad(loss))(state)["router"]
    assert np.abs(router["reliability"]["image"]["up"]["kernel"][...]).max() > 1e-6

    memory = encode(model, batch, moment=moment())

    def scaled(factor):
        embeddings = memory.embeddings | {"image": memory.embeddings["image"] * factor[:, None, None]}
        terms = objective(model, memory._replace(embeddings=embeddings), batch, jax.random.key(0))
        return (terms.value * terms.weight).sum()

    def decided(soft):
        gates = memory.gates["image"]
        return scaled(straight_through(gates.open, soft))

    expected = np.array(
        [
            (scaled(jnp.ones(ROWS).at[row].add(1e-2)) - scaled(jnp.ones(ROWS).at[row].add(-1e-2))) / 2e-2
            for row in range(ROWS)
        ]
    )
    found = jax.grad(decided)(memory.gates["image"].soft)
    opened = np.asarray(memory.gates["image"].open)
    np.testing.assert_allclose(found[opened], expected[opened], atol=2e-3)


def test_what_is_shut_does_not_thin_a_contrastive_loss(routed, batch):
    memory = encode(routed, batch, moment=moment())
    objective = Contrastive((("image", "caption"),), softmax_loss)
    terms = objective(routed, memory, batch, jax.random.key(0))
    np.testing.assert_array_equal(terms.weight, np.asarray(memory.gates["image"].open) & there(batch, "caption"))
    assert (np.asarray(memory.embeddings["image"])[~np.asarray(memory.gates["image"].open)] == 0).all()


def test_what_stands_where_nothing_is_has_no_say(routed, batch):
    graph, state = nnx.split(routed, nnx.Param)
    signals = {
        name: signal._replace(
            values=jnp.where(there(batch, name).reshape(-1, *(1,) * (signal.values.ndim - 1)), signal.values, jnp.nan)
        )
        for name, signal in batch.signals.items()
    }

    def loss(state, batch):
        return nnx.merge(graph, state).router.logits(batch)[0].sum()

    differentiate = jax.jit(jax.value_and_grad(loss))
    value, gradient = differentiate(state, batch._replace(signals=signals))
    expected, same = differentiate(state, batch)
    assert value == expected
    jax.tree.map(np.testing.assert_array_equal, gradient, same)


def test_expected_cost_is_that_of_the_soft_gates(routed, batch):
    memory = encode(routed, batch)
    terms = ExpectedCost()(routed, memory, batch, jax.random.key(0))
    soft = {name: np.asarray(memory.gates[name].soft) for name in NAMES}
    np.testing.assert_allclose(terms.value, sum(routed.router.costs[name] * soft[name] for name in NAMES), rtol=1e-5)


def test_what_gates_want_beyond_the_capacity_is_counted(model_config, batch):
    tight = make(model_config, capacity=dict.fromkeys(NAMES, 1 / 3), open_at_first=1.0)
    memory = encode(tight, batch, moment=moment())
    metrics = watch(memory.gates, batch, {})
    logits, _ = jax.jit(lambda batch: tight.router.logits(batch))(batch)
    refused = 0
    for index, name in enumerate(NAMES):
        existing = there(batch, name)
        wanted = existing & (np.asarray(logits)[:, index] > 0)
        np.testing.assert_array_equal(metrics[f"wanted/{name}"][0], wanted)
        overflow = wanted & ~np.asarray(memory.gates[name].open)
        np.testing.assert_array_equal(metrics[f"overflow/{name}"][0], overflow)
        # as many of each group of six as are wanted beyond its two
        assert overflow.sum() == np.maximum(wanted.reshape(2, 6).sum(axis=1) - 2, 0).sum()
        np.testing.assert_array_equal(metrics[f"overflow/{name}"][1], existing)
        refused += overflow.sum()
    assert refused > 0


def test_the_router_is_small(routed):
    sizes = {
        part: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
        for part, module in {"router": routed.router, "all": routed}.items()
    }
    assert sizes["router"] < 600 < sizes["all"]


def test_decisions_do_not_depend_on_the_mesh(model_config, batch):
    graph, state = nnx.split(make(model_config, gate="binary_concrete"))

    def decide(devices, moment):
        mesh = jax.make_mesh(
            (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
        )
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        shown = jax.device_put(batch, rows)
        gates = jax.jit(lambda state, batch: nnx.merge(graph, state).encode(batch, moment=moment).gates)(state, shown)
        return jax.tree.map(np.asarray, gates)

    for when in (moment(3), None):
        for ours, theirs in zip(jax.tree.leaves(decide(2, when)), jax.tree.leaves(decide(1, when)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
