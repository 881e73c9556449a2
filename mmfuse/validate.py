"""Can this config be run?

Everything that would fail later, or would run and mean nothing, is refused here in one sentence that says what to write
instead, before anything is allocated. Unknown names of parts are refused by `lookup` with the nearest one.
"""

import math
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.fits import FITS
from input_pipeline.texts import ASKED, LEAST_LENGTH, TAKES, check_spec
from input_pipeline.transforms.resizing import GridResizing, Resizing
from mmfuse import build_data, build_goals
from mmfuse.build_towers import lookup
from mmfuse.evaluators.classification import check_classes
from mmfuse.inference.decoding import make_decoding
from mmfuse.objectives.matching import FOIL, FOILED
from mmfuse.training.workdir import flatten
from mmfuse.types import ConfigError
from mmfuse.validate_model import check_compared, check_model, require

# Numbers that may be below zero, and those that must be above it, by the ends of their names. Those of a decoding are
# judged by `make_decoding`.
ANY_SIGN = re.compile(r"(^mesh\.\w+|dual\.bias|augment\.audio\.noise_db)$")
POSITIVE = re.compile(
    r"(?<!\.decoding)(?<!projection)\.(rows|records|number|length|examples|chunk|tokens|width|single\.depth|heads|"
    r"key_heads|pairs|mlp|blocks|cross_every|embedding|temperature(\.(start|end))?|"
    r"consensus\.questions|steps|evaluate_every|every|keep|accumulate|learning_rate|clip|mates|hop|window|bands|samples|image|patch|places|at)$|^log_every$"
)
# What evaluators take from their streams.
GIVEN = {
    "answering": lambda evaluator: {"prompt"},
    "captioning": lambda evaluator: {"prompt", "target"},
    "retrieval": lambda evaluator: set(sum(evaluator.between, ())),
    "classification": lambda evaluator: {evaluator.signal},
    "gating": lambda evaluator: set(),
    "agreement": lambda evaluator: set(),
}
# What they can use of texts: answers of questions, captions of what are no questions.
USED = {
    ("answering", "prompt"): ASKED,
    ("captioning", "prompt"): tuple(take for take in TAKES if take != "questions"),
    ("captioning", "target"): tuple(take for take in TAKES if take not in ASKED),
}
# The part of the model that an evaluator is about, and what it does with it.
ABOUT = {
    "gating": ("router", "is about gates"),
    "agreement": ("consensus", "compares modalities"),
    **dict.fromkeys(("retrieval", "classification"), ("dual", "compares embeddings")),
}
# The part of the model that an objective is about, and what it takes from its stream.
NEEDS = {
    "generation": lambda objective: ("single", ("target",)),
    "contrastive": lambda objective: ("dual", sum(objective.between, ())),
    "matching": lambda objective: ("consensus", sum(objective.between, ())),
    **dict.fromkeys(("expected_cost", "balance", "entropy_floor"), lambda objective: ("router", ())),
}
SMALLEST_VOCABULARY = 3 + 256  # control tokens, and every byte


def validate(config: ConfigDict, *, shards: int) -> None:
    """Raises ConfigError at the first thing that is wrong.

    Args:
      config: resolved.
      shards: into how many parts the mesh splits a batch.
    """
    with _reading("the config"):
        _check_numbers(config)
        streams, evaluators = config.streams.items(), config.evaluators.items()
    with _reading("model"):
        check_model(config.model)
    for name, stream in streams:
        with _reading(f"streams.{name}"):
            _check_mixture(f"streams.{name}", stream, config.sources)
            _check_rows(f"streams.{name}", stream.rows, shards * stream.accumulate, shards)
            if "router" in config.model:
                _check_groups(f"streams.{name}", stream, config.model.router.groups, shards)
            _check_shapes(f"streams.{name}", stream, config)
            _check_objectives(f"streams.{name}", stream, config)
    with _reading("objectives"):
        _check_asked(config)
    for name, evaluator in evaluators:
        with _reading(f"evaluators.{name}"):
            lookup(build_goals.EVALUATORS, evaluator.kind, "evaluator")
            lookup(build_data.SOURCES, evaluator.source.kind, "source")
            _check_rows(f"evaluators.{name}.stream", evaluator.stream.rows, shards, shards)
            _check_shapes(f"evaluators.{name}.stream", evaluator.stream, config)
            make_decoding(dict(evaluator.get("decoding", {})))
            if "question_only" in evaluator:
                require(evaluator.kind == "answering", f"evaluators.{name}.question_only: only 'answering' has it.")
                lookup(build_data.SOURCES, evaluator.question_only.source.kind, "source")
            _check_evaluator(f"evaluators.{name}", evaluator, config)
    with _reading("eval"):
        require("/" not in config.eval.name, f"eval.name is '{config.eval.name}': write a name without '/'.")
    with _reading("loader"):
        for name in ("workers", "memory"):
            value = config.loader.get(name, 0)
            require(isinstance(value, int), f"loader.{name} is {value!r}: write a whole number.")
    with _reading("evaluators"):
        called = Counter(name for _, evaluator in evaluators for name in evaluator.get("called", {}).values())
    for name, times in called.items():
        require(times == 1, f"{times} numbers of evaluators are called '{name}': let one of them be called otherwise.")


