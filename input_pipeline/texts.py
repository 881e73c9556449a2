"""Which texts of an example does a stream use, and as what?

A role says what a text is for (see `mmfuse.types.Batch`), `take` says where it comes from:

    role      sequence                              weight on
    source    BOS text EOS                          nothing
    caption   BOS text EOS                          nothing
    prompt    prompt BOS                            nothing
    target    prompt BOS answer EOS                 answer EOS

The prompt of a question is the question; the prompt of a caption names its language where that is not English.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from input_pipeline.tokenizers import Tokenizer
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.text import clean_text
from mmfuse.types import BOS, EOS, Caption, ConfigError, Example, Question

Piece = Caption | Question


class TextSpec(NamedTuple):
    """What one role holds: up to `number` texts of `length` tokens from `take`, a key of `TAKES`."""

    take: str
    number: int
    length: int


class Encoded(NamedTuple):
    """Token ids and their loss weights, without padding."""

    ids: Int[np.ndarray, "t"]
    weight: Float[np.ndarray, "t"]


TAKES: Mapping[str, Callable[[Example], tuple[Piece, ...]]] = {
    "captions": lambda example: example.captions,
    "whole_captions": lambda example: tuple(caption for caption in example.captions if caption.whole),
    "questions": lambda example: example.questions,
    "description": lambda example: (Caption(example.description),) if example.description else (),
}
ROLES = ("source", "caption", "prompt", "target")
LEAST_LENGTH = 3  # BOS, one token of text, EOS


def check_spec(role: str, spec: TextSpec) -> None:
    """Raises ConfigError for a role or a `take` that is not there, and for a number or a length that holds no text."""
    for what, name, names in (("role of text", role, ROLES), ("kind of text to take", spec.take, tuple(TAKES))):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise ConfigError(f"there is no {what} '{name}'{hint} There are: {', '.join(names)}.")
    if spec.number < 1 or spec.length < LEAST_LENGTH:
        raise ConfigError(
            f"text.{role} has number={spec.number}, length={spec.length}: "
            f"write a number of 1 or more and a length of {LEAST_LENGTH} or more."
        )


def choose(example: Example, spec: TextSpec, rng: np.random.Generator) -> list[Piece]:
    """Draws the texts of one role, without repeats.

    Raises:
      BadRecord: the example has no such text.
    """
    pieces = TAKES[spec.take](example)
    if not pieces:
        raise BadRecord(f"no {spec.take.replace('_', ' ')}")
    return [pieces[i] for i in rng.permutation(len(pieces))[: spec.number]]


def prompt_of(piece: Piece) -> str:
    """What the single tower is given to start from; empty for an English caption."""
    if isinstance(piece, Question):
        return piece.text
    return "" if piece.language == "en" else f"{piece.language}:"


def encode(piece: Piece, role: str, length: int, tokenizer: Tokenizer) -> Encoded:
    """The token sequence of a role, cut to `length`.

    A caption that is cut keeps its EOS, as CLIP's do; an answer that is cut does not, since it has not ended.

    Raises:
      BadRecord: a text that cannot be used, or a prompt that leaves no room for an answer.
    """
    if role in ("source", "caption"):
        ids = tokenizer.encode(clean_text(piece.text))[: length - 2]
        return _sequence([BOS, *ids, EOS], answered=0)
    prompt = prompt_of(piece)
    start = [*tokenizer.encode(clean_text(prompt)), BOS] if prompt else [BOS]
    if len(start) >= length:
        raise BadRecord("prompt too long")
    if role == "prompt":
        return _sequence(start, answered=0)
    answer = piece.answer if isinstance(piece, Question) else piece.text
    ending = [*tokenizer.encode(clean_text(answer)), EOS][: length - len(start)]
    return _sequence(start + ending, answered=len(ending))


def _sequence(ids, answered):
    weight = np.zeros(len(ids), np.float32)
    weight[len(ids) - answered :] = 1
    return Encoded(np.array(ids, np.int32), weight)
