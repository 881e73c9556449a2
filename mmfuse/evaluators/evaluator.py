"""What is an evaluator?

It is called with the state and returns named numbers: `evaluator(state) → dict`. It goes over a finite stream, runs one
compiled function on each batch, and counts on the host. Every process reads the whole stream and holds its own part
of each batch on its devices; results are the same everywhere.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline.collate import Loaded
from input_pipeline.loader import Stream, load
from mmfuse.training.sharding import batch_sharding, replicated
from mmfuse.training.state import TrainState
from mmfuse.types import Batch, Example


@runtime_checkable
class FiniteStream(Stream, Protocol):
    """A stream of so many batches."""

    def __len__(self) -> int: ...


class Sweep:
    """One compiled function over all batches of a finite stream.

    After a call `rejected` has the keys of records that were, and `first` the first batch with what was computed of it.
    """

    def __init__(self, stream: FiniteStream, function: Callable[[TrainState, Batch], Any], mesh: Mesh, *, workers: int):
        """Args: the stream; what to compute of a batch; the devices; threads that read ahead."""
        self.stream, self.sharding, self.workers = stream, batch_sharding(mesh), workers
        self.function = jax.jit(function, out_shardings=replicated(mesh))
        self.rejected: set[str] = set()
        self.first: tuple[Loaded, Any] | None = None

    def __call__(self, state: TrainState) -> Iterator[tuple[Loaded, Any]]:
        """Yields each batch with what was computed of it, as numpy."""
        self.rejected, self.first = set(), None
        for ready in load({"stream": self.stream}, range(len(self.stream)), workers=self.workers):
            loaded = ready["stream"]
            self.rejected |= {record.key for _, record in loaded.rejected}
            found = loaded, jax.tree.map(np.asarray, self.function(state, self.place(loaded.batch)))
            self.first = self.first or found
            yield found

    def joined(self, state: TrainState) -> tuple[Any, list[Example]]:
        """What is computed of all rows that have a record, joined, and those records."""
        parts, examples = [], []
        for loaded, found in self(state):
            parts.append(jax.tree.map(lambda array, valid=loaded.batch.valid: array[valid], found))
            examples += [example for example in loaded.examples if example is not None]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts), examples

    def place(self, batch: Any) -> Any:
        """Arrays of a whole batch, which every process has, split over the devices."""

        def split(array):
            return jax.make_array_from_callback(array.shape, self.sharding, lambda index: array[index])

        return jax.tree.map(split, batch)


@runtime_checkable
class Evaluator(Protocol):
    """The form that every evaluator has; a dict of numbers, by names that its own name is put before.

    `sweep` is what it goes over its stream with.
    """

    sweep: Sweep

    def __call__(self, state: TrainState) -> dict[str, float]: ...