@contextmanager
def _reading(part: str) -> Generator[None]:
    """A value of a wrong type, or one that is missing, is an error of the config and not of ours."""
    try:
        yield
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{part} cannot be read: {error}. configs/parts.py says what belongs there.") from error


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in a value that may be nested tuples."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _check_numbers(config):
    for name, value in flatten(config.to_dict()).items():
        for leaf in _leaves(value):
            if isinstance(leaf, int | float) and not isinstance(leaf, bool):
                require(math.isfinite(leaf), f"{name} is {leaf}: write a finite number.")
                require(leaf >= 0 or ANY_SIGN.search(name) is not None, f"{name} is {leaf}: it cannot be negative.")
                require(leaf > 0 or not POSITIVE.search(name), f"{name} is {leaf}: write a number above 0.")
            else:
                require(not POSITIVE.search(name), f"{name} is {leaf!r}: write a number above 0.")
    vocabulary = config.tokenizer.vocabulary
    require(
        vocabulary >= SMALLEST_VOCABULARY or "folder" in config.tokenizer,
        f"tokenizer.vocabulary is {vocabulary}: every byte and the control tokens need {SMALLEST_VOCABULARY}.",
    )


def _check_groups(name, stream, groups, shards):
    require(
        groups % shards == 0 and stream.rows % (groups * stream.accumulate) == 0,
        f"model.router.groups is {groups}: it is a multiple of the {shards} shards of the mesh's data axes, and the "
        f"rows of {name} ({stream.rows}, in {stream.accumulate} pieces) divide by it.",
    )


def _check_mixture(name, stream, sources):
    require(bool(stream.mixture), f"{name}.mixture is empty: name a source and its weight.")
    for source in stream.mixture:
        lookup(build_data.SOURCES, lookup(sources, source, f"source in {name}.mixture:").kind, "source")
    require(all(weight > 0 for weight in stream.mixture.values()), f"{name}.mixture: take sources of weight 0 out.")


def _check_rows(name, rows, parts, shards):
    nearest = max(parts, round(rows / parts) * parts)
    require(
        rows % parts == 0,
        f"{name}.rows is {rows}, which does not divide by {parts} ({shards} shards of the mesh's data axes, times "
        f"the pieces of accumulate): write {nearest}.",
    )


def _check_grid(name, shape, resizing, tower):
    patch, places = resizing.patch, resizing.places
    for key, wanted in {"patch": (patch, patch), "places": places, "position": "resized"}.items():
        given = tower.get(key)
        require(
            given == wanted, f"{name}.resize makes grids: its tower's '{key}' is {given!r}, and has to be {wanted!r}."
        )
    require(
        all(extent % patch == 0 for extent in shape) and math.prod(shape) >= places * patch**2,
        f"{name}.signals.image is {shape}: write multiples of {patch}, with room for {places} patches.",
    )


def _check_shapes(name, stream, config):
    model, resizing = config.model, build_data.make_resizing(stream)
    if isinstance(resizing, Resizing):
        extent, wanted = resizing.extent, tuple(stream.signals.image)
        require(extent == wanted, f"{name}.resize makes pictures of {extent}, and signals.image is {wanted}.")
    for signal, shape in stream.signals.items():
        tower = lookup(model.towers, signal, f"tower for a signal of {name}:")
        if signal == "image" and isinstance(resizing, GridResizing):
            _check_grid(name, tuple(shape), resizing, tower)
            continue
        wanted = tuple(tower.image) if "image" in tower else (tower.samples,)
        require(tuple(shape) == wanted, f"{name}.signals.{signal} is {tuple(shape)}, and its tower reads {wanted}.")
    for signal, settings in stream.get("augment", {}).items():
        require(signal in stream.signals, f"{name}.augment.{signal} changes a signal that the stream lacks.")
        FITS[signal](settings.to_dict())
    for role, spec in build_data.make_text_specs(stream).items():
        check_spec(role, spec)
        reader = "single" if role in ("prompt", "target") else "text"
        part = model.get("single") if reader == "single" else model.towers.get("text")
        require(
            reader == "text" or "folder" not in config.tokenizer,
            f"{name}.text.{role} is for a decoder, which writes in our own ids: it cannot have tokenizer.folder.",
        )
        require(part is not None, f"{name}.text.{role} is read by '{reader}', which the model does not have.")
        require(
            spec.length <= part.length,
            f"{name}.text.{role}.length is {spec.length}, and the model reads at most {part.length} tokens.",
        )


