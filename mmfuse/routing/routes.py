"""Which program answers an example, when the towers that its gates have shut are not in the program at all?

At inference the examples of a batch are sorted by route, which is the set of modalities that are open, and each route
is answered by a program made for batches that have these modalities alone:

    decide ─ open gates ─ rows of one route, of few sizes ─ its program ─ answers, each where its row was

A program is made once for each (task, modalities, shapes). In training, and where one program has to serve all, see
`capacity.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

from mmfuse.types import Batch


class Route(NamedTuple):
    """What a program is made for."""

    task: str
    modalities: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the arrays of its batches


class Routes:
    """Programs by route, and how often one was there already.

    Attributes:
      programs: Route → what the compiler made of `compute`.
      uses: Route → batches that it has answered.
      misses: batches for which a program had to be made.
      invalidated: how often all programs were dropped, since the parameters had other shapes, dtypes or places.
    """

    def __init__(
        self,
        task: str,
        decide: Callable[[Any, Batch], Mapping[str, Bool[jax.Array, "B"]]],
        compute: Callable[[Any, Batch], Any],
        *,
        sizes: Sequence[int],
    ):
        """Keeps no program yet.

        Args:
          task: what `compute` does.
          decide: (parameters, batch) → modality → open.
          compute: (parameters, batch) → tree of (B …), each row by itself; also of a batch that lacks modalities.
          sizes: of batches that programs are made for; fewer rows are filled up.
        """
        self.task, self.sizes = task, tuple(sorted(sizes))
        self.decide, self.compute = jax.jit(decide), jax.jit(compute)
        self.programs: dict[Route, Any] = {}
        self.uses: Counter[Route] = Counter()
        self.misses = self.invalidated = 0
        self._made_for: Any = None

    def __call__(self, parameters: Any, batch: Batch) -> Any:
        """Returns what `compute` makes of each row (B …), as numpy; zeros for holes."""
        self._check(parameters)
        batch = jax.tree.map(np.asarray, batch)
        opened = {name: np.asarray(gate) for name, gate in self.decide(parameters, batch).items()}
        answers = None
        for modalities, rows in sort_rows(opened, batch.valid):
            for some in self._cut(rows):
                filled = np.resize(some, next(size for size in self.sizes if size >= len(some)))
                # of rows that have nothing open, nothing is there, and all towers may look at that
                part = _take(batch, filled, closed=opened.keys() - set(modalities) if modalities else ())
                out = jax.tree.map(np.asarray, self._program(modalities, parameters, part)(parameters, part))
                if answers is None:
                    answers = jax.tree.map(lambda leaf: np.zeros((len(batch.valid), *leaf.shape[1:]), leaf.dtype), out)
                for answer, leaf in zip(jax.tree.leaves(answers), jax.tree.leaves(out), strict=True):
                    answer[some] = leaf[: len(some)]
        return answers

    @property
    def hits(self) -> int:
        """Batches for which a program was there."""
        return self.uses.total() - self.misses

    def _check(self, parameters):
        made_for = jax.tree.map(jax.typeof, parameters)
        if self.programs and made_for != self._made_for:
            self.programs.clear()
            self.invalidated += 1
        self._made_for = made_for

    def _cut(self, rows) -> Iterator[Int[np.ndarray, "n"]]:
        for start in range(0, len(rows), self.sizes[-1]):
            yield rows[start : start + self.sizes[-1]]

    def _program(self, modalities, parameters, part):
        route = Route(self.task, modalities, tuple(leaf.shape for leaf in jax.tree.leaves(part)))
        self.uses[route] += 1
        if route not in self.programs:
            self.misses += 1
            self.programs[route] = self.compute.lower(parameters, part).compile()
        return self.programs[route]


def sort_rows(
    opened: Mapping[str, Bool[np.ndarray, "B"]], valid: Bool[np.ndarray, "B"]
) -> Iterator[tuple[tuple[str, ...], Int[np.ndarray, "n"]]]:
    """Each route that some valid row takes, and the rows that take it."""
    names = tuple(opened)
    decisions = np.array([opened[name] for name in names], bool).reshape(len(names), len(valid)).T
    for decision in np.unique(decisions[valid], axis=0):
        modalities = tuple(name for name, is_open in zip(names, decision) if is_open)
        yield modalities, np.flatnonzero(valid & (decisions == decision).all(axis=1))


def _take(batch, rows, *, closed):
    """Those rows, without what is closed."""
    part = jax.tree.map(lambda array: array[rows], batch)
    signals = {name: signal for name, signal in part.signals.items() if name not in closed}
    return part._replace(signals=signals, text={role: text for role, text in part.text.items() if role not in closed})
