"""Where do records come from, and how do they become rows?

The table of sources. A new one is its file, its test, and one row here; what a row of a batch holds is read from the
stream's part of the config.
"""

from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from input_pipeline.sources.arrow import Arrow
from input_pipeline.sources.contract import Source
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.jsonl import Jsonl
from input_pipeline.sources.parquet import Parquet
from input_pipeline.sources.scenes import Scenes
from input_pipeline.sources.tfds import Tfds
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.streams import Recipe
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import CaptionTokenizer
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse.build_towers import lookup
from mmfuse.types import Example, Question

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
