"""Which modality disagrees with the others?

The second of two gates, after the towers have run: it saves nothing, and keeps a signal that is clear but wrong from
being believed.

    mismatch   ℓ_ab, a logit for each pair of modalities, read off their tokens (`match.py`) or off what they answer
               (`answers.py`)
    odd        P(m) = exp Σ_b ℓ_mb / (1 + Σ_k exp Σ_b ℓ_kb)
    gate       shut where P(m) > threshold, ½ or more: one at most

P(m) is the probability that m is the one that does not belong, where one at most does not: a pair that it is in has the
odds exp ℓ of a mismatch, and all others match. Of two modalities that disagree, both are as likely to be wrong, and
neither is shut.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from mmfuse.routing.gates import Gates
from mmfuse.routing.match import MatchHead, suppress
from mmfuse.types import Tokens

Pair = tuple[str, str]


class Agreement(NamedTuple):
    """How far the modalities of a batch agree.

    Attributes:
      tokens: of each modality, in the width in which they are compared.
      mismatch: of each pair a logit (B), positive where it is a mismatch; 0 where a side is not there.
      gates: (B) of each modality; `soft` is the probability that it belongs.
    """

    tokens: dict[str, Tokens]
    mismatch: dict[Pair, Float[Array, "B"]]
    gates: dict[str, Gates]


NO_AGREEMENT = Agreement({}, {}, {})  # where nothing is compared


class Consensus(nnx.Module):
    """Compares all modalities that are named, each with each, and shuts the one that disagrees."""

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        width: int,
        hidden: int,
        threshold: float,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds a projection of each modality, and a head for each pair.

        Args:
          widths: modality → width of its tokens.
          width: in which they are compared.
          hidden: width of the heads.
          threshold: the probability of being odd above which a gate is shut, ½ to 1; at 1 none is.
          dtype: of the projections; evidence and heads are float32.
          rngs: draws the parameters.
        """
        self.threshold = threshold
        self.pairs: tuple[Pair, ...] = tuple(itertools.combinations(widths, 2))
        self.projections = nnx.Dict(
            {name: nnx.Linear(source, width, dtype=dtype, rngs=rngs) for name, source in widths.items()}
        )
        self.heads = nnx.Dict({f"{a}_{b}": MatchHead(width, hidden=hidden, rngs=rngs) for a, b in self.pairs})

    def __call__(self, memory: Mapping[str, Tokens]) -> Agreement:
        """The agreement of those modalities that the memory has."""
        tokens = {name: self.project(name, memory[name]) for name in self.projections if name in memory}
        pairs = [pair for pair in self.pairs if pair[0] in tokens and pair[1] in tokens]
        mismatch = {pair: self.mismatch(pair, *(tokens[name] for name in pair)) for pair in pairs}
        return Agreement(tokens, mismatch, shut_the_odd(tokens, mismatch, self.threshold))

    def project(self, name: str, tokens: Tokens) -> Tokens:
        """The tokens of a modality in the shared width, whatever stands in padding."""
        there = (tokens.segment > 0)[..., None]
        return tokens._replace(values=self.projections[name](jnp.where(there, tokens.values, 0)))

    def mismatch(self, pair: Pair, a: Tokens, b: Tokens) -> Float[Array, "B"]:
        """The logit that tokens of the two modalities do not match; 0 where a side has none."""
        both = (a.segment > 0).any(axis=1) & (b.segment > 0).any(axis=1)
        return jnp.where(both, self.heads["_".join(pair)](a, b), 0.0)


def shut_the_odd(
    tokens: Mapping[str, Tokens], mismatch: Mapping[Pair, Float[Array, "B"]], threshold: float
) -> dict[str, Gates]:
    """A gate for each modality, shut where it is the odd one by the logits of all pairs that it is in."""
    there = {name: (side.segment > 0).any(axis=1) for name, side in tokens.items()}
    if not there:
        return {}
    # a modality that nothing is compared with has no vote
    none = {name: jnp.zeros(present.shape) for name, present in there.items()}
    votes = [sum((logit for pair, logit in mismatch.items() if name in pair), none[name]) for name in there]
    odd = odd_one_out(jnp.stack(votes, axis=1), jnp.stack([*there.values()], axis=1))
    gates = {}
    for (name, present), probability in zip(there.items(), odd.T):
        value = jnp.where(present, suppress(probability, threshold), 0.0)
        gates[name] = Gates(value > 0, value, jnp.where(present, 1 - probability, 0.0), value > 0)
    return gates


def odd_one_out(votes: Float[Array, "B M"], present: Bool[Array, "B M"]) -> Float[Array, "B M"]:
    """The probability of each modality that it is the one that does not belong: a softmax of its votes and 0."""
    votes = jnp.where(present, votes, -jnp.inf)
    return jax.nn.softmax(jnp.concatenate([jnp.zeros_like(votes, shape=(len(votes), 1)), votes], axis=1), axis=1)[:, 1:]
