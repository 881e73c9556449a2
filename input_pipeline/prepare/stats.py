"""What is in a set of tars: how large, how long, how often, and what occurs twice?

    python -m input_pipeline.prepare stats --shards 'DIR/*.tar' --tokenizer=DIR --json=stats.json

Sizes and durations are what headers say: use `verify` to know what can be decoded. Medians are exact. Memory grows by
some 300 bytes a record, most of it for the hashes that find duplicates; `--limit` bounds it.
"""

import argparse
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.prepare.measures import difference_hash, hash64, image_size
from input_pipeline.prepare.output import require_writable
from input_pipeline.prepare.table import format_table
from input_pipeline.sources.contract import Source, spread
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.tokenizers import Tokenizer
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import audio_seconds
from input_pipeline.transforms.text import clean_text
from mmfuse.types import Caption, ConfigError, Example, Rejected

MOST_REPEATED = 10
SHOWN_CHARS = 60  # of a repeated caption in the table; the JSON has it whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--shards", required=True, nargs="+", help="patterns of tars")
    parser.add_argument("--limit", type=int, help="the most records to look at, evenly spread; all if absent")
    parser.add_argument("--tokenizer", help="folder of a tokenizer, to count tokens of captions too")
    parser.add_argument("--json", help="a file for the numbers as JSON")


def run(options: argparse.Namespace) -> str:
    """Measures the records and returns a table."""
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit is {options.limit}: write 1 or more, or leave it out.")
    if options.json:
        require_writable(options.json)
    tokenizer = Tokenizer.load(options.tokenizer) if options.tokenizer else None
    stats = measure_source(Webdataset(options.shards), options.limit, tokenizer)
    if options.json:
        text = json.dumps(stats, indent=1, ensure_ascii=False)
        # A lone surrogate, which UTF-8 cannot hold, becomes the escape that JSON has for it.
        Path(options.json).write_bytes(f"{text}\n".encode(errors="backslashreplace"))
    return format_stats(stats)


def measure_source(source: Source, limit: int | None = None, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """Measures up to `limit` records of a source, evenly spread.

    Returns:
      records: those in the source, read, used; rejected: reason → number.
      numbers: quantity → {"count", "min", "median", "max"}. Heights and widths in pixels, aspect as the longer side by
        the shorter, audio in seconds, captions per record, and their length in characters and tokens.
      names: languages of captions and kinds of questions, each → number.
      duplicates: images whose bytes, or whose difference hash, an earlier image has; captions that are an earlier one.
      repeated_captions: the most frequent ones as [number, text].
    """
    rejected: Counter[str] = Counter()
    tally, number = _Tally(tokenizer), 0
    for example in spread(source, len(source) if limit is None else limit):
        number += 1
        try:
            if isinstance(example, Rejected):
                raise BadRecord(example.reason)
            tally.add(example)
        except BadRecord as bad:
            rejected[bad.reason] += 1
    records = {"all": len(source), "read": number, "used": number - rejected.total()}
    return {"records": records, "rejected": dict(sorted(rejected.items())), **tally.summary()}


class _Tally:
    """What was seen so far. A record with a bad part leaves no trace."""

    def __init__(self, tokenizer: Tokenizer | None):
        self.tokenizer = tokenizer
        self.numbers: dict[str, array] = {}
        self.languages: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.images, self.hashes, self.captions = (Counter() for _ in range(3))
        self.repeated: dict[int, str] = {}  # texts from their second time on: most captions occur once

    def add(self, example: Example) -> None:
        """Measures a record, and counts it if no part of it is bad."""
        texts = [clean_text(caption.text) for caption in example.captions]
        numbers = [*_measure_signals(example), ("captions per record", len(texts)), *self._measure_texts(texts)]
        image = example.signals.get("image")
        if image is not None:
            self.hashes[difference_hash(image)] += 1
            self.images[hash64(image)] += 1
        for quantity, value in numbers:
            self.numbers.setdefault(quantity, array("d")).append(value)
        for caption, text in zip(example.captions, texts, strict=True):
            self._add_caption(caption, text)
        self.kinds.update(question.kind for question in example.questions)

    def _measure_texts(self, texts: Sequence[str]) -> Iterator[tuple[str, int | float]]:
        for text in texts:
            yield "caption characters", len(text)
            if self.tokenizer:
                yield "caption tokens", len(self.tokenizer.encode(text))

    def _add_caption(self, caption: Caption, text: str) -> None:
        self.languages[caption.language] += 1
        key = hash64(text.encode())
        self.captions[key] += 1
        if self.captions[key] == 2:
            self.repeated[key] = text

    def summary(self) -> dict[str, Any]:
        """What `measure_source` returns but for the records."""
        seen = {"images": self.images, "images, nearly": self.hashes, "captions": self.captions}
        repeated = sorted((-self.captions[key], text) for key, text in self.repeated.items())[:MOST_REPEATED]
        return {
            "numbers": {quantity: _spread(values) for quantity, values in self.numbers.items()},
            "names": {"language": _ranked(self.languages), "kind of question": _ranked(self.kinds)},
            "duplicates": {what: counts.total() - len(counts) for what, counts in seen.items()},
            "repeated_captions": [[-number, text] for number, text in repeated],
        }


def _measure_signals(example: Example) -> Iterator[tuple[str, int | float]]:
    if "image" in example.signals:
        height, width = image_size(example.signals["image"])
        yield "image height", height
        yield "image width", width
        yield "image aspect", max(height, width) / min(height, width)
    if "audio" in example.signals:
        yield "audio seconds", audio_seconds(example.signals["audio"])


def _spread(values: array) -> dict[str, int | float]:
    least, median, most = np.quantile(np.asarray(values), (0, 0.5, 1)).tolist()
    return {"count": len(values), "min": least, "median": median, "max": most}


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def format_stats(stats: dict[str, Any]) -> str:
    """Returns what `measure_source` found as tables, one below the other."""
    spreads = [
        (quantity, spread["count"], *(f"{spread[name]:,.6g}" for name in ("min", "median", "max")))
        for quantity, spread in stats["numbers"].items()
    ]
    parts = {"records": stats["records"], "rejected": stats["rejected"], "duplicates": stats["duplicates"]}
    counts = [
        (title, name, number) for title, part in (parts | stats["names"]).items() for name, number in part.items()
    ]
    repeated = [(number, repr(text[:SHOWN_CHARS])) for number, text in stats["repeated_captions"]]
    tables = [format_table(counts), format_table([("", "count", "min", "median", "max"), *spreads])]
    if repeated:
        tables.append("most repeated captions\n" + format_table(repeated))
    return "\n\n".join(tables)
