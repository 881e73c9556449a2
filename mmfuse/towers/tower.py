"""What does a tower give back?

A tower turns the raw signal of one modality into tokens, one sequence for each item, and a pooled vector. It knows
nothing of other modalities. Heads receive what it returns, never the tower itself.
"""

from typing import NamedTuple

from jax import Array
from jaxtyping import Float

from mmfuse.types import Tokens


class TowerOutput(NamedTuple):
    """Tokens of each item, their pooled vector, auxiliary scalars, and attention weights where a probe asked."""

    tokens: Tokens
    pooled: Float[Array, "B D"]
    aux: dict[str, Array]
    trace: dict[str, dict[str, Array]]
