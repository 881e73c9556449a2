"""What does a decoder know of the modalities before it reads them?

At the front of the memory stands a token for each modality that a model may be given: whether it is there and takes
part, how far it can be relied on, and how well it is expected to agree with the others:

    token_m = E[m, state_m] + reliability_m · u_m + alignment_m · v_m        state: absent, shut, open, untold

In training an example is now and then told nothing, so that a decoder can do without. No gradient reaches what is told.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from mmfuse.types import MODALITIES, Tokens

ABSENT, SHUT, OPEN, UNTOLD = range(4)


class Told(NamedTuple):
    """What is known of M modalities.

    Attributes:
      present, open: whether each is there, and whether it takes part.
      reliability: how far it can be relied on, 0 to 1.
      alignment: its cosine with the others, −1 to 1, see `expected_alignment`; 0 where there is none.
    """

    present: Bool[Array, "B M"]
    open: Bool[Array, "B M"]
    reliability: Float[Array, "B M"]
    alignment: Float[Array, "B M"]


class ModalityPrefix(nnx.Module):
    """A token for each of the modalities."""

    def __init__(
        self, modalities: Sequence[str], width: int, *, drop: float, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ):
        """Args: names of the modalities; D; the share of examples in training that are told nothing."""
        self.modalities, self.width, self.drop, self.dtype = tuple(modalities), width, drop, dtype
        shape, draw = (len(self.modalities), width), nnx.initializers.normal(1 / math.sqrt(width))
        self.state = nnx.Param(draw(rngs.params(), (shape[0], UNTOLD + 1, width)))
        self.reliability, self.alignment = (nnx.Param(draw(rngs.params(), shape)) for _ in range(2))

    def __call__(self, told: Told, valid: Bool[Array, "B"], key: Array | None = None) -> Tokens:
        """Tokens (B M D); padding where the example is a hole. With a key, some are told nothing."""
        rows, number = told.present.shape
        state = jnp.where(told.present, jnp.where(told.open, OPEN, SHUT), ABSENT)
        known = jnp.ones(rows, bool) if key is None else ~jax.random.bernoulli(key, self.drop, (rows,))
        state = jnp.where(known[:, None], state, UNTOLD)
        values = self.state[...][jnp.arange(number)[None], state]
        for measured, direction in ((told.reliability, self.reliability), (told.alignment, self.alignment)):
            heard = jnp.where(told.present & known[:, None], jax.lax.stop_gradient(measured), 0.0)
            values = values + heard[..., None] * direction[...][None]
        segment = jnp.broadcast_to(valid[:, None], (rows, number)).astype(jnp.int32)
        modality = jnp.broadcast_to(jnp.array([[_index(name) for name in self.modalities]]), (rows, number))
        place, anchor = jnp.zeros((rows, number, 1)), jnp.zeros((rows, number), jnp.int32)
        return Tokens(values.astype(self.dtype), segment, place, modality, anchor)

    def keep_told(self, tokens: Tokens, keep: Bool[Array, ""]) -> Tokens:
        """The tokens as they are; or, where `keep` is false, as they are where no modality is there."""
        absent = self.state[...][None, :, ABSENT].astype(tokens.values.dtype)
        return tokens._replace(values=jnp.where(keep, tokens.values, absent))


def expected_alignment(
    embeddings: Mapping[str, Float[Array, "B E"]], taking_part: Mapping[str, Bool[Array, "B"]]
) -> dict[str, Float[Array, "B"]]:
    """Of each modality, the mean cosine of its unit embedding with those of the others that take part; else 0."""
    aligned = {}
    for name, vector in embeddings.items():
        total = number = jnp.zeros(len(vector))
        for other, its in embeddings.items():
            both = taking_part[name] & taking_part[other] if other != name else jnp.zeros(len(vector), bool)
            total = total + jnp.where(both, (vector * its).sum(axis=-1).astype(jnp.float32), 0.0)
            number = number + both.astype(jnp.float32)
        aligned[name] = total / jnp.maximum(number, 1)
    return aligned


def _index(name):
    return MODALITIES.index(name if name in MODALITIES else "text")
