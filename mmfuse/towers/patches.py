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


def first_places(
    places: int, patches: Float[Array, "B S phwc"], position: Float[Array, "B S 2"], segment: Int[Array, "B S"]
) -> tuple[Float[Array, "B P phwc"], Float[Array, "B P 2"], Int[Array, "B P"]]:
    """Those patches alone that hold any of the picture, in their order, then padding: P = `places` of all S."""
    order = jnp.argsort(segment == 0, axis=1, stable=True)[:, :places]
    patches, position = (jnp.take_along_axis(array, order[..., None], axis=1) for array in (patches, position))
    return patches, position, jnp.take_along_axis(segment, order, axis=1)
