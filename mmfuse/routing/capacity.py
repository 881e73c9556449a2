"""How is what is closed not computed?

The rows of a batch that are open are gathered into fewer rows, a function reads those alone, and what it made is laid
back where they came from, with zeros for the others. Shapes are static: so many rows of each group are taken, the
`capacity`, a rung of a ladder of shares such as 0, ¼, ½, ¾, 1.

    training      the rung is given; each group takes its highest scores, and leaves out the others (expert choice)
    evaluation    the lowest rung that has room for all that are open is looked up as the program runs: nothing is left
                  out, so that no answer depends on batch-mates, and of all rungs one is computed

A group is a part of the batch that lies on one device; groups are more than devices, or as many, so that a decision
does not depend on the mesh. Gathering within groups moves nothing from device to device.
References: capacity, Fedus et al. 2021, arXiv 2101.03961; expert choice, Zhou et al. 2022, arXiv 2202.09368.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


class Places(NamedTuple):
    """Which rows of each group are taken: `row` (G K), its number in the group, and whether it is one (`filled`)."""

    row: Int[Array, "G K"]
    filled: Bool[Array, "G K"]


def room(rows: int, groups: int, share: float) -> int:
    """How many rows of a group are taken: its share of them, rounded up."""
    return math.ceil(rows // groups * share - 1e-9)


def choose(score: Float[Array, "B"], candidate: Bool[Array, "B"], *, groups: int, number: int) -> Places:
    """The `number` candidates with the highest scores in each group, in the order of the rows."""
    ranked = jnp.where(candidate, score, -jnp.inf).reshape(groups, -1)
    best = jnp.sort(jnp.argsort(ranked, axis=1, descending=True)[:, :number], axis=1)
    return Places(best, jnp.take_along_axis(candidate.reshape(groups, -1), best, axis=1))


def taken(places: Places, rows: int) -> Bool[Array, "B"]:
    """Whether each of the rows is taken."""
    groups = places.row.shape[0]
    return _slot(places, rows // groups).reshape(rows) < places.row.shape[1]


def gather(tree: Any, places: Places) -> Any:
    """(B …) → (G·K …) of every array: the rows that are taken. Where none is, some row stands, and does not count."""

    def pick(array):
        grouped = array.reshape(len(places.row), -1, *array.shape[1:])
        return _each(lambda group, row: group[row], grouped, places.row)

    return jax.tree.map(pick, tree)


def scatter(tree: Any, places: Places, rows: int) -> Any:
    """(G·K …) → (B …) of every array: each row where it came from, zeros where none was taken."""
    groups, number = places.row.shape
    slot = _slot(places, rows // groups)

    def lay(array):
        grouped = array.reshape(groups, number, *array.shape[1:])
        padded = jnp.concatenate([grouped, jnp.zeros_like(grouped, shape=(groups, 1, *array.shape[1:]))], axis=1)
        return _each(lambda group, place: group[place], padded, slot)

    return jax.tree.map(lay, tree)


def keep_rows(tree: Any, kept: Bool[Array, "B"]) -> Any:
    """Every array with zeros in the other rows."""
    return jax.tree.map(
        lambda leaf: jnp.where(kept.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf)), tree
    )


def on_taken(function: Callable[[Any], Any], tree: Any, places: Places, rows: int) -> Any:
    """What `function` makes of the rows that are taken, laid back among zeros; it is not run where there is no room."""
    if places.row.size == rows:
        return keep_rows(function(tree), taken(places, rows))
    if places.row.size:
        return scatter(function(gather(tree, places)), places, rows)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, tree))


def on_open(
    function: Callable[[Any], Any],
    tree: Any,
    open_rows: Bool[Array, "B"],
    *,
    groups: int,
    ladder: Sequence[float],
) -> Any:
    """What `function` makes of all open rows, at the lowest rung of the ladder that has room for them.

    Args:
      function: maps a tree of (R …) to a tree of (R …), each row alone.
      tree: of (B …).
      open_rows: rows that are read.
      groups: of the batch.
      ladder: shares, rising; the last is 1.
    """
    rows = len(open_rows)
    rungs = sorted({room(rows, groups, share) for share in ladder})

    def rung(number):
        def run(tree, open_rows):
            return on_taken(function, tree, choose(jnp.zeros(rows), open_rows, groups=groups, number=number), rows)

        return run

    most = open_rows.reshape(groups, -1).sum(axis=1).max()
    needed = jnp.searchsorted(jnp.array(rungs), most)
    return jax.lax.switch(needed, [*map(rung, rungs)], tree, open_rows)


def _slot(places, size):
    """(G size): at which slot each row of a group stands; the number of slots where it stands at none."""
    number = places.row.shape[1]
    slots = jnp.where(places.filled, jnp.arange(number)[None], number)
    empty = jnp.full((len(places.row), size), number)
    return jax.vmap(lambda group, row, slot: group.at[row].set(slot))(empty, places.row, slots)


def _each(function, grouped, index):
    """`function` of each group alone; groups are joined again."""
    out = jax.vmap(function)(grouped, index)
    return out.reshape(-1, *out.shape[2:])
