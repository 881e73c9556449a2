"""What does a run consist of, at a step?

All that training changes is in one `TrainState`; what the model is made of, in a graph that never changes. Only
`trainable` is differentiated. State is made sharded: no device ever holds the whole.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from mmfuse.models.multimodal import Multimodal
from mmfuse.training.rules import match_rules, path_name
from mmfuse.training.sharding import shard_by_rules


@struct.dataclass
class TrainState:
    """Everything that a checkpoint holds: arrays, or their shapes, or their shardings.

    Attributes:
      trainable, frozen: parameters, by the config's `frozen` rules.
      model_state: what a model keeps besides parameters, such as moving averages.
      opt_state: of the optimizer, for `trainable`.
      step: updates so far, skipped ones included; a scalar.
      skipped: updates in a row, up to now, that were left out because they were not finite; a scalar.
    """

    trainable: Any
    frozen: Any
    model_state: Any
    opt_state: Any
    step: Any
    skipped: Any


class StateMaker:
    """Splits a model into graph and state, and makes the state where it is to lie."""

    def __init__(
        self,
        make_model: Callable[[nnx.Rngs], Multimodal],
        make_optimizer: Callable[[Any], optax.GradientTransformationExtraArgs],
        *,
        frozen: Sequence[Sequence[Any]],
        sharding: Sequence[Sequence[Any]],
        mesh: Mesh,
    ):
        """Allocates nothing.

        Args:
          make_model: draws a model.
          make_optimizer: makes an optimizer for trainable parameters, given their shapes.
          frozen: (regex, whether frozen) rules; they cover every parameter.
          sharding: (regex, mesh axes) rules; they cover every parameter.
          mesh: the devices.
        """
        self._make_model, self._frozen = make_model, frozen
        abstract = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
        parameters = nnx.state(abstract, nnx.Param)
        self._is_frozen = {
            path_name(path): rule
            for path, rule in jax.tree_util.tree_flatten_with_path(match_rules(frozen, parameters))[0]
        }
        self.graph, *parts = self._split(abstract)
        self.optimizer = make_optimizer(parts[0])
        scalar = jax.ShapeDtypeStruct((), jnp.int32)
        self.abstract = TrainState(*parts, jax.eval_shape(self.optimizer.init, parts[0]), scalar, scalar)
        self.shardings = shard_by_rules(sharding, self.abstract, mesh)

    def create(self, seed: int) -> TrainState:
        """Draws a state, each part on its own devices."""
        return jax.jit(self._create, out_shardings=self.shardings)(jax.random.key(seed))

    def adopt(self, model: Multimodal) -> TrainState:
        """The state that starts from the parameters of a model, which lie where `shardings` wants them."""
        _, *parts = self._split(model)
        places = self.shardings.opt_state, self.shardings.step, self.shardings.skipped
        return TrainState(*parts, *jax.jit(self._start, out_shardings=places)(parts[0]))

    def merge(self, state: TrainState) -> Multimodal:
        """The model as it is in a state."""
        return nnx.merge(self.graph, state.trainable, state.frozen, state.model_state)

    def _create(self, key):
        _, *parts = self._split(self._make_model(nnx.Rngs(key)))
        return TrainState(*parts, *self._start(parts[0]))

    def _start(self, trainable):
        """What a state holds besides parameters, before the first step."""
        zero = jnp.zeros((), jnp.int32)
        return self.optimizer.init(trainable), zero, zero

    def _split(self, model):
        def trains(path, variable):
            return isinstance(variable, nnx.Param) and not self._is_frozen["/".join(map(str, path))]

        return nnx.split(model, trains, nnx.Param, ...)
