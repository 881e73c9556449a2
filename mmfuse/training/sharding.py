"""Which device holds what?

A mesh has the axes `data`, `fsdp` and `tensor`. A batch is split over the first two; parameters by `(regex, axes)`
rules; what an optimizer keeps for a parameter lies where the parameter lies, since its name ends in the parameter's.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmfuse.training.rules import match_rules, path_name
from mmfuse.types import BATCH_AXES, DATA, FSDP, TENSOR, ConfigError

AXES = (DATA, FSDP, TENSOR)


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices, or over the first ones where fewer are asked for; −1 takes what the others leave.

    Raises:
      ConfigError: there are not enough devices, or they do not divide, or some of several processes would have none.
    """
    sizes, available = [data, fsdp, tensor], jax.device_count()
    fixed = math.prod(size for size in sizes if size != -1)
    asked = f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor}"
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ConfigError(f"{asked}: sizes are positive, and one of them may be -1.")
    if fixed > available or (-1 in sizes and available % fixed):
        raise ConfigError(
            f"{asked} needs {'a multiple of ' if -1 in sizes else ''}{fixed} devices, and there are {available}: "
            "make an axis smaller, or start on more devices."
        )
    sizes = [available // fixed if size == -1 else size for size in sizes]
    if jax.process_count() > 1 and math.prod(sizes) < available:
        raise ConfigError(
            f"{asked} needs {fixed} of the {available} devices of all processes: use all, or start fewer."
        )
    devices = jax.devices()[: math.prod(sizes)]
    return jax.make_mesh(sizes, AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch is split: its first axis over both data axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows_of(devices: Iterable[jax.Device], mesh: Mesh, rows: int) -> list[int]:
    """Which rows of a batch lie on these devices, in order: a process's may stand anywhere in the mesh."""
    held = batch_sharding(mesh).devices_indices_map((rows,))
    return sorted({row for device in devices for row in range(rows)[held[device][0]]})


def place(batch: Any, mesh: Mesh) -> Any:
    """Puts a process's rows, those of `rows_of`, onto its devices; together the processes' rows are the batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), batch)


def shard_by_rules(rules: Sequence[Sequence[Any]], tree: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a tree of shapes.

    Args:
      rules: (regex, axes): for each axis of the leaf a mesh axis or None, aligned at the right, so that an axis of
        scanned layers at the left stays whole.
      tree: shapes of parameters, or of a state that holds some by name.
      mesh: the devices.

    Raises:
      ConfigError: a name that no rule covers, or an axis that does not divide, by name.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, rule: NamedSharding(mesh, _spec(path_name(path), leaf.shape, rule, mesh)),
        tree,
        match_rules(rules, tree),
    )


def _spec(name, shape, rule, mesh):
    if not shape:
        return PartitionSpec()
    if len(rule) > len(shape):
        raise ConfigError(f"the sharding rule {tuple(rule)} has more axes than {name}, whose shape is {shape}.")
    axes = (None,) * (len(shape) - len(rule)) + tuple(rule)
    for size, axis in zip(shape, axes):
        if axis is not None and axis not in mesh.shape:
            raise ConfigError(
                f"the sharding rule of {name} names the mesh axis '{axis}'; there are: {', '.join(AXES)}."
            )
        if axis is not None and size % mesh.shape[axis]:
            raise ConfigError(
                f"{name} has the shape {shape}, whose {size} does not divide by mesh.{axis}={mesh.shape[axis]}: "
                "change the mesh, the width, or the sharding rule of this parameter."
            )
    return PartitionSpec(*axes)
