"""Gates decide exactly and learn softly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.routing.gates import (
    BinaryConcrete,
    Dimmed,
    Gate,
    HardConcrete,
    Random,
    Threshold,
    TopK,
    anneal,
    straight_through,
)

LOGITS = jnp.array([[-2.0, 0.5, 3.0], [1.0, -0.1, jnp.nan], [jnp.inf, jnp.nan, -1.0], [0.2, 0.3, 0.1]])
PRESENT = jnp.array([[True, True, True], [True, True, False], [False, False, True], [False, False, False]])
THERE = np.asarray(PRESENT)
GATES = {
    "threshold": Threshold(),
    "binary": BinaryConcrete(),
    "hard": HardConcrete(),
    "top 1": TopK(1),
    "top 2": TopK(2),
    "dimmed": Dimmed(),
    "random": Random((0.2, 0.5, 0.8)),
}
KEYS = {"sure": None, "drawn": jax.random.key(3)}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(params=GATES)
def gate(request) -> Gate:
    return GATES[request.param]


@pytest.mark.parametrize("key", KEYS)
def test_what_is_absent_is_shut_and_has_no_gradient(gate, key):
    gates = gate(LOGITS, PRESENT, key=KEYS[key])
    for part in gates:
        assert (np.asarray(part)[~THERE] == 0).all() and np.isfinite(part).all()
    gradient = jax.grad(lambda x: (gate(x, PRESENT, key=KEYS[key]).value * jnp.arange(1.0, 13).reshape(4, 3)).sum())(
        LOGITS
    )
    assert (np.asarray(gradient)[~THERE] == 0).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["threshold", "top 1", "top 2"])
@pytest.mark.parametrize("key", KEYS)
def test_values_are_exactly_0_or_1_with_the_gradient_of_soft(name, key):
    random = np.random.default_rng(0)
    logits, present = jnp.asarray(3 * random.standard_normal((101, 5)), jnp.float32), random.random((101, 5)) < 0.8
    weight = jnp.asarray(random.standard_normal((101, 5)), jnp.float32)

    def of(part):
        return lambda x: (
            getattr(GATES[name](x, jnp.asarray(present), temperature=0.7, key=KEYS[key]), part) * weight
        ).sum()

    gates = GATES[name](logits, jnp.asarray(present), temperature=0.7, key=KEYS[key])
    assert set(np.unique(gates.value)) == {0.0, 1.0}
    np.testing.assert_array_equal(gates.value == 1, gates.open)
    np.testing.assert_array_equal(jax.grad(of("value"))(logits), jax.grad(of("soft"))(logits))
    assert np.abs(jax.grad(of("value"))(logits)).max() > 0


def test_a_threshold_is_at_one_half():
    gates = Threshold()(LOGITS, PRESENT, temperature=2.0)
    np.testing.assert_array_equal(gates.open[0], [False, True, True])
    np.testing.assert_allclose(gates.soft[0], sigmoid(np.array([-2, 0.5, 3]) / 2), rtol=1e-6)


def test_a_binary_concrete_gate_opens_with_the_probability_of_its_logit():
    logits = jnp.broadcast_to(jnp.array([-1.0, 0.0, 2.0]), (40_000, 3))
    gates = BinaryConcrete()(logits, jnp.ones_like(logits, bool), temperature=0.3, key=jax.random.key(0))
    np.testing.assert_allclose(gates.open.mean(axis=0), sigmoid(np.array([-1, 0, 2])), atol=0.01)


def test_a_binary_concrete_gate_has_the_gradient_of_its_relaxed_draw_and_says_its_probability():
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 3, (101, 5)), jnp.float32)
    key, there = jax.random.key(5), jnp.ones((101, 5), bool)
    noise = np.asarray(jax.random.logistic(key, logits.shape, logits.dtype), np.float64)

    def decide(logits):
        return BinaryConcrete()(logits, there, temperature=0.7, key=key)

    drawn = sigmoid((np.asarray(logits, np.float64) + noise) / 0.7)
    gates = decide(logits)
    np.testing.assert_array_equal(gates.open, drawn > 0.5)
    np.testing.assert_array_equal(gates.value, drawn > 0.5)
    np.testing.assert_allclose(gates.soft, sigmoid(np.asarray(logits, np.float64)), rtol=1e-5)
    gradient = jax.grad(lambda logits: decide(logits).value.sum())(logits)
    np.testing.assert_allclose(gradient, drawn * (1 - drawn) / 0.7, rtol=1e-4, atol=1e-6)


def test_a_hard_concrete_gate_is_open_as_often_as_it_says():
    logits = jnp.broadcast_to(jnp.array([-1.0, 0.0, 2.0]), (40_000, 3))
    gates = HardConcrete()(logits, jnp.ones_like(logits, bool), temperature=0.5, key=jax.random.key(0))
    np.testing.assert_allclose(gates.open.mean(axis=0), gates.soft[0], atol=0.01)
    value = np.asarray(gates.value)
    assert (value == 0).mean() > 0.05 and (value == 1).mean() > 0.05 and ((value > 0) & (value < 1)).mean() > 0.05


def test_top_k_takes_the_likeliest_of_those_that_are_there():
    for number in (1, 2):
        opened = np.asarray(TopK(number)(LOGITS, PRESENT).open)
        for row, logits, there in zip(opened, np.asarray(LOGITS), THERE):
            likeliest = sorted(np.flatnonzero(there), key=lambda index: -logits[index])[:number]
            assert sorted(np.flatnonzero(row)) == sorted(likeliest)
    soft = np.exp([-2, 0.5, 3])
    np.testing.assert_allclose(TopK(1)(LOGITS, PRESENT).soft[0], soft / soft.sum(), rtol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_top_k_with_a_key_draws_as_often_as_it_says(number):
    logits = jnp.broadcast_to(jnp.array([0.0, 1.0, -1.0, 9.0]), (40_000, 4))
    present = jnp.ones_like(logits, bool).at[:, 3].set(False)
    gates = TopK(number)(logits, present, temperature=0.7, key=jax.random.key(0))
    np.testing.assert_allclose(gates.open.mean(axis=0), gates.soft[0], atol=0.01)
    np.testing.assert_allclose(gates.soft.sum(axis=1), number, rtol=1e-5)


def test_top_k_has_finite_gradients_of_logits_that_are_far_apart():
    """All that are there are open, or all but one are sure to be: there is nothing to learn, and nothing breaks."""
    logits = jnp.array([[200.0, 0.0, -200.0], [0.0, 1.0, 2.0]])
    present = jnp.array([[True, True, True], [True, True, False]])
    soft, gradient = jax.value_and_grad(lambda logits: TopK(2)(logits, present).value[:, 0].sum())(logits)
    assert soft == 2
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_straight_through_is_exact():
    soft = jnp.asarray(np.random.default_rng(0).random(997), jnp.float32)
    np.testing.assert_array_equal(straight_through(soft > 0.3, soft), np.asarray(soft) > 0.3)


def test_a_temperature_falls_by_the_same_factor_and_stays():
    steps = [float(anneal(step, start=4.0, end=1.0, steps=10)) for step in (0, 5, 10, 20)]
    np.testing.assert_allclose(steps, [4, 2, 1, 1], rtol=1e-6)


def test_a_lot_opens_each_modality_as_often_as_its_share_says_and_heeds_no_logit():
    present = jnp.ones((4001, 3), bool).at[:7].set(False)
    gate = Random((0.2, 0.5, 0.8))
    for key in (None, jax.random.key(1)):
        gates = gate(jnp.zeros((4001, 3)), present, key=key)
        np.testing.assert_allclose(gates.open[7:].mean(axis=0), (0.2, 0.5, 0.8), atol=0.03)
        assert not np.asarray(gates.open[:7]).any()
        chosen = np.asarray(gates.open[7:])
        assert np.asarray(gates.soft[7:])[chosen[:, 1], 1].min() >= np.asarray(gates.soft[7:])[~chosen[:, 1], 1].max()
        jax.tree.map(np.testing.assert_array_equal, gates, gate(jnp.full((4001, 3), 9.0), present, key=key))
    assert (gate(jnp.zeros((4001, 3)), present).open != gates.open).any()


def test_a_dimmed_gate_learns_what_being_open_is_worth():
    """The mean gradient is the difference of a loss, here u⁵ − 3u, between open and shut; by a little at 1 it is 2."""
    logits, present = jnp.zeros((40_009, 1)), jnp.ones((40_009, 1), bool)

    def loss(logits, key):
        value = Dimmed(share=0.5)(logits, present, key=key).value
        return (value**5 - 3 * value).mean()

    slope = 0.25  # of the sigmoid at 0
    gradient = np.asarray(jax.grad(loss)(logits, jax.random.key(2))) / slope
    assert np.count_nonzero(gradient) == pytest.approx(len(gradient) / 2, rel=0.03)
    np.testing.assert_allclose(gradient.sum() / 0.5, -2.0, atol=0.05)
    np.testing.assert_array_equal(jax.grad(loss)(logits, None), 0)
