"""What is a source?

Random access is what makes a run resumable to the exact example; a bad record is a value with a reason, so that
`read = used + Σ rejected[reason]` holds. Sources need not inherit from anything. Their constructors take `signals`, the
modalities that somebody wants: a source makes or reads those of them that it has, and no other.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from mmfuse.types import Example, Rejected


@runtime_checkable
class Source(Protocol):
    """A data set with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example | Rejected:
        """Returns record `index` of 0 … len − 1, always the same one; raises IndexError beyond."""
        ...


def spread(source: Source, number: int) -> Iterator[Example | Rejected]:
    """Yields `number` records of a source, evenly spread; all of them where it has no more."""
    number = min(number, len(source))
    for step in range(number):
        yield source[step * len(source) // number]
