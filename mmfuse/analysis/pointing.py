"""Does attention fall on the thing that is spoken of?

The pointing game: the patch that is looked at most points at its middle, and hits where that lies in a box of a thing
that the text is about. Beside the share of hits stands chance, the share that a patch drawn evenly would reach.
Reference: Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", arXiv 1608.00507, section 4.2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Box = tuple[float, float, float, float]  # x0, y0, x1, y1, as shares of a picture's width and height


class Pointed(NamedTuple):
    """Whether it hit, and how likely an evenly drawn patch does."""

    hit: bool
    chance: float


def point(heat: Float[np.ndarray, "rows columns"], boxes: Sequence[Box]) -> Pointed | None:
    """Plays once; None where nothing was looked at, or nothing is there to be hit.

    Args:
      heat: attention over a grid of patches.
      boxes: of all things that would be right.
    """
    inside = middles_inside(heat.shape, boxes)
    if not (heat > 0).any() or not inside.any():
        return None
    return Pointed(bool(inside.flat[heat.argmax()]), float(inside.mean()))


def middles_inside(grid: tuple[int, ...], boxes: Sequence[Box]) -> Bool[np.ndarray, "rows columns"]:
    """Which patches of a grid have their middle in one of the boxes."""
    y, x = ((np.arange(size) + 0.5) / size for size in grid)
    inside = np.zeros(grid, bool)
    for x0, y0, x1, y1 in boxes:
        inside |= ((y0 <= y) & (y < y1))[:, None] & ((x0 <= x) & (x < x1))[None]
    return inside


def score(pointed: Sequence[Pointed | None]) -> dict[str, int | float]:
    """`hits` and `chance`, shares of the `games` that were played; only their number where there were none."""
    played = [one for one in pointed if one is not None]
    if not played:
        return {"games": 0}
    hits, chance = (float(np.mean(part)) for part in zip(*played))
    return {"hits": hits, "chance": chance, "games": len(played)}
