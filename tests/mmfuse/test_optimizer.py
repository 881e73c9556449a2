"""Tests of mmfuse.training.optimizer, against numpy and against optax."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import siglip
from mmfuse.training.optimizer import keep_part, make_optimizer, make_schedule
from mmfuse.training.rules import named_leaves
from mmfuse.types import ConfigError

STEPS = 11
SHAPES = {"kernel": (3, 5), "bias": (7,)}


def config(**changes):
    defaults = {
        "schedule": "cosine",
        "learning_rate": 0.1,
        "warmup": 3,
        "final": 0.2,
        "b1": 0.9,
        "b2": 0.98,
        "eps": 1e-3,
        "clip": 1.0,
        "weight_decay": (("bias$", 0.0), (".*", 0.05)),
        "learning_rate_scale": ((".*", 1.0),),
        "orthogonal": ((".*", False),),
    }
    return ConfigDict(defaults | changes)


def draw(seed, scale=1.0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def run(optimizer, params, gradients):
    """Returns the parameters after each of the updates."""
    state, history = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def rates(**changes):
    schedule = make_schedule(config(**changes), STEPS)
    return [float(schedule(t)) for t in range(STEPS)]


def test_cosine_by_hand():
    rate = rates()
    assert rate[:4] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1])
    assert rate[7] == pytest.approx(0.1 * (0.2 + 0.8 * 0.5))  # half of the eight updates after the warm-up
    assert rate[10] == pytest.approx(0.1 * (0.2 + 0.8 * (1 + math.cos(math.pi * 7 / 8)) / 2))
    assert float(make_schedule(config(), STEPS)(STEPS)) == pytest.approx(0.1 * 0.2)


def test_constant_by_hand():
    assert rates(schedule="constant") == pytest.approx([0.1 / 3, 0.2 / 3] + [0.1] * 9)


def test_rsqrt_by_hand():
    rate = rates(schedule="rsqrt", warmup=2)
    assert rate[:4] == pytest.approx([0.05, 0.1, 0.1 * math.sqrt(2 / 3), 0.1 * math.sqrt(2 / 4)])
    assert rates(schedule="rsqrt", warmup=0)[3] == pytest.approx(0.1 / 2)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "rsqrt"])
def test_without_warmup_the_first_update_has_the_full_rate(schedule):
    assert rates(schedule=schedule, warmup=0)[0] == pytest.approx(0.1)


def test_unknown_schedule_and_endless_warmup_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        make_schedule(config(schedule="cosin"), STEPS)
    with pytest.raises(ConfigError, match="warmup = 11 must be less than the 11 steps"):
        make_schedule(config(warmup=11), STEPS)


def test_three_updates_by_numpy():
    """The first gradient is clipped and the others are not; the bias has no decay and half the rate."""
    changes = config(schedule="constant", warmup=2, learning_rate_scale=(("bias", 0.5), (".*", 1.0)))
    params, gradients = draw(0), [draw(1, 10.0), draw(2, 0.1), draw(3, 0.01)]
    history = run(make_optimizer(changes, params, STEPS), params, gradients)

    theta = {name: value.astype(np.float64) for name, value in params.items()}
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    clipped = []
    for n, (gradient, after) in enumerate(zip(gradients, history), 1):
        norm = math.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradient.values()))
        clipped.append(norm > 1.0)
        for name, decay, scale in (("kernel", 0.05, 1.0), ("bias", 0.0, 0.5)):
            g = gradient[name] * min(1.0, 1.0 / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.98 * v[name] + 0.02 * g**2
            direction = m[name] / (1 - 0.9**n) / (np.sqrt(v[name] / (1 - 0.98**n)) + 1e-3)
            rate = 0.05 if n == 1 else 0.1
            theta[name] = theta[name] - rate * scale * (direction + decay * theta[name])
            np.testing.assert_allclose(after[name], theta[name], rtol=2e-6, atol=2e-7)
    assert clipped == [True, False, False]


def test_equals_adamw_of_optax_when_all_rules_are_alike():
    changes = config(clip=1e6, weight_decay=((".*", 0.05),))
    params, gradients = draw(0), [draw(seed) for seed in range(1, 5)]
    ours = run(make_optimizer(changes, params, STEPS), params, gradients)
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.adamw(make_schedule(changes, STEPS), 0.9, 0.98, 1e-3, weight_decay=0.05), params, gradients)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), ours, theirs)


def test_siglip_decays_kernels_by_a_share_that_its_rate_is_not_in():
    """In big_vision, Δθ = −s(t) · (rate · Adam + 1e-4 · θ) of kernels, where the schedule s is 1 at most."""
    params = draw(0, shapes=SHAPES | {"embedding": (2, 3), "position/table": (5, 2)})
    asked = siglip.get_config()
    optimizer = make_optimizer(asked.optimizer, params, asked.train.steps)
    still = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(still, optimizer.init(params), params)
    np.testing.assert_allclose(updates.pop("kernel"), -1e-4 / 20_000 * params["kernel"], rtol=1e-5)
    assert len(updates) == 3 and not any(update.any() for update in updates.values())


def newton_schulz(m):
    x = m / np.linalg.norm(m)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


def matrices(kernel):
    """A kernel as matrices (number, inputs, outputs): its layers, or the one that a convolution is."""
    return kernel if kernel.ndim == 3 else kernel.reshape(1, -1, kernel.shape[-1])


KERNELS = {"matrix": (3, 5), "layers": (2, 7, 5), "convolution": (2, 3, 5, 11)}
ORTHOGONAL = (("bias$", False), (".*", True))
UNDECAYED = ((".*", 0.0),)


def test_orthogonal_updates_by_numpy():
    """Muon for kernels of any form, and Adam for the bias beside them."""
    changes = {"schedule": "constant", "warmup": 0, "clip": 1e6}
    shapes = KERNELS | {"bias": (7,)}
    params, gradients = draw(0, shapes=shapes), [draw(seed, shapes=shapes) for seed in (1, 2, 3)]
    history = run(make_optimizer(config(**changes, orthogonal=ORTHOGONAL), params, STEPS), params, gradients)
    for name, shape in KERNELS.items():
        theta, m = params[name].astype(np.float64), np.zeros(shape)
        for n, (gradient, after) in enumerate(zip(gradients, history), 1):
            m = 0.95 * m + 0.05 * gradient[name]
            ahead = 0.95 * m / (1 - 0.95 ** (n + 1)) + 0.05 * gradient[name] / (1 - 0.95**n)
            made = np.stack([newton_schulz(matrix) for matrix in matrices(ahead)])
            update = 0.2 * math.sqrt(max(made.shape[1:])) * made.reshape(shape)
            theta = theta - 0.1 * (update + 0.05 * theta)
            np.testing.assert_allclose(after[name], theta, rtol=1e-4, atol=1e-5, err_msg=name)
    adam = run(make_optimizer(config(**changes), params, STEPS), params, gradients)
    for ours, theirs in zip(history, adam):
        np.testing.assert_allclose(ours["bias"], theirs["bias"], rtol=1e-6)
        assert np.abs(ours["matrix"] - theirs["matrix"]).max() > 0.05


def test_an_orthogonal_update_goes_as_far_in_all_directions():
    """Singular values of the gradient that differ by a factor of 100 differ by less than 2 in the update."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=shape))[0] for shape in ((5, 5), (11, 5)))
    params = {"kernel": jnp.zeros((5, 11))}
    changes = config(schedule="constant", warmup=0, weight_decay=UNDECAYED, orthogonal=((".*", True),))
    optimizer = make_optimizer(changes, params, STEPS)
    gradient = {"kernel": jnp.asarray(u @ np.diag([1, 0.3, 0.1, 0.03, 0.01]) @ v.T, jnp.float32)}
    update = np.asarray(jax.jit(optimizer.update)(gradient, optimizer.init(params), params)[0]["kernel"])
    along = np.diag(u.T @ update @ v) / (-0.1 * 0.2 * math.sqrt(11))
    assert along.min() > 0.6 and along.max() < 1.2
    assert np.abs(update).mean() < 0.1 * 0.2  # no larger than Adam's usually are


