"""Can this config be run?

Everything that would fail later, or would run and mean nothing, is refused here in one sentence that says what to write
instead, before anything is allocated. Unknown names of parts are refused by `build.lookup` with the nearest one.
"""

import math
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.streams import FITS
from input_pipeline.texts import LEAST_LENGTH, check_spec
from mmfuse import build, build_data
from mmfuse.evaluators.classification import check_classes
from mmfuse.inference.decoding import make_decoding
from mmfuse.models.dual_tower import check_projections
from mmfuse.towers.convnet import reach
from mmfuse.training.workdir import flatten
from mmfuse.types import ConfigError

# Numbers that may be below zero, and those that must be above it, by the ends of their names. Those of a decoding are
# judged by `make_decoding`.
ANY_SIGN = re.compile(r"(^mesh\.\w+|dual\.bias|augment\.audio\.noise_db)$")
POSITIVE = re.compile(
    r"(?<!\.decoding)(?<!projection)\.(rows|records|number|length|examples|chunk|tokens|width|single\.depth|heads|"
    r"key_heads|mlp|blocks|cross_every|embedding|temperature|"
    r"steps|evaluate_every|every|keep|accumulate|learning_rate|clip|hop|window|bands|samples|image|patch|at)$|^log_every$"
)
# What evaluators take from their streams.
GIVEN = {
    "answering": lambda evaluator: {"prompt"},
    "captioning": lambda evaluator: {"prompt", "target"},
    "retrieval": lambda evaluator: set(sum(evaluator.between, ())),
    "classification": lambda evaluator: {evaluator.signal},
}
NEEDED = {"eos": "eos", "end": "eos", "attention": "heads"}  # by pools, of their towers
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
        _check_model(config)
    for name, stream in streams:
        with _reading(f"streams.{name}"):
            _check_mixture(f"streams.{name}", stream, config.sources)
            _check_rows(f"streams.{name}", stream.rows, shards * stream.accumulate, shards)
            _check_shapes(f"streams.{name}", stream, config)
            _check_objectives(f"streams.{name}", stream, config)
    for name, evaluator in evaluators:
        with _reading(f"evaluators.{name}"):
            build.lookup(build.EVALUATORS, evaluator.kind, "evaluator")
            build.lookup(build_data.SOURCES, evaluator.source.kind, "source")
            _check_rows(f"evaluators.{name}.stream", evaluator.stream.rows, shards, shards)
            _check_shapes(f"evaluators.{name}.stream", evaluator.stream, config)
            make_decoding(dict(evaluator.get("decoding", {})))
            if "question_only" in evaluator:
                _require(evaluator.kind == "answering", f"evaluators.{name}.question_only: only 'answering' has it.")
                build.lookup(build_data.SOURCES, evaluator.question_only.source.kind, "source")
            _check_evaluator(f"evaluators.{name}", evaluator, config)
    called = Counter(name for _, evaluator in evaluators for name in evaluator.get("called", {}).values())
    for name, times in called.items():
        _require(times == 1, f"{times} numbers of evaluators are called '{name}': let one of them be called otherwise.")


@contextmanager
def _reading(part: str) -> Generator[None]:
    """A value of a wrong type, or one that is missing, is an error of the config and not of ours."""
    try:
        yield
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{part} cannot be read: {error}. configs/parts.py says what belongs there.") from error


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ConfigError(sentence)


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
                _require(math.isfinite(leaf), f"{name} is {leaf}: write a finite number.")
                _require(leaf >= 0 or ANY_SIGN.search(name) is not None, f"{name} is {leaf}: it cannot be negative.")
                _require(leaf > 0 or not POSITIVE.search(name), f"{name} is {leaf}: write a number above 0.")
            else:
                _require(not POSITIVE.search(name), f"{name} is {leaf!r}: write a number above 0.")
    vocabulary = config.tokenizer.vocabulary
    _require(
        vocabulary >= SMALLEST_VOCABULARY or "folder" in config.tokenizer,
        f"tokenizer.vocabulary is {vocabulary}: every byte and the control tokens need {SMALLEST_VOCABULARY}.",
    )


