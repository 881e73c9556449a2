"""What do gates have to learn besides the task?

To tell pairs that do not match, to cost little, to use all modalities, and to go on deciding instead of being always
open or always shut. `soft[b, m]` is the probability that the gate of modality m is open in example b; what is absent
does not count. All losses are float32, 0 where nothing counts, with gradients that are finite everywhere.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

# Open shares are drawn in from 0 and 1 by this much: their entropy has an infinite slope there.
MARGIN = 1e-6


def mismatch_loss(logits: Float[Array, "*B"], *, swapped: Bool[Array, "*B"] | bool) -> Float[Array, "*B"]:
    """Binary cross-entropy of saying whether a pair was swapped: −log σ(±logit), + where swapped, − where not."""
    return jax.nn.softplus(jnp.where(swapped, -logits, logits).astype(jnp.float32))


def expected_cost(soft: Float[Array, "B M"], costs: Float[Array, "M"]) -> Float[Array, "B"]:
    """Which share of the dense cost the gates of each example are expected to spend, in [0, 1].

        Σ_m soft_bm c_m / Σ_m c_m

    Args:
      soft: probability that each is open; 0 where absent.
      costs: of each modality for one example, in any unit, such as the FLOPs of its tower.
    """
    share = costs.astype(jnp.float32) / costs.sum(dtype=jnp.float32)
    return (soft.astype(jnp.float32) * share[None]).sum(axis=1)


def balance_loss(soft: Float[Array, "B M"], present: Bool[Array, "B M"]) -> Float[Array, ""]:
    """KL(q ‖ uniform over the modalities that are there), in [0, ln M] nats; 0 where all are shut.

        q_m = share_m / Σ_m share_m,     share_m = mean of soft_bm over the examples b that have m

    A modality that few examples have is not made up for: what counts is how often it is used where it could be.
    """
    share, there = _open_share(soft, present)
    mean = share / jnp.maximum(share.sum(), 1e-12)
    number = jnp.maximum(there.sum(), 1).astype(jnp.float32)
    return (mean * jnp.log(jnp.where(mean > 0, mean * number, 1))).sum()


def entropy_floor(soft: Float[Array, "B M"], present: Bool[Array, "B M"], floor: float) -> Float[Array, ""]:
    """How far the gates are from deciding at all, a mean over the modalities m that are there.

        max(0, floor − H(share_m)),     H(p) = −p log₂ p − (1 − p) log₂ (1 − p)

    Args:
      soft: probability that each is open.
      present: which are there; share_m is the mean of soft_bm over the examples b that have m.
      floor: in bits, between 0 and 1; it is reached by shares p and 1 − p, 0.11 and 0.89 for half a bit.
    """
    share, there = _open_share(soft, present)
    share = MARGIN + (1 - 2 * MARGIN) * share
    entropy = -(share * jnp.log2(share) + (1 - share) * jnp.log2(1 - share))
    lacking = jnp.where(there, jax.nn.relu(floor - entropy), 0)
    return lacking.sum() / jnp.maximum(there.sum(), 1).astype(jnp.float32)


def _open_share(soft, present):
    """Mean of `soft` over the examples that have each modality, 0 where none has; and whether any has."""
    number = present.sum(axis=0)
    total = jnp.where(present, soft.astype(jnp.float32), 0).sum(axis=0)
    return total / jnp.maximum(number, 1).astype(jnp.float32), number > 0


def _weighted_mean(values, weight):
    weight = weight.astype(jnp.float32)
    total = weight.sum()
    return (values * weight).sum() / jnp.where(total > 0, total, 1)
