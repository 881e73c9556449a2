"""Which tensor of theirs is which parameter of ours?

One table for each family, read in both directions. A row says: their tensor, once for each layer where its name has a
"{}", is these parameters of ours, one after another along the first axis of theirs.

    Row("{}.self_attn.q_proj.weight", ("…/query/kernel",), LINEAR)      theirs (out in)    ours (in out), layers stacked

Every tensor is used, or ignored with a reason; every parameter is filled; otherwise an error prints the difference.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmfuse.types import CheckpointError

SHOWN = 20  # lines of a difference


class Layout(NamedTuple):
    """How a tensor of theirs becomes a parameter: its axes in this order, then a reshape to our shape.

    Attributes:
      axes: of theirs, in the order in which ours has them; None: as they are.
      shape: of theirs, where ours has another number of axes; None: that of ours, its axes put back.
    """

    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None

    def their_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs, given that of ours."""
        if self.shape is not None:
            return self.shape
        return ours if self.axes is None else tuple(ours[axis] for axis in np.argsort(self.axes))

    def to_ours(self, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A parameter of ours."""
        return (theirs if self.axes is None else theirs.transpose(self.axes)).reshape(shape)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """A tensor of theirs."""
        shape = self.their_shape(ours.shape)
        if self.axes is None:
            return ours.reshape(shape)
        return ours.reshape([shape[axis] for axis in self.axes]).transpose(np.argsort(self.axes))


SAME, LINEAR = Layout(), Layout(axes=(1, 0))


def convolution(patch: tuple[int, int], channels: int, width: int) -> Layout:
    """A convolution whose stride is its size (D c ph pw), which is a product with a patch's pixels (phwc D)."""
    return Layout((2, 3, 1, 0), (width, channels, *patch))


class Row(NamedTuple):
    """One line of a table."""

    theirs: str
    ours: tuple[str, ...]
    layout: Layout = SAME

    @property
    def layered(self) -> bool:
        """Whether theirs is one tensor for each layer, and ours has them stacked."""
        return "{}" in self.theirs


class Table(NamedTuple):
    """All rows of a family, and tensors that are not used: regex → why not."""

    rows: tuple[Row, ...]
    ignored: Mapping[str, str]

    def their_shapes(self, ours: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The tensors of theirs, given our parameters or their shapes.

        Raises:
          CheckpointError: a parameter is in no row, or in two; or a row's parameter is not there.
        """
        listed = [name for row in self.rows for name in row.ours]
        stray = sorted((set(listed) ^ set(ours)) | {name for name in listed if listed.count(name) > 1})
        if stray:
            raise CheckpointError(f"the model and the table of its family differ in {len(stray)}: {', '.join(stray)}.")
        return {name: _shape(row, ours) for row in self.rows for name, _ in _numbered(row, ours)}

    def check(self, theirs: Mapping[str, Any], ours: Mapping[str, Any], where: object) -> None:
        """Raises CheckpointError, with the difference, unless theirs has just the tensors that ours need."""
        stacked = [ours[row.ours[0]] for row in self.rows if row.layered and row.ours[0] in ours]
        layers = max((parameter.shape[0] for parameter in stacked), default=0)
        if layers > len(theirs):
            raise CheckpointError(f"the config of {where} has {layers} layers, and there are {len(theirs)} tensors.")
        wanted = {name: str(list(shape)) for name, shape in self.their_shapes(ours).items()}
        given = {name: str(list(entry.shape)) for name, entry in theirs.items() if not self._ignores(name, wanted)}
        lines = [
            f"  {name}: {given.get(name, 'missing')} in the file, {wanted.get(name, 'not used')} in the model"
            for name in sorted(wanted | given)
            if given.get(name) != wanted.get(name)
        ]
        if lines:
            more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            raise CheckpointError(
                f"the tensors of {where} do not fit its config; {len(lines)} differ:\n"
                + "\n".join(lines[:SHOWN] + more)
                + "\nUse the config that the weights were saved with."
            )

    def to_ours(self, read: Callable[[str], np.ndarray], shapes: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        """Yields each of our parameters in float32; `read` gives a tensor of theirs by name, when it is needed."""
        for row in self.rows:
            made = {name: _aligned(shapes[name].shape) for name in row.ours}
            for theirs, index in _numbered(row, shapes):
                tensor, start = read(theirs), 0
                for parameter in made.values():
                    part = parameter[index]
                    end = start + (row.layout.their_shape(part.shape) or (1,))[0]
                    piece = tensor if len(made) == 1 else tensor[start:end]
                    part[...], start = row.layout.to_ours(piece.astype(np.float32, copy=False), part.shape), end
            yield from made.items()

    def to_theirs(self, ours: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]:
        """Yields name, shape, and a function that makes the array, of each tensor of theirs."""
        self.their_shapes(ours)
        for row in self.rows:
            for theirs, index in _numbered(row, ours):
                yield theirs, _shape(row, ours), lambda row=row, index=index: _join(row, ours, index)

    def _ignores(self, name, wanted):
        return name not in wanted and any(re.search(pattern, name) for pattern in self.ignored)


def _numbered(row, ours):
    """Each name of theirs with what takes its part out of ours."""
    if not row.layered:
        return [(row.theirs, ...)]
    return [(row.theirs.format(layer), layer) for layer in range(ours[row.ours[0]].shape[0])]


def _shape(row, ours):
    shapes = [row.layout.their_shape(tuple(ours[name].shape[row.layered :])) for name in row.ours]
    return shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _join(row, ours, index):
    parts = [row.layout.to_theirs(np.asarray(ours[name][index], np.float32)) for name in row.ours]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty array that begins at a multiple of 64 bytes: JAX on a CPU takes such memory over, others it copies."""
    size = 4 * math.prod(shape)
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)