def _check_model(config):
    model = config.model
    _require("dual" in model or "single" in model, "model has neither 'dual' nor 'single': give it a head.")
    _require(bool(model.towers), "model.towers is empty: give it a tower.")
    for name, tower in model.towers.items():
        build.lookup(build.TOWERS, tower.kind, "tower")
        check = _check_convnet if tower.kind == "convnet" else _check_stack
        check(f"model.towers.{name}", tower)
        _require(
            NEEDED.get(tower.pool, "kind") in tower,
            f"model.towers.{name}.pool is '{tower.pool}', which needs the setting '{NEEDED.get(tower.pool)}', and a "
            f"'{tower.kind}' has none: take another pool.",
        )
    if "projection" in model.get("dual", {}):
        widths = {name: tower.width for name, tower in model.towers.items()}
        check_projections("model.dual.projection", model.dual.projection.to_dict(), widths, model.dual.embedding)
    if "single" in model:
        _check_stack("model.single", model.single)
        for memory in model.single.memories:
            _require(
                ("text" if memory == "source" else memory) in model.towers,
                f"model.single.memories names '{memory}', which no tower makes: there are {', '.join(model.towers)}.",
            )
        depth, every = model.single.depth, model.single.cross_every
        _require(depth % every == 0, f"model.single.depth is {depth}: make it a multiple of cross_every={every}.")


def _check_convnet(name, tower):
    _require(bool(tower.blocks), f"{name}.blocks is empty: write how many blocks each stage has.")
    shrink = 2 ** (len(tower.blocks) - 1)
    _require(
        tower.width % shrink == 0,
        f"{name}.width={tower.width} does not halve {len(tower.blocks) - 1} times: make it a multiple of {shrink}.",
    )
    centred = tower.norm == "instance" and tower.pool == "mean"
    _require(not centred, f"{name}.pool is 'mean', and an instance norm centres the tokens: write 'max' or 'flat'.")
    _require(tower.position != "rotary", f"{name}.position is 'rotary', and a convnet has no attention: write 'none'.")
    least = reach(tower.patch, tower.blocks)
    _require(
        all(side % step == 0 for side, step in zip(tower.image, least)),
        f"{name}.image={tuple(tower.image)} does not divide by {least}, what a token stands for.",
    )