def _check_objectives(name, stream, config):
    require(bool(stream.objectives), f"{name}.objectives is empty: a stream is for something.")
    given: Mapping[str, Any] = {**stream.signals, **stream.text}
    for objective in stream.objectives:
        settings = lookup(config.objectives, objective, f"objective of {name}:")
        lookup(build_goals.OBJECTIVES, settings.kind, "kind of objective")
        head, needs = NEEDS[settings.kind](settings)
        require(head in config.model, f"{name}: the objective '{objective}' needs model.{head}.")
        absent = sorted(set(needs) - set(given))
        require(not absent, f"{name}: the objective '{objective}' needs {', '.join(absent)}, which the stream lacks.")
        alone = settings.get("alone", 0.0)
        require(0 <= alone <= 1, f"objectives.{objective}.alone is {alone}: write a weight from 0 to 1.")
        require(
            not alone or "prefix" not in config.model,
            f"objectives.{objective}.alone is {alone}: model.prefix would tell the decoder of what is taken from it. "
            "Write 0, or leave the prefix out.",
        )
        if settings.kind == "matching":
            heads = "questions" not in config.model.consensus
            require(heads, f"objectives.{objective} teaches heads, and model.consensus has none: it compares answers.")
            check_compared(f"objectives.{objective}", settings.between, config.model.consensus.between)
            few = f"objectives.{objective}.mates is {settings.mates}, and {name} has {stream.rows} rows: write fewer."
            require(settings.mates < stream.rows, few)
    matching = [goal for name in stream.objectives if (goal := config.objectives[name]).kind == "matching"]
    require(
        FOIL not in stream.text or any(FOILED in pair for goal in matching for pair in goal.between),
        f"{name}.text.{FOIL} is a mate of what is matched with '{FOILED}', and no objective matches that: give "
        "it one of the kind 'matching', or leave the text out.",
    )
    if "target" in stream.text:
        require(
            any(memory in given for memory in config.model.single.memories),
            f"{name} has none of the signals that the decoder reads: {', '.join(config.model.single.memories)}.",
        )


def _check_asked(config):
    """Whoever is asked alone has to have learned to answer alone."""
    learned = any(config.objectives[name].get("alone", 0.0) for s in config.streams.values() for name in s.objectives)
    require(
        learned or "questions" not in config.model.get("consensus", {}),
        "model.consensus asks each modality alone, and no objective teaches that: give one of the kind 'generation' "
        "an 'alone' above 0.",
    )


def _check_evaluator(name, evaluator, config):
    missing = GIVEN[evaluator.kind](evaluator) - {*evaluator.stream.signals, *evaluator.stream.text}
    require(not missing, f"{name}.stream lacks {', '.join(sorted(missing))}: say what it holds.")
    for role, spec in evaluator.stream.text.items():
        used = USED.get((evaluator.kind, role), tuple(TAKES))
        require(
            spec.take in used,
            f"{name}.stream.text.{role} takes '{spec.take}', which '{evaluator.kind}' cannot use: take one of "
            f"{', '.join(used)}.",
        )
    if evaluator.kind in ("answering", "captioning"):
        prompt, tokens, most = evaluator.stream.text.prompt.length, evaluator.tokens, config.model.single.length
        require(
            prompt + tokens <= most,
            f"{name} writes {tokens} tokens behind prompts of {prompt}, and the model reads at most {most} together: "
            "write fewer in tokens or in stream.text.prompt.length.",
        )
    if evaluator.kind in ABOUT:
        part, words = ABOUT[evaluator.kind]
        require(part in config.model, f"{name} {words}: it needs model.{part}.")
        asks = evaluator.kind == "agreement" and "questions" in config.model.consensus
        require(
            not asks or "prompt" in evaluator.stream.text,
            f"{name}.stream lacks prompt: model.consensus compares what modalities answer to it.",
        )
    if evaluator.kind == "classification":
        check_classes(f"{name}.classes", evaluator.classes)
        text = config.model.towers.get("text")
        require(text is not None, f"{name} reads its prompts by the tower 'text', which the model does not have.")
        require(
            LEAST_LENGTH <= evaluator.length <= text.length,
            f"{name}.length is {evaluator.length}: write {LEAST_LENGTH} tokens or more, and at most {text.length}, "
            "what the tower reads.",
        )
