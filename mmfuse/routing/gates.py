"""How does a decision learn that is either yes or no?

A gate turns a logit into a decision of exactly 0 or 1, and lets a gradient pass as if it had been soft:

    value = [decision] + soft − sg(soft)        sg: no gradient

What is absent is closed, and has no gradient. All gates are drawn where a key is given, in
training, and are sure of themselves where there is none.

References: straight through, Bengio et al. 2013, arXiv 1308.3432; binary concrete, Maddison et al. 2017, arXiv
1611.00712, and Jang et al. 2017, arXiv 1611.01144; hard concrete, Louizos et al. 2018, arXiv 1712.01312.
"""

import dataclasses
import itertools
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num

ABSENT = -1e9  # a logit that is drawn last


class Gates(NamedTuple):
    """What was decided for each example and modality.

    Attributes:
      open: whether the modality takes part; never where it is absent.
      value: 1 where open and 0 where not, exactly, with the gradient of `soft` or of a draw from it. Hard-concrete and
        dimmed gates alone may be open by less than 1.
      soft: the probability that it is open, 0 where absent.
      wanted: whether the gate would open it. That differs from `open` where a capacity was full or not yet filled.
    """

    open: Bool[Array, "B M"]
    value: Float[Array, "B M"]
    soft: Float[Array, "B M"]
    wanted: Bool[Array, "B M"]


@runtime_checkable
class Gate(Protocol):
    """The form that every gate has: logits (B M), which modalities are there, a temperature, a key or None.

    What a `strict` gate shuts stays shut in training, though there be room. Of others the likeliest are read: so they
    learn what opening is worth.
    """

    strict: ClassVar[bool]

    def __call__(
        self,
        logits: Float[Array, "B M"],
        present: Bool[Array, "B M"],
        *,
        temperature: Float[Array, ""] | float = 1.0,
        key: Array | None = None,
    ) -> Gates: ...


