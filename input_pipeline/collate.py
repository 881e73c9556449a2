"""How do rows become a batch?

Every array has the static shape of the stream's bucket; what is not there is masked. A rejected row is a hole.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Num

from input_pipeline import texts
from mmfuse.types import Batch, Example, Rejected, Signal, Text

DTYPES = {"image": np.uint8, "audio": np.float32}
CHANNELS = {"image": (3,), "audio": ()}


class Fitted(NamedTuple):
    """A decoded signal, as large as its bucket or smaller; `size` is its valid extent."""

    values: Num[np.ndarray, "..."]
    size: tuple[int, ...]


class Row(NamedTuple):
    """One example as a stream uses it, or the reason why it cannot.

    `pieces` are the texts that were chosen, by role; `example` is the record without its signals. Evaluators compare
    with them what they find.
    """

    source: str
    origin: tuple[int, int]
    concept: int
    signals: Mapping[str, Fitted]
    sequences: Mapping[str, Sequence[texts.Encoded]]
    pieces: Mapping[str, Sequence[texts.Piece]]
    rejected: Rejected | None = None
    example: Example | None = None


class Loaded(NamedTuple):
    """A batch and what the host remembers of it.

    Attributes:
      batch: the arrays.
      tally: `{source}/read`, `{source}/used` and `{source}/rejected/{reason}`, with read = used + Σ rejected; and
        `{source}/left_out/{role}`, texts of used records that found no room in a packed row.
      pieces: for each row, by role, the texts that were chosen.
      rejected: what could not be used, with its source.
      examples: for each row its record without signals, or None in a hole.
    """

    batch: Batch
    tally: Counter
    pieces: list[Mapping[str, Sequence[texts.Piece]]]
    rejected: list[tuple[str, Rejected]]
    examples: list[Example | None]


def collate(
    rows: Iterable[Row],
    number: int,
    signals: Mapping[str, tuple[int, ...]],
    text: Mapping[str, texts.TextSpec],
) -> Loaded:
    """Packs rows into a batch.

    Args:
      rows: at most `number`; missing ones are holes that are counted nowhere. The signals of a row are copied before
        the next one is taken, so that they need not all be in memory at once.
      number: B.
      signals: name → raw shape of the bucket: image (height, width), audio (samples,).
      text: role → number, length and packing of its texts.
    """
    batched = {name: _absent(name, shape, number) for name, shape in signals.items()}
    rows = [_place(batched, index, row) for index, row in enumerate(rows)]
    good = [(index, row) for index, row in enumerate(rows) if row.rejected is None]
    valid, concept, origin = np.zeros(number, bool), np.zeros(number, np.int32), np.full((number, 2), -1, np.int32)
    for index, row in good:
        valid[index], concept[index], origin[index] = True, row.concept, row.origin
    batch = Batch(
        batched,
        {role: _text(role, spec, good, number) for role, spec in text.items()},
        valid,
        concept,
        origin,
    )
    pieces = [row.pieces for row in rows] + [{}] * (number - len(rows))
    rejected = [(row.source, row.rejected) for row in rows if row.rejected]
    tally = _tally(rows) + _left_out(good, batch.text)  # a sum of counters has no zeros
    examples = [row.example for row in rows] + [None] * (number - len(rows))
    return Loaded(batch, tally, pieces, rejected, examples)


def _absent(name, shape, number):
    values = np.zeros((number, 1, *shape, *CHANNELS[name]), DTYPES[name])
    mask, anchor = np.zeros((number, 1), bool), np.zeros((number, 1), np.int32)
    return Signal(values, mask, anchor, np.zeros((number, 1, len(shape)), np.int32))


def _place(signals, index, row):
    """Copies the signals of a row into the batch, and returns what else there is of it."""
    for name, signal in signals.items():
        if name in row.signals:
            fitted = row.signals[name]
            signal.values[(index, 0, *(slice(extent) for extent in fitted.values.shape))] = fitted.values
            signal.item_mask[index, 0], signal.size[index, 0] = True, fitted.size
    return row._replace(signals={})


def _text(role, spec, rows, number):
    shape = (number, spec.number, spec.length)
    text = Text(np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32))
    for index, row in rows:
        for place, sequences in enumerate(texts.pack(row.sequences[role], spec)):
            end = 0
            for segment, sequence in enumerate(sequences, start=1):
                where = index, place, slice(end, end := end + len(sequence.ids))
                text.ids[where], text.segment[where], text.weight[where] = sequence.ids, segment, sequence.weight
    return text


def _tally(rows):
    tally = Counter()
    for row in rows:
        tally[f"{row.source}/read"] += 1
        tally[f"{row.source}/rejected/{row.rejected.reason}" if row.rejected else f"{row.source}/used"] += 1
    return tally


def _left_out(rows, text):
    tally = Counter()
    for role, packed in text.items():
        placed = packed.segment.max(axis=2).sum(axis=1)
        for index, row in rows:
            tally[f"{row.source}/left_out/{role}"] += len(row.sequences[role]) - int(placed[index])
    return tally