def _check_stack(name, stack):
    _require(stack.width % stack.heads == 0, f"{name}.width={stack.width} does not divide by heads={stack.heads}.")
    _require(
        stack.heads % stack.key_heads == 0,
        f"{name}.heads={stack.heads} does not divide by key_heads={stack.key_heads}.",
    )
    if stack.position == "rotary":
        size = stack.width // stack.heads
        _require(size % 2 == 0, f"{name}: rotary positions turn pairs, and a head is {size} wide: make it even.")
    if "patch" in stack and not stack.get("crop", False):
        extent = stack.image if "image" in stack else (stack.samples // stack.hop, stack.bands)
        _require(
            all(size % patch == 0 for size, patch in zip(extent, stack.patch)),
            f"{name}.patch={tuple(stack.patch)} does not divide {tuple(extent)}.",
        )


def _check_mixture(name, stream, sources):
    _require(bool(stream.mixture), f"{name}.mixture is empty: name a source and its weight.")
    for source in stream.mixture:
        build.lookup(build_data.SOURCES, build.lookup(sources, source, f"source in {name}.mixture:").kind, "source")
    _require(all(weight > 0 for weight in stream.mixture.values()), f"{name}.mixture: take sources of weight 0 out.")


def _check_rows(name, rows, parts, shards):
    nearest = max(parts, round(rows / parts) * parts)
    _require(
        rows % parts == 0,
        f"{name}.rows is {rows}, which does not divide by {parts} ({shards} shards of the mesh's data axes, times "
        f"the pieces of accumulate): write {nearest}.",
    )


def _check_shapes(name, stream, config):
    model, resizing = config.model, build_data.make_resizing(stream)
    if resizing is not None:
        extent, wanted = resizing.extent, tuple(stream.signals.image)
        _require(extent == wanted, f"{name}.resize makes pictures of {extent}, and signals.image is {wanted}.")
    for signal, shape in stream.signals.items():
        tower = build.lookup(model.towers, signal, f"tower for a signal of {name}:")
        wanted = tuple(tower.image) if "image" in tower else (tower.samples,)
        _require(tuple(shape) == wanted, f"{name}.signals.{signal} is {tuple(shape)}, and its tower reads {wanted}.")
    for signal, settings in stream.get("augment", {}).items():
        _require(signal in stream.signals, f"{name}.augment.{signal} changes a signal that the stream lacks.")
        FITS[signal](settings.to_dict())
    for role, spec in build_data.make_text_specs(stream).items():
        check_spec(role, spec)
        reader = "single" if role in ("prompt", "target") else "text"
        part = model.get("single") if reader == "single" else model.towers.get("text")
        _require(
            reader == "text" or "folder" not in config.tokenizer,
            f"{name}.text.{role} is for a decoder, which writes in our own ids: it cannot have tokenizer.folder.",
        )
        _require(part is not None, f"{name}.text.{role} is read by '{reader}', which the model does not have.")
        _require(
            spec.length <= part.length,
            f"{name}.text.{role}.length is {spec.length}, and the model reads at most {part.length} tokens.",
        )


def _check_objectives(name, stream, config):
    _require(bool(stream.objectives), f"{name}.objectives is empty: a stream is for something.")
    given: Mapping[str, Any] = {**stream.signals, **stream.text}
    for objective in stream.objectives:
        settings = build.lookup(config.objectives, objective, f"objective of {name}:")
        build.lookup(build.OBJECTIVES, settings.kind, "kind of objective")
        head, needs = ("single", ["target"]) if settings.kind == "generation" else ("dual", sum(settings.between, ()))
        _require(head in config.model, f"{name}: the objective '{objective}' needs model.{head}.")
        absent = sorted(set(needs) - set(given))
        _require(not absent, f"{name}: the objective '{objective}' needs {', '.join(absent)}, which the stream lacks.")
    if "target" in stream.text:
        _require(
            any(memory in given for memory in config.model.single.memories),
            f"{name} has none of the signals that the decoder reads: {', '.join(config.model.single.memories)}.",
        )


def _check_evaluator(name, evaluator, config):
    missing = GIVEN[evaluator.kind](evaluator) - {*evaluator.stream.signals, *evaluator.stream.text}
    _require(not missing, f"{name}.stream lacks {', '.join(sorted(missing))}: say what it holds.")
    if evaluator.kind in ("answering", "captioning"):
        prompt, tokens, most = evaluator.stream.text.prompt.length, evaluator.tokens, config.model.single.length
        _require(
            prompt + tokens <= most,
            f"{name} writes {tokens} tokens behind prompts of {prompt}, and the model reads at most {most} together: "
            "write fewer in tokens or in stream.text.prompt.length.",
        )
    if evaluator.kind in ("retrieval", "classification"):
        _require("dual" in config.model, f"{name} compares embeddings: it needs model.dual.")
    if evaluator.kind == "classification":
        check_classes(f"{name}.classes", evaluator.classes)
        text = config.model.towers.get("text")
        _require(text is not None, f"{name} reads its prompts by the tower 'text', which the model does not have.")
        _require(
            LEAST_LENGTH <= evaluator.length <= text.length,
            f"{name}.length is {evaluator.length}: write {LEAST_LENGTH} tokens or more, and at most {text.length}, "
            "what the tower reads.",
        )
