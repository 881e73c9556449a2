"""Which patches does a picture consist of, and which of them hold any of it?

A picture may be smaller than its array: `size` says how many of its first rows and columns are valid.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Num


def cut_patches(values: Num[Array, "B h w c"], patch: tuple[int, int]) -> Num[Array, "B g v phwc"]:
    """The pixels of each patch, row by row, on the grid of patches (g = h / ph, v = w / pw).

    Raises:
      ValueError: h or w is not a multiple of the patch.
    """
    batch, height, width, channels = values.shape
    ph, pw = patch
    if height % ph or width % pw:
        raise ValueError(f"pictures of {height}×{width} do not divide into patches of {ph}×{pw}")
    rows, columns = height // ph, width // pw
    patches = values.reshape(batch, rows, ph, columns, pw, channels).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(batch, rows, columns, -1)


def grid_positions(rows: int, columns: int) -> Float[Array, "1 P 2"]:
    """(row, column) of each place of a grid, row by row; P = rows · columns."""
    grid = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), axis=-1)
    return grid.reshape(1, rows * columns, 2).astype(jnp.float32)


def holds_any(size: Int[Array, "B 2"], rows: int, columns: int, patch: tuple[int, int]) -> Bool[Array, "B P"]:
    """Which patches of a grid begin inside the first `size` rows and columns of pixels."""
    corners = grid_positions(rows, columns) * jnp.array([[patch]], jnp.float32)
    return (corners < size[:, None].astype(jnp.float32)).all(axis=-1)
