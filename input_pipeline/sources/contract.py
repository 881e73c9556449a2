"""What is a source?

Random access is what makes a run resumable to the exact example; a bad record is a value with a reason, so that
`read = used + Σ rejected[reason]` holds. Sources need not inherit from anything. Their constructors take `signals`, the
modalities that somebody wants: a source makes or reads those of them that it has, and no other. One whose records lie
in files may have a `fingerprint`, a text that differs where the files do: a run does not go on with others.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmfuse.types import Example, Rejected

TELLING = 4096  # bytes


@runtime_checkable
class Source(Protocol):
    """A data set with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example | Rejected:
        """Returns record `index` of 0 … len − 1, always the same one; raises IndexError beyond."""
        ...


def spread(source: Source, number: int) -> Iterator[Example | Rejected]:
    """Yields `number` records of a source, one drawn from each of as many even stretches; all where it has no more.

    Always the same ones. In even strides they would all be of one kind where kinds take turns.
    """
    number, rng = min(number, len(source)), np.random.default_rng(0)
    for step in range(number):
        first, end = step * len(source) // number, (step + 1) * len(source) // number
        yield source[int(rng.integers(first, end))]


def concept_of(given: str | None, signals: Mapping[str, Any], key: str) -> str:
    """What a record shows: what it says; else which image it has, or which sound; else itself.

    The end of a compressed file and its length tell it from any other.
    """
    if given:
        return given
    for modality in ("image", "audio"):
        if isinstance(data := signals.get(modality), bytes):
            return f"{modality}:{len(data)}:{zlib.crc32(data[-TELLING:]):08x}"
    return key
