"""Which examples does step n see?

A stream is a weighted mixture of sources, read in an order that is a function of (seed, step) alone: `stream[step]` is
that step's rows, whatever was read before, by however many threads. So resuming is starting at a step. Each source is
shuffled anew in every epoch; from the start to any row, each source has its share to within a few rows.

Each process of a job reads the rows of a step that its devices hold: together they are the same rows, in the same
order, however many processes there are.
"""

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import texts
from input_pipeline.collate import Loaded, Row, collate
from input_pipeline.fits import FITS, ImageFit
from input_pipeline.order import Mixture, shuffled
from input_pipeline.sources.contract import Source
from input_pipeline.tokenizers import CaptionTokenizer
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse.types import ConfigError, Example, Rejected

Record = tuple[str, int, int, Example | Rejected]  # name and number of a source, index in it, what stands there


# Rows that are made at once: their files are in memory, 80 MB of them if they are photographs of 5 MB. JPEGs of 77 kB
# took 1.41 ms of a busy core one by one, 1.27 by 8, 1.22 by 16, 1.18 by 64.
TOGETHER = 16
ORDER, EVALUATION, TRAINING = 1, 2, 3  # what a seed is derived for


class Drawn(NamedTuple):
    """A record whose turn it is, not yet read, and all random numbers that may be used for it."""

    name: str
    number: int
    source: Source
    index: int
    rng: np.random.Generator

    def read(self) -> Record:
        return self.name, self.number, self.index, self.source[self.index]


class Recipe:
    """How an example becomes a row: which signals and texts, in which shapes."""

    def __init__(
        self,
        signals: Mapping[str, tuple[int, ...]],
        text: Mapping[str, texts.TextSpec],
        tokenizer: CaptionTokenizer,
        augment: Mapping[str, Mapping[str, Any]] = {},  # read, never written
        resizing: Resizing | GridResizing | None = None,
    ):
        """Args: raw shape of each signal's bucket; what each role holds; the tokenizer; how each signal is changed, and
        images are resized.

        Raises:
          ConfigError: a signal, role, kind of text or change that is not there.
        """
        for name in signals:
            if name not in FITS:
                raise ConfigError(f"there is no signal '{name}'; there are: {', '.join(FITS)}.")
        for role, spec in text.items():
            texts.check_spec(role, spec)
        self.signals, self.text, self.tokenizer = signals, text, tokenizer
        self.fits = {name: FITS[name](augment.get(name, {})) for name in signals}
        if resizing and "image" in signals:
            self.fits["image"] = ImageFit(augment.get("image", {}), resizing)

    def prepare(self, record: Record, rng: np.random.Generator) -> Row:
        """Decodes, fits and tokenizes; whatever is wrong with the record becomes the row's reason."""
        return self.add_texts(self.fit(record, rng), rng)

    def decode(self, example: Example | Rejected) -> Example | Rejected:
        """The record with its signals decoded, as `fit` would decode them, and without those that nobody asked for."""
        if isinstance(example, Rejected):
            return example
        try:
            signals = {name: self.fits[name].decode(value, shape) for name, value, shape in self._wanted(example)}
        except BadRecord as bad:
            return Rejected(bad.reason, example.key)
        return example._replace(signals=signals)

    def fit(self, record: Record, rng: np.random.Generator) -> Row:
        """Decodes and fits the signals: a row without texts."""
        source, number, index, example = record
        row = Row(source, (number, index), 0, {}, {}, {})
        if isinstance(example, Rejected):
            return row._replace(rejected=example)
        try:
            fitted = {name: self.fits[name](value, shape, rng) for name, value, shape in self._wanted(example)}
        except BadRecord as bad:
            return row._replace(rejected=Rejected(bad.reason, example.key))
        return row._replace(signals=fitted, example=example._replace(signals={}))

    def add_texts(self, row: Row, rng: np.random.Generator) -> Row:
        """Chooses and tokenizes the texts of a row of `fit`."""
        example = row.example
        if example is None:
            return row
        try:
            pieces = {role: texts.choose(example, spec, rng) for role, spec in self.text.items()}
            sequences = {
                role: [texts.encode(piece, role, self.text[role].length, self.tokenizer) for piece in chosen]
                for role, chosen in pieces.items()
            }
            if self.text and not row.signals and not any(sequences.values()):
                raise BadRecord("nothing that is asked for")
        except BadRecord as bad:
            return Row(row.source, row.origin, 0, {}, {}, {}, rejected=Rejected(bad.reason, example.key))
        concept = np.uint32(zlib.crc32(f"{row.source}/{example.concept}".encode(errors="replace"))).view(np.int32)
        return row._replace(concept=int(concept), sequences=sequences, pieces=pieces)

    def _wanted(self, example: Example) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
        """Name, value and shape of the bucket of each signal that is asked for and there."""
        return ((name, example.signals[name], shape) for name, shape in self.signals.items() if name in example.signals)

    def collate(self, rows: Iterable[Row], number: int) -> Loaded:
        """Packs rows into a batch of `number` rows."""
        return collate(rows, number, self.signals, self.text)


