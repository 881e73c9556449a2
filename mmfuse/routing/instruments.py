"""What can be seen of gates while they learn?

    open       how often a modality takes part
    wanted     how often its gate would have it so
    overflow   how often it would, and found the capacity full
    soft       the mean probability of being open
    entropy    how unsure the gate is, in bits
    agreement  1 − |hard − soft|: how far the decision is the probability that it learns by
    varied     the mean deviation of `soft` from its mean

Each is over the examples that have the modality, those of one source too where a stream mixes several. A gate has
collapsed where it is always open, always shut, or blind to its evidence: equally open for all examples.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import entr
from jaxtyping import Bool, Float

from mmfuse.routing.gates import Gates
from mmfuse.types import Batch

Watched = dict[str, tuple[Float[Array, "B"], Float[Array, "B"]]]
ALWAYS, BLIND = 0.995, 0.01  # a share that is as good as always; a deviation of soft gates that is none


def has_collapsed(share: float, varied: float) -> bool:
    """Whether a gate that opens for this share, and whose probability varies so much, decides nothing."""
    return not 1 - ALWAYS <= share <= ALWAYS or varied < BLIND


def watch(gates: Mapping[str, Gates], batch: Batch, sources: Mapping[str, int]) -> Watched:
    """The numbers of each example, and where they count: `{number}/{modality}` and `{number}/{modality}/{source}`.

    Args:
      gates: (B) of each modality.
      batch: what they decide about.
      sources: name → number in `Batch.origin`; none where all examples are of one.
    """
    found = {}
    for name, gate in gates.items():
        there = batch.present(name).any(axis=1)
        numbers = _numbers(gate, there)
        found |= {f"{number}/{name}": (value, there.astype(jnp.float32)) for number, value in numbers.items()}
        for source, place in sources.items():
            of = (there & (batch.origin[:, 0] == place)).astype(jnp.float32)
            found |= {f"{number}/{name}/{source}": (value, of) for number, value in numbers.items()}
    return found


def _numbers(gate: Gates, there: Bool[Array, "B"]) -> dict[str, Float[Array, "B"]]:
    mean = jnp.where(there, gate.soft, 0).sum() / jnp.maximum(there.sum(), 1).astype(jnp.float32)
    opened = gate.open.astype(jnp.float32)
    return {
        "open": opened,
        "wanted": gate.wanted.astype(jnp.float32),
        "overflow": (gate.wanted & ~gate.open).astype(jnp.float32),
        "soft": gate.soft,
        "entropy": (entr(gate.soft) + entr(1 - gate.soft)) / jnp.log(2.0),
        "agreement": 1 - jnp.abs(opened - gate.soft),
        "varied": jnp.abs(gate.soft - mean),
    }
