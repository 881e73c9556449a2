"""What happens in one step?

    for each stream:  encode its batch; its objectives; its part of the loss and of the gradient
    sum ─ optimizer ─ new state, unless something is not finite: then the old one

Each objective is averaged over the global batch with the weights of its terms, Σ value · weight / Σ weight, then
multiplied by its coefficient. Where all objectives of a stream are per example, its batch may be cut into pieces whose
gradients add up to exactly that of the whole. A router's groups are then of each piece: where its capacity is below 1,
other examples are left out than in a batch that is not cut.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mmfuse.objectives.objective import Objective, PerExample
from mmfuse.routing.instruments import watch
from mmfuse.routing.router import Moment
from mmfuse.training.state import TrainState
from mmfuse.types import Batch, ConfigError


class StreamObjectives(NamedTuple):
    """What a stream is for.

    Attributes:
      objectives: name → (objective, coefficient).
      pieces: into how many its batch is cut.
      sources: of a mixture of several, their numbers in `Batch.origin` by name: gates are watched for each.
    """

    objectives: Mapping[str, tuple[Objective, float]]
    pieces: int = 1
    sources: Mapping[str, int] = {}


def check_pieces(name: str, stream: StreamObjectives) -> None:
    """Raises ConfigError where a batch is to be cut whose examples depend on one another."""
    for objective, (part, _) in stream.objectives.items():
        if stream.pieces > 1 and not isinstance(part, PerExample):
            raise ConfigError(
                f"streams.{name}.accumulate={stream.pieces}: the objective '{objective}' compares the examples of a "
                "batch, and cutting it would change its loss. Set accumulate to 1, or give it a stream of its own."
            )


def make_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformationExtraArgs,
    streams: Mapping[str, StreamObjectives],
    *,
    seed: int,
) -> Callable[[TrainState, dict[str, Batch]], tuple[TrainState, dict[str, Array]]]:
    """Returns `step(state, batches) → (state, metrics)`, to be jitted with the state donated.

    Metrics are scalars: `loss`, `{stream}/{objective}/loss`, `{stream}/{objective}/{metric}`, `gradient_norm`,
    `parameter_norm`, `skipped` (updates left out in a row); of a router's gates `{stream}/gates/{number}/{modality}`,
    and of those behind the towers `{stream}/consensus/…`, what `routing/instruments.py` says of them.
    """
    measure = gradient_of_loss(graph, streams)

    def step(state, batches):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient, metrics = measure(state, batches, key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable, aux=metrics)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics |= {"gradient_norm": optax.tree.norm(gradient), "parameter_norm": optax.tree.norm(trainable)}
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        # jnp.where, not a product: 0 · NaN is NaN
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (trainable, opt_state), (state.trainable, state.opt_state)
        )
        skipped = jnp.where(finite, 0, state.skipped + 1)
        state = state.replace(trainable=kept[0], opt_state=kept[1], step=state.step + 1, skipped=skipped)
        return state, metrics | {"skipped": skipped}

    return step


def gradient_of_loss(graph: nnx.GraphDef, streams: Mapping[str, StreamObjectives]) -> Callable:
    """Returns `measure(state, batches, key) → (gradient of the trainable parameters, metrics)`."""

    def measure(state, batches, key):
        gradients, metrics = [], {"loss": jnp.zeros(())}
        for index, (name, stream) in enumerate(streams.items()):
            part, sums = _accumulate(graph, stream, state, batches[name], jax.random.fold_in(key, index))
            gradients.append(part)
            means = {metric: total / jnp.maximum(weight, 1e-6) for metric, (total, weight) in sums.items()}
            metrics["loss"] += sum(scale * means[f"{o}/loss"] for o, (_, scale) in stream.objectives.items())
            metrics |= {f"{name}/{metric}": mean for metric, mean in means.items()}
        return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *gradients), metrics

    return measure


def _accumulate(graph, stream, state, batch, key) -> tuple[Any, dict[str, tuple[Array, Array]]]:
    """The gradient of a stream's loss, and Σ value · weight and Σ weight of every metric."""
    # of a batch that is cut, each piece has its part of the whole weight
    totals = {
        name: objective.weight(batch).sum()
        for name, (objective, _) in stream.objectives.items()
        if isinstance(objective, PerExample)
    }

    def loss(trainable, batch, key):
        model = nnx.merge(graph, trainable, state.frozen, state.model_state)
        moment = Moment(jax.random.fold_in(key, len(stream.objectives)), state.step)
        memory = model.encode(batch, moment=moment)
        total, sums = jnp.zeros(()), _sums("gates", watch(memory.gates, batch, stream.sources))
        sums |= _sums("consensus", watch(memory.agreement.gates, batch, stream.sources))
        for index, (name, (objective, coefficient)) in enumerate(stream.objectives.items()):
            terms = objective(model, memory, batch, jax.random.fold_in(key, index))
            sums |= _sums(name, {"loss": (terms.value, terms.weight), **terms.metrics})
            value, weight = sums[f"{name}/loss"]
            total += coefficient * value / jnp.maximum(totals.get(name, weight), 1e-6)
        return total, sums

    differentiate = jax.grad(loss, has_aux=True)
    if stream.pieces == 1:
        return differentiate(state.trainable, batch, key)

    def add(carry, piece):
        return jax.tree.map(jnp.add, carry, differentiate(state.trainable, *piece)), None

    pieces = jax.tree.map(lambda array: _cut(array, stream.pieces), batch), jax.random.split(key, stream.pieces)
    shapes = jax.eval_shape(differentiate, state.trainable, *jax.tree.map(lambda array: array[0], pieces))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, pieces)[0]


def _sums(part, metrics):
    """Σ value · weight and Σ weight of each metric, under the name of the part that it is of."""
    return {f"{part}/{name}": ((value * weight).sum(), weight.sum()) for name, (value, weight) in metrics.items()}


def _cut(array, pieces):
    """(B …) → (pieces, B / pieces, …), dealing rows out in turn, so that every device keeps its own."""
    return jnp.moveaxis(array.reshape(-1, pieces, *array.shape[1:]), 1, 0)
