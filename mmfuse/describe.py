"""What would a run be, before anything is allocated?

Tables for `--mode=dry_run`, from abstract arrays and the compiled step alone.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from mmfuse.objectives.cost import tree_bytes
from mmfuse.training.rules import named_leaves
from mmfuse.training.state import TrainState

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def describe_state(state: TrainState) -> str:
    """A row for every parameter: name, shape, dtype, sharding, bytes; then totals.

    Args:
      state: shapes, dtypes and shardings.
    """
    rows = [("parameter", "shape", "dtype", "sharding", "bytes")]
    for group, suffix in ((state.trainable, ""), (state.frozen, " (frozen)")):
        for name, leaf in named_leaves(group).items():
            sharding = tuple(leaf.sharding.spec)
            rows.append((name + suffix, str(leaf.shape), str(leaf.dtype), str(sharding), str(tree_bytes(leaf))))
    counts = {
        group: sum(leaf.size for leaf in jax.tree.leaves(getattr(state, group))) for group in ("trainable", "frozen")
    }
    totals = (
        f"{counts['trainable']:,} trainable parameters, {counts['frozen']:,} frozen; "
        f"the whole state is {human_bytes(tree_bytes(state))}"
    )
    return f"{_table(rows)}\n{totals}\n"


def describe_batches(batches: dict[str, Any]) -> str:
    """A row for every array of one step's batches."""
    rows = [("batch", "shape", "dtype", "", "bytes")]
    for name, leaf in named_leaves(batches).items():
        rows.append((name, str(leaf.shape), str(leaf.dtype), "", str(tree_bytes(leaf))))
    return f"{_table(rows)}\n{human_bytes(tree_bytes(batches))} a step\n"


def describe_cost(compiled: jax.stages.Compiled, flops: float, mesh: Mesh) -> str:
    """FLOPs of a step on all devices, and each device's memory as the compiler plans it."""
    memory = compiled.memory_analysis()
    lines = [f"mesh {dict(mesh.shape)}", f"{flops:.4g} FLOPs a step on all devices"]
    if memory is not None:
        arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        lines.append(
            f"memory of each device: {human_bytes(arguments)} state and batch, {human_bytes(temporary)} temporary"
        )
    return "\n".join(lines)


def human_bytes(number: int | float) -> str:
    """1536 → '1.5 KiB'."""
    unit = 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.4g} {UNITS[unit]}"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