class Batches:
    """The rows of a stream, so many at a time: batch n is the same whenever, and by whichever thread, it is read."""

    def __init__(
        self, draw: Callable[[int], Drawn], numbers: range, rows: int, recipe: Recipe, mine: Sequence[int] | None = None
    ):
        """Args: which record a row's number stands for; the numbers of all rows; how many are a batch; the recipe; the
        rows of a batch that are this process's, None: all."""
        self.draw, self.numbers, self.rows, self.recipe = draw, numbers, rows, recipe
        self.mine = range(rows) if mine is None else mine

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.rows)

    def __getitem__(self, step: int, /) -> Loaded:
        if not 0 <= step < len(self):
            raise IndexError(f"batch {step} of {len(self)}")
        batch = self.numbers[step * self.rows : (step + 1) * self.rows]
        numbers = [batch[row] for row in self.mine if row < len(batch)]
        parts = (numbers[first : first + TOGETHER] for first in range(0, len(numbers), TOGETHER))
        return self.recipe.collate((row for part in parts for row in self._make_rows(part)), len(self.mine))

    def __iter__(self) -> Iterator[Loaded]:
        return (self[step] for step in range(len(self)))

    def _make_rows(self, numbers: list[int]) -> list[Row]:
        """Draws, reads, decodes and tokenizes, each for all rows before the next.

        Between two decodings all else takes two to five times as long: a decoder leaves nothing of it in the caches.
        """
        drawn = [self.draw(number) for number in numbers]
        records = [each.read() for each in drawn]
        rows = [self.recipe.fit(record, each.rng) for record, each in zip(records, drawn)]
        return [self.recipe.add_texts(row, each.rng) for row, each in zip(rows, drawn)]


class _Part:
    """One source of a stream.

    Orders and random numbers are those of grain's `source.seed(seed).shuffle().repeat().random_map(…)`, without its
    data sets: they estimate what a record holds and keep statistics, in a tenth of the time of a record.
    """

    def __init__(self, name: str, number: int, source: Source, seed: int):
        self.name, self.number, self.source = name, number, source
        self.key = np.random.SeedSequence(seed).generate_state(2, np.uint64)

    def draw(self, index: int, place: int) -> Drawn:
        """Record `index`, with the random numbers that belong to this place of the source's order."""
        rng = np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, 0, place]))
        return Drawn(self.name, self.number, self.source, index, rng)


def training_stream(
    sources: Mapping[str, Source],
    weights: Mapping[str, float],
    recipe: Recipe,
    *,
    rows: int,
    seed: int,
    mine: Sequence[int] | None = None,
) -> Batches:
    """An endless stream: `stream[step]` is the `Loaded` batch of that step.

    Args:
      sources: in the order that numbers them in `Batch.origin`.
      weights: share of the rows that each source gives; normalised.
      recipe: how examples become rows.
      rows: B over all processes.
      seed: of order and choice.
      mine: the rows of a step that are this process's, in order; None: all.

    Raises:
      ConfigError: a weight that is not positive.
    """
    if not all(weights[name] > 0 for name in sources):
        raise ConfigError(f"the mixture {dict(weights)} has a weight that is not above 0: leave that source out.")
    mixture, parts, orders = Mixture([weights[name] for name in sources]), [], []
    for number, (name, source) in enumerate(sources.items()):
        own = seed + 1000 * number
        parts.append(_Part(name, number, source, _derived(own, TRAINING)))
        orders.append(_derived(own, ORDER))

    def draw(number: int) -> Drawn:
        which, place = mixture[number]
        part = parts[which]
        return part.draw(shuffled(place, len(part.source), orders[which]), place)

    return Batches(draw, range(sys.maxsize), rows, recipe, mine)


def evaluation_stream(name: str, source: Source, recipe: Recipe, *, rows: int, examples: int | None = None) -> Batches:
    """A finite stream over the first `examples` records in order; the last batch is filled with holes."""
    part = _Part(name, 0, source, _derived(0, EVALUATION))
    numbers = range(min(examples or len(source), len(source)))
    return Batches(lambda number: part.draw(number, number), numbers, rows, recipe)


def _derived(seed: int, use: int) -> int:
    """A seed of 32 bits for one of several uses."""
    return int(np.random.SeedSequence([seed, use]).generate_state(1)[0])
