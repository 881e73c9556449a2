"""What do the data have of what a config asks for?

A config for anyone's data asks for every modality. Before such a run is made, a sample of its records is looked at, and
what no record has is left out: the signal, its tower, the objectives and the evaluations that need it. Sounds get the
room that nearly all of the sample need. Only configs with a `survey` are changed; others mean what they say, but for
evaluators that are `optional`: without data they are left out.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.sources.contract import Source, spread
from input_pipeline.texts import TAKES
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.audio import decode_audio
from mmfuse import build_data
from mmfuse.types import AUDIO_RATE, ConfigError, DataError, Example, Rejected

LOGGER = logging.getLogger(__name__)
LONGER = 0.02  # share of the sounds whose end may be left out


def survey(sources: Iterable[Source], records: int) -> frozenset[str]:
    """Returns the signals, and the keys of `input_pipeline.texts.TAKES`, that some record of a sample has.

    Args:
      sources: to look into.
      records: of each source, evenly spread.

    Raises:
      DataError: not one record of the sample can be used.
    """
    found, reasons = set(), set()
    for source in sources:
        for record in spread(source, records):
            if isinstance(record, Rejected):
                reasons.add(f"{record.key}: {record.reason}")
                continue
            found |= {*record.signals, *(take for take, texts in TAKES.items() if texts(record))}
    if not found:
        raise DataError(f"none of the records looked at can be used: {'; '.join(sorted(reasons)[:3])}.")
    return frozenset(found)


def fit_to_data(config: ConfigDict, saved: Mapping[str, Any]) -> ConfigDict:
    """Leaves out of a config with a `survey` what its sources do not have.

    Args:
      config: resolved.
      saved: the config that the workdir's run began with, whose findings stand; empty where none has begun.

    Raises:
      ConfigError: fewer than two modalities are left.
    """
    config = without_unnamed(config)
    if "survey" not in config:
        return config
    if "survey" in saved:
        return give_room(keep(config, saved["survey"]["found"]), saved["survey"]["longest"])
    for name in sorted(name for name, shards in config.data.items() if not shards):
        raise ConfigError(f"data.{name} names no shards: write --config.data.{name}='shards/*.tar'.")
    signals = sorted({signal for stream in config.streams.values() for signal in stream.signals})
    sources = [build_data.make_source(source, signals) for source in config.sources.values()]
    found = sorted(survey(sources, config.survey.records))
    LOGGER.info("the records have: %s", ", ".join(found))
    config = keep(config, found)
    if "audio" not in found:
        return config
    return give_room(config, long_sound(sources, config.survey.records, config.model.towers.audio.samples))


def without_unnamed(config: ConfigDict) -> ConfigDict:
    """The config without those `optional` evaluators whose shards nobody has named."""
    unnamed = [
        name
        for name, evaluator in config.evaluators.items()
        if evaluator.get("optional", False) and not evaluator.source.shards
    ]
    if unnamed:
        config = config.copy_and_resolve_references()
        with config.unlocked():
            for name in unnamed:
                del config.evaluators[name]
    return config


def keep(config: ConfigDict, found: Sequence[str]) -> ConfigDict:
    """The config without what is not in `found`, see `survey`."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.survey.found = tuple(found)
        for stream in config.streams.values():
            _keep_inputs(stream, found)
        given = {name for stream in config.streams.values() for name in (*stream.signals, *stream.text)}
        for objective in config.objectives.values():
            _keep_pairs(objective, given)
        if "target" not in given and "single" in config.model:
            del config.model.single
        config.objectives = _with_pairs(config.objectives, generates="target" in given)
        for stream in config.streams.values():
            stream.objectives = {
                name: weight for name, weight in stream.objectives.items() if name in config.objectives
            }
        config.model.towers = {
            name: tower
            for name, tower in config.model.towers.items()
            if (name if name != "text" else "caption") in given
        }
        if "single" in config.model:
            config.model.single.memories = tuple(name for name in config.model.single.memories if name in given)
        for evaluator in config.evaluators.values():
            _keep_inputs(evaluator.stream, found)
            _keep_pairs(evaluator, given)
        config.evaluators = _with_pairs(config.evaluators, generates="single" in config.model)
    if len(config.model.towers) < 2:
        raise ConfigError(f"the records have {', '.join(sorted(found))} and no second modality to learn from.")
    return config


def long_sound(sources: Iterable[Source], records: int, most: int) -> int:
    """Returns samples that are enough for all but `LONGER` of the sounds of so many records of each source, at most
    `most`."""
    lengths = []
    for record in (record for source in sources for record in spread(source, records)):
        if isinstance(record, Example) and "audio" in record.signals:
            sound = record.signals["audio"]
            try:
                wave = decode_audio(sound, max_seconds=most / AUDIO_RATE) if isinstance(sound, bytes) else sound
            except BadRecord:
                continue  # it will be counted when it is read
            lengths.append(len(wave))
    return min(int(np.quantile(lengths, 1 - LONGER, method="higher")), most) if lengths else 0


def give_room(config: ConfigDict, samples: int) -> ConfigDict:
    """The config, resolved, with room for sounds of so many samples, in whole patches; 0 samples change nothing."""
    if not samples:
        return config
    tower = config.model.towers.audio
    patch = tower.hop * tower.patch[0]
    with config.unlocked():
        config.survey.longest = samples
        tower.samples = min(tower.samples, -(-samples // patch) * patch)
        streams = *config.streams.values(), *(evaluator.stream for evaluator in config.evaluators.values())
        for stream in streams:
            if "audio" in stream.signals:
                stream.signals.audio = (tower.samples,)
    return config


def _keep_inputs(stream: ConfigDict, found: Sequence[str]) -> None:
    stream.signals = {name: shape for name, shape in stream.signals.items() if name in found}
    if "augment" in stream:
        stream.augment = {name: changes for name, changes in stream.augment.items() if name in found}
    stream.text = {role: spec for role, spec in stream.text.items() if spec["take"] in found}


def _keep_pairs(part: ConfigDict, given: set[str]) -> None:
    if "between" in part:
        part.between = tuple(pair for pair in part.between if set(pair) <= given)


def _with_pairs(parts: ConfigDict, *, generates: bool) -> dict[str, ConfigDict]:
    """Those that compare something, and those that generate where something can be generated."""
    return {name: part for name, part in parts.items() if (part.between if "between" in part else generates)}
