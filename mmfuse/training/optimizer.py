"""How do gradients become updates?

    g ← g · min(1, clip / ‖g‖)                          the norm is over all parameters together
    m ← b1·m + (1 − b1)·g        v ← b2·v + (1 − b2)·g²
    Δθ = −η(t) · scale · (m̂ / (√v̂ + eps) + decay · θ)    m̂ = m / (1 − b1ⁿ), v̂ = v / (1 − b2ⁿ), n = t + 1

`decay` and `scale` are numbers of each parameter, given by (regex, number) rules, and so is whether it is *orthogonal*.
The update of such a kernel, from i inputs to o outputs, goes as far in all directions (Muon), and not furthest where
most examples pull; its m has b1 = 0.95, and looks ahead (Nesterov):

    Δθ = −η(t) · scale · (0.2 · √max(i, o) · UVᵀ + decay · θ)    UΣVᵀ = m, by five steps of Newton and Schulz

0.2 makes an update as large as Adam's usually are. All of it is computed in float32, moments included, whatever the
dtype of the parameters.

Frozen parameters are not among the trainable ones and never come here; bad gradients are skipped by the step.
References: Adam, arXiv 1412.6980; decoupled weight decay, arXiv 1711.05101; Muon, Jordan et al. 2024; its scale, Liu et
al. 2025, arXiv 2502.16982, equation 4.
"""

import difflib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from mmfuse.training.rules import match_rules, path_name
from mmfuse.types import ConfigError

RMS = 0.2  # of the update of an orthogonal kernel: as Adam's are


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Returns the learning rate η as a function of the number t of updates done before, 0 ≤ t < steps.

        t < warmup    η = learning_rate · (t + 1) / warmup
        constant      η = learning_rate
        cosine        η = learning_rate · (final + (1 − final) · (1 + cos πp) / 2),  p = (t − warmup) / (steps − warmup)
        rsqrt         η = learning_rate · √(max(warmup, 1) / (t + 1))

    Neither the first update nor the last is wasted on a rate of zero: the last has p < 1.

    Args:
      config: `schedule`, `learning_rate`, `warmup` (updates) and, for cosine alone, `final` (fraction of the rate).
      steps: the number of updates of the whole run.

    Raises:
      ConfigError: if the schedule is unknown, or if its warm-up does not end before the run does.
    """
    peak, warmup = config.learning_rate, config.warmup

    def cosine(t: jax.Array) -> jax.Array:
        progress = (t - warmup) / (steps - warmup)
        return config.final + (1 - config.final) * (1 + jnp.cos(jnp.pi * progress)) / 2

    shapes = {
        "constant": jnp.ones_like,
        "cosine": cosine,
        "rsqrt": lambda t: jnp.sqrt(max(warmup, 1) / (t + 1)),
    }
    if config.schedule not in shapes:
        nearest = difflib.get_close_matches(config.schedule, shapes, n=1, cutoff=0.0)[0]
        raise ConfigError(f"optimizer.schedule = {config.schedule!r} is unknown: did you mean {nearest!r}?")
    if warmup >= steps:
        raise ConfigError(f"optimizer.warmup = {warmup} must be less than the {steps} steps of the run.")

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(count, jnp.float32)
        return peak * jnp.where(t < warmup, (t + 1) / max(warmup, 1), shapes[config.schedule](t))

    return schedule


def make_optimizer(config: ConfigDict, params: optax.Params, steps: int) -> optax.GradientTransformationExtraArgs:
    """Returns AdamW with clipping, decay and rates by rules, and Muon where rules say so, as the formulas above.

    Args:
      config: what `make_schedule` reads, and `b1`, `b2`, `eps`, `clip` (greatest global norm of a gradient),
        `weight_decay`, `learning_rate_scale` and `orthogonal` (rules).
      params: the trainable parameters, or their shapes; their values are not read.
      steps: the number of updates of the whole run.

    Returns:
      A transformation that takes, and does not need, further arguments: `update(grads, state, params, aux=…)`.

    Raises:
      ConfigError: from the schedule or the rules, or because what is to be orthogonal is no kernel.
    """
    decay = match_rules(config.weight_decay, params)
    scale = match_rules(config.learning_rate_scale, params)
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip),
        _direction(config, params),
        optax.stateless(lambda updates, params: jax.tree.map(_decay, updates, params, decay)),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
        optax.stateless(lambda updates, params: jax.tree.map(lambda u, s: u if s == 1 else s * u, updates, scale)),
    )
    return _in_float32(optax.with_extra_args_support(chain))


def keep_part(optimizer: optax.GradientTransformationExtraArgs, part: str) -> optax.GradientTransformationExtraArgs:
    """The same, with the same state, but for the parameters whose names begin with `part/`: no momentum moves them."""

    def update(updates, state, params=None, **extra):
        updates, state = optimizer.update(updates, state, params, **extra)
        kept = jax.tree_util.tree_map_with_path(
            lambda path, update: jnp.zeros_like(update) if path_name(path).startswith(f"{part}/") else update, updates
        )
        return kept, state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _direction(config: ConfigDict, params: optax.Params) -> optax.GradientTransformation:
    """Where an update goes, at a learning rate of 1 and without decay."""
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    # runs from before there were such rules have none
    orthogonal = match_rules(config.get("orthogonal", ((".*", False),)), params)
    if not any(jax.tree.leaves(orthogonal)):
        return adam
    axes = jax.tree_util.tree_map_with_path(
        lambda path, leaf, asked: _axes(path_name(path), leaf) if asked else optax.MaskedNode(), params, orthogonal
    )
    muon = optax.chain(
        scale_by_muon(weight_dimension_numbers=lambda _: axes),
        optax.stateless(lambda updates, _: jax.tree.map(_as_large_as_adams, updates, axes)),
    )
    return optax.partition(
        {"muon": muon, "adam": adam}, jax.tree.map(lambda asked: "muon" if asked else "adam", orthogonal)
    )


def _axes(name: str, kernel: Any) -> MuonDimensionNumbers:
    """Which axes of a kernel are inputs: of a matrix, of one for each of several layers, of a convolution."""
    inputs = {2: 0, 3: 1, 4: (0, 1, 2)}.get(kernel.ndim)
    if inputs is None:
        raise ConfigError(
            f"optimizer.orthogonal is true of {name}, whose shape is {kernel.shape}: it is for one matrix, or one for "
            "each layer, and for convolutions. Put a rule before it that is false of this one."
        )
    return MuonDimensionNumbers(inputs, kernel.ndim - 1)


def _as_large_as_adams(update: jax.Array, axes: MuonDimensionNumbers) -> jax.Array:
    inputs, outputs = (np.take(update.shape, axis).prod() for axis in axes)
    return RMS * math.sqrt(max(inputs, outputs)) * update


def _decay(update: jax.Array, param: jax.Array, decay: float) -> jax.Array:
    return update + decay * param if decay else update


def _in_float32(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Returns `inner` computing and keeping its state in float32; updates have the dtypes of the parameters."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        # Adam of optax raises its float decay to an integer count, which strict promotion of dtypes refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = inner.update(_float32(updates), state, _float32(params), **extra)
        return jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: inner.init(_float32(params)), update)


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)