@pytest.mark.parametrize("shape", [(7,), (2, 3, 3, 5, 7)])
def test_what_is_no_kernel_is_not_orthogonal(shape):
    with pytest.raises(ConfigError, match=r"orthogonal is true of kernel, whose shape is \(.*for one matrix"):
        make_optimizer(config(weight_decay=UNDECAYED, orthogonal=((".*", True),)), {"kernel": jnp.zeros(shape)}, STEPS)


def test_moments_are_float32_and_updates_have_the_dtype_of_their_parameter():
    params = {"kernel": jnp.ones((3, 5), jnp.bfloat16), "bias": jnp.ones(7, jnp.float32)}
    gradients = {"kernel": jnp.full((3, 5), 1e-3, jnp.bfloat16), "bias": jnp.ones(7, jnp.float32)}
    optimizer = make_optimizer(config(), params, STEPS)
    updates, state = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    assert {x.dtype for name, x in named_leaves(state).items() if "/mu/" in name or "/nu/" in name} == {
        jnp.dtype(jnp.float32)
    }
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)
    assert {x.dtype for x in jax.tree.leaves(optax.apply_updates(params, updates))} == {
        x.dtype for x in params.values()
    }


def test_aux_is_accepted():
    params = draw(0)
    optimizer = make_optimizer(config(), params, STEPS)
    update = jax.jit(optimizer.update)
    with_aux, _ = update(draw(1), optimizer.init(params), params, aux={"text": jnp.float32(1)})
    without, _ = update(draw(1), optimizer.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, with_aux, without)


def test_rules_may_be_lists():
    lists = config(weight_decay=[["bias$", 0.0], [".*", 0.05]], learning_rate_scale=[[".*", 1.0]])
    params, gradients = draw(0), [draw(1)]
    ours = run(make_optimizer(lists, params, STEPS), params, gradients)
    jax.tree.map(np.testing.assert_array_equal, ours, run(make_optimizer(config(), params, STEPS), params, gradients))


def test_rules_that_fit_no_parameter_are_refused():
    with pytest.raises(ConfigError, match="'scael\\$' is found in no name"):
        make_optimizer(config(weight_decay=(("scael$", 0.0), (".*", 0.05))), draw(0), STEPS)


def test_a_part_that_is_kept_is_moved_by_no_momentum():
    params = {"router": {"kernel": jnp.ones((3, 2))}, "routers": jnp.ones(5)}
    plain = optax.with_extra_args_support(optax.sgd(0.1, momentum=0.9))
    kept, state = keep_part(plain, "router"), plain.init(params)
    _, state = plain.update(jax.tree.map(jnp.ones_like, params), state, params)
    still = jax.tree.map(jnp.zeros_like, params)
    moved, after = kept.update(still, state, params)
    expected, wanted = plain.update(still, state, params)
    assert (np.asarray(expected["router"]["kernel"]) != 0).all()
    np.testing.assert_array_equal(moved["router"]["kernel"], 0)
    np.testing.assert_array_equal(moved["routers"], expected["routers"])
    jax.tree.map(np.testing.assert_array_equal, after, wanted)
