"""What outline has each shape, and how much of a pixel does it cover?

An outline is a polygon around the origin, x to the right and y down, in units of the object's radius. Coverage comes
from a summed-area table of a finely drawn outline: four look-ups give the covered share of any axis-parallel pixel,
at any position and scale, so that edges are anti-aliased for the price of an index. Nothing here knows colours.

Reference: Crow 1984, "Summed-area tables for texture mapping".
"""

import functools

import numpy as np
from jaxtyping import Float, Int

_LIMIT = 1.25  # tables span [-_LIMIT, _LIMIT] radii on both axes: more than the farthest outline
_CELLS = 512  # table cells on an axis: finer than a twentieth of a pixel of a large object on a canvas of 64


def _regular(corners: int, reach: float, turn: float = 0.0, inner: float = 1.0) -> Float[np.ndarray, "p 2"]:
    """Returns corners on a circle of radius `reach`, the first at `turn` of a whole turn from the top.

    Every second corner lies at `inner` of the reach, which makes a star.
    """
    angle = 2 * np.pi * (np.arange(corners) / corners + turn)
    radius = np.where(np.arange(corners) % 2, inner, 1.0) * reach
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _cross(reach: float, arm: float) -> Float[np.ndarray, "p 2"]:
    corner = np.array([(-arm, -reach), (arm, -reach), (arm, -arm)])
    quarter = np.array([(0, 1), (-1, 0)])
    return np.concatenate([corner @ np.linalg.matrix_power(quarter, turns) for turns in range(4)])


def _heart(scale: float) -> Float[np.ndarray, "p 2"]:
    angle = 2 * np.pi * np.arange(96) / 96
    x = 16 * np.sin(angle) ** 3
    y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    return np.stack([x, -2.5 - y], axis=1) * scale / 16


def _moon(outer: float, inner: float, shift: float) -> Float[np.ndarray, "p 2"]:
    """Returns a disc without another one that lies `shift` to its right: a crescent, centred."""
    tip = (outer**2 - inner**2 + shift**2) / (2 * shift)
    far, near = np.arccos(tip / outer), np.arccos((tip - shift) / inner)
    out = np.linspace(far, 2 * np.pi - far, 48)
    back = np.linspace(2 * np.pi - near, near, 48)
    x = np.concatenate([outer * np.cos(out), shift + inner * np.cos(back)])
    y = np.concatenate([outer * np.sin(out), inner * np.sin(back)])
    return np.stack([x - (tip - outer) / 2, y], axis=1)


# Scaled so that the areas are close (1.7 to 2.7 squared radii): a shape does not tell the size.
OUTLINES: dict[str, Float[np.ndarray, "p 2"]] = {
    "circle": _regular(96, 0.92),
    "square": _regular(4, 1.1, turn=1 / 8),
    "triangle": _regular(3, 1.2),
    "diamond": _regular(4, 1.15) * (0.85, 1.05),
    "star": _regular(10, 1.2, inner=0.47),
    "cross": _cross(1.0, 0.36),
    "heart": _heart(1.0),
    "moon": _moon(1.1, 0.95, 0.6),
}

# The box of each outline in radii: x0, y0, x1, y1.
EXTENTS: dict[str, tuple[float, float, float, float]] = {
    shape: tuple(np.concatenate([outline.min(axis=0), outline.max(axis=0)]).tolist())
    for shape, outline in OUTLINES.items()
}


@functools.cache
def _table(shape: str) -> Int[np.ndarray, "k k"]:
    """Returns at [i, j] the number of the outline's cells in the first i rows and j columns (even-odd rule)."""
    middle = ((np.arange(_CELLS) + 0.5) / _CELLS * 2 - 1) * _LIMIT
    inside = np.zeros((_CELLS, _CELLS), bool)
    outline = OUTLINES[shape]
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0)):
        rows = (y0 > middle) != (y1 > middle)
        crossing = x0 + (middle[rows] - y0) * (x1 - x0) / (y1 - y0)
        inside[rows] ^= middle < crossing[:, None]
    table = np.zeros((_CELLS + 1, _CELLS + 1), np.int32)
    table[1:, 1:] = inside.cumsum(axis=0).cumsum(axis=1)
    return table


def coverage(
    shape: str, centre: tuple[float, float], radius: float, rows: tuple[int, int], columns: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Returns the covered share (0 to 1) of each pixel in a window of the canvas.

    Args:
      shape: a key of `OUTLINES`.
      centre, radius: x, y and radius of the object in pixels.
      rows, columns: the window: first pixel and one past the last.
    """
    table, scale = _table(shape), _CELLS / (2 * _LIMIT)

    def cells(first: int, stop: int, middle: float) -> Int[np.ndarray, "e"]:
        edges = (np.arange(first, stop + 1) - middle) * (scale / radius) + _CELLS / 2
        return np.rint(edges).clip(0, _CELLS).astype(np.intp)

    y, x = cells(*rows, centre[1]), cells(*columns, centre[0])
    covered = np.diff(np.diff(table[y[:, None], x], axis=0), axis=1)
    cells_of_pixel = np.diff(y)[:, None] * np.diff(x)
    return (covered / np.maximum(cells_of_pixel, 1)).astype(np.float32)
