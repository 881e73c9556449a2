"""Where do records come from, and how do they become rows?

The table of sources. A new one is its file, its test, and one row here; what a row of a batch holds is read from the
stream's part of the config.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline.decoded import decode_once
from input_pipeline.sources.arrow import Arrow
from input_pipeline.sources.contract import Source
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.jsonl import Jsonl
from input_pipeline.sources.parquet import Parquet
from input_pipeline.sources.scenes import Scenes
from input_pipeline.sources.tfds import Tfds
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.streams import Batches, Recipe, training_stream
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import CaptionTokenizer, Tokenizer, source_texts, train_tokenizer
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse.build_towers import lookup
from mmfuse.types import Example, Question
from mmfuse.weights.tokenizer import ReleasedTokenizer

SOURCES: dict[str, Callable[..., Source]] = {
    "scenes": Scenes,
    "digits": Digits,
    "webdataset": Webdataset,
    "jsonl": Jsonl,
    "parquet": Parquet,
    "arrow": Arrow,
    "tfds": Tfds,
}


def make_source(config: ConfigDict, signals: Iterable[str]) -> Source:
    """A source that gives these signals and all its texts."""
    plain = {key: dict(value) if isinstance(value, ConfigDict) else value for key, value in config.items()}
    arguments = {key: value for key, value in plain.items() if key != "kind"}
    return lookup(SOURCES, config.kind, "source")(**arguments, signals=tuple(signals))


def read_questions(config: ConfigDict) -> list[Question]:
    """The questions of the first `records` records of a source, no signal of which is made."""
    source = make_source(config.source, ())
    records = (source[index] for index in range(min(config.records, len(source))))
    return [question for record in records if isinstance(record, Example) for question in record.questions]


def make_tokenizer(config: ConfigDict, folder: Path) -> CaptionTokenizer:
    """The tokenizer in `folder`; where none is there, that of a folder that is named, or one of the sources' texts."""
    if "folder" in config.tokenizer:
        there = folder if folder.exists() else config.tokenizer.folder
        return ReleasedTokenizer(there, most=config.tokenizer.vocabulary)
    if folder.exists():
        return Tokenizer.load(folder)
    sources = [make_source(source, ()) for source in config.sources.values()]
    return train_tokenizer(source_texts(sources, config.tokenizer.examples), vocab_size=config.tokenizer.vocabulary)


def make_text_specs(config: ConfigDict) -> dict[str, TextSpec]:
    """What each role of a stream's texts holds."""
    for key in (key for spec in config.text.values() for key in spec):
        lookup(TextSpec.__annotations__, key, "setting of a text")
    return {role: TextSpec(**spec) for role, spec in config.text.items()}


def make_resizing(config: ConfigDict) -> Resizing | GridResizing | None:
    """Whose way of resizing the pictures of a stream are resized in; None: our own."""
    if "resize" not in config:
        return None
    kind = GridResizing if "places" in config.resize else Resizing
    for key in config.resize:
        lookup(kind.__annotations__, key, "setting of resize")
    return kind(**config.resize)


def make_recipe(config: ConfigDict, tokenizer: CaptionTokenizer) -> Recipe:
    """How a stream's examples become rows."""
    augment = config.augment.to_dict() if "augment" in config else {}
    return Recipe(dict(config.signals), make_text_specs(config), tokenizer, augment, make_resizing(config))


def make_training_stream(
    config: ConfigDict, name: str, tokenizer: CaptionTokenizer, *, mine: Sequence[int] | None = None
) -> Batches:
    """The stream of that name; `mine` are the rows of a step that are this process's, None: all."""
    stream = config.streams[name]
    recipe = make_recipe(stream, tokenizer)
    sources = {}
    for source in stream.mixture:
        encoded = make_source(config.sources[source], stream.signals)
        sources[source] = decode_once(encoded, recipe.decode, limit=config.loader.get("memory", 0) * 10**6)
    seed = config.seed + 1_000_000 * list(config.streams).index(name)
    return training_stream(sources, dict(stream.mixture), recipe, rows=stream.rows, seed=seed, mine=mine)