def straight_through(decision: Bool[Array, "*B"], soft: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Exactly 1 or 0, with the gradient of `soft`."""
    return decision.astype(soft.dtype) + (soft - jax.lax.stop_gradient(soft))


def among_highest(scores: Float[Array, "B M"], number: int) -> Bool[Array, "B M"]:
    """Whether each is one of the `number` highest of its row; of equal ones the first."""
    order = jnp.argsort(scores, axis=-1, descending=True)
    return jnp.argsort(order, axis=-1) < number


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Open where σ(logit / temperature) > ½; the same with and without a key."""

    strict: ClassVar[bool] = False

    def __call__(self, logits, present, *, temperature=1.0, key=None) -> Gates:
        return _decide(_there(logits, present) / temperature, present)


@dataclasses.dataclass(frozen=True)
class BinaryConcrete:
    """Open where σ((logit + noise) / temperature) > ½, with logistic noise: with probability σ(logit), which is `soft`.

    The gradient of `value` is that of the relaxed draw.
    """

    strict: ClassVar[bool] = False

    def __call__(self, logits, present, *, temperature=1.0, key=None) -> Gates:
        logits = _there(logits, present)
        noise = 0.0 if key is None else jax.random.logistic(key, logits.shape, logits.dtype)
        drawn = _decide((logits + noise) / temperature, present)
        return drawn._replace(soft=jnp.where(present, jax.nn.sigmoid(logits), 0.0))


@dataclasses.dataclass(frozen=True)
class HardConcrete:
    """z = clip(s · (high − low) + low, 0, 1), where s is binary concrete: shut, open, or open by a part.

    `low` < 0 and `high` > 1 say how far s is stretched. `soft` is the probability that z > 0. The gradient is that of
    z: none where it is clipped.
    """

    strict: ClassVar[bool] = True

    low: float = -0.1
    high: float = 1.1

    def __call__(self, logits, present, *, temperature=1.0, key=None) -> Gates:
        logits = _there(logits, present)
        noise = 0.0 if key is None else jax.random.logistic(key, logits.shape, logits.dtype)
        stretched = jax.nn.sigmoid((logits + noise) / temperature) * (self.high - self.low) + self.low
        value = jnp.where(present, jnp.clip(stretched, 0.0, 1.0), 0.0)
        soft = jax.nn.sigmoid(logits - temperature * jnp.log(-self.low / self.high))
        return Gates(value > 0, value, jnp.where(present, soft, 0.0), value > 0)


@dataclasses.dataclass(frozen=True)
class TopK:
    """The `number` likeliest of the modalities that are there, by a softmax over them.

    With a key, Gumbel noise draws them by their shares, without replacement: Kool et al. 2019, arXiv 1903.06059. `soft`
    is the probability of being among those that are drawn.
    """

    strict: ClassVar[bool] = True

    number: int

    def __call__(self, logits, present, *, temperature=1.0, key=None) -> Gates:
        logits = _there(logits, present) / temperature
        noise = 0.0 if key is None else jax.random.gumbel(key, logits.shape, logits.dtype)
        soft = jnp.where(present, _drawn(jnp.where(present, logits, ABSENT), self.number), 0.0)
        decision = among_highest(jnp.where(present, logits + noise, -jnp.inf), self.number) & present
        return Gates(decision, straight_through(decision, soft), soft, decision)


@dataclasses.dataclass(frozen=True)
class Dimmed:
    """Open wherever a modality is there; now and then, as `share` says, by a part u that is drawn evenly from 0 to 1.

    There it has the gradient of `soft`, and elsewhere none. So a gate learns what being open is worth, and not what a
    little more would be, which is next to nothing once all that reads the modality has grown used to it: the mean of
    ∂L/∂u over the path from shut to open is L(open) − L(shut). Reference: integrated gradients, Sundararajan et al.
    2017, arXiv 1703.01365, equation 1.
    """

    strict: ClassVar[bool] = False

    share: float = 0.25

    def __call__(self, logits, present, *, temperature=1.0, key=None) -> Gates:
        soft = jnp.where(present, jax.nn.sigmoid(_there(logits, present) / temperature), 0.0)
        if key is None:
            return Gates(present, present.astype(soft.dtype), soft, present)
        # a lot beyond the share dims nothing
        part = jax.random.uniform(key, soft.shape, soft.dtype) / self.share
        dimmed = present & (part < 1)
        value = jnp.where(dimmed, part + (soft - jax.lax.stop_gradient(soft)), present.astype(soft.dtype))
        return Gates(present, value, soft, present)


@dataclasses.dataclass(frozen=True)
class Random:
    """Open by lot, each modality as often as its share says, whatever the logits: what learned gates are compared with.

    Without a key the lot is always the same for each place of a batch. Nothing is learned: `soft` is 1 − lot.
    """

    strict: ClassVar[bool] = False

    shares: tuple[float, ...]

    def __call__(self, logits, present, *, temperature=1.0, key=None) -> Gates:
        lot = jax.random.uniform(jax.random.key(0) if key is None else key, logits.shape, logits.dtype)
        decision = (lot < jnp.array([self.shares], logits.dtype)) & present
        soft = jnp.where(present, 1 - lot, 0.0)
        return Gates(decision, straight_through(decision, soft), soft, decision)


def anneal(step: Num[Array, ""] | float | int, *, start: float, end: float, steps: float | int) -> Float[Array, ""]:
    """A temperature that falls by the same factor each step, from `start` to `end` after `steps`, and stays there."""
    return start * (end / start) ** jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)


def _drawn(logits: Float[Array, "B M"], number: int) -> Float[Array, "B M"]:
    """The probability of being among the `number` first that are drawn by a softmax of the logits, without replacement.

    That of each order is Π_j exp ℓ_j / Σ exp ℓ over what is not drawn before: Plackett and Luce, equation 1 of Kool
    et al. 2019. Orders are written out; modalities are few.
    """
    columns = logits.shape[-1]
    orders = np.array([*itertools.permutations(range(columns), min(number, columns))])
    before = np.array([[np.isin(np.arange(columns), order[:place]) for place in range(len(order))] for order in orders])
    left = jax.nn.logsumexp(jnp.where(before, -jnp.inf, logits[:, None, None]), axis=-1)
    probability = jnp.exp((logits[:, orders] - left).sum(axis=-1))
    drawn = np.array([np.isin(np.arange(columns), order) for order in orders])
    return jnp.where(drawn, probability[..., None], 0.0).sum(axis=1)


def _there(logits, present):
    """0 in place of the logits of what is absent: whatever stood there gets no gradient."""
    return jnp.where(present, logits, 0.0)


def _decide(logits, present):
    soft = jnp.where(present, jax.nn.sigmoid(logits), 0.0)
    decision = (logits > 0) & present
    return Gates(decision, straight_through(decision, soft), soft, decision)
