"""Which texts of an example does a stream use, and as what?

A role says what a text is for (see `mmfuse.types.Batch`), `take` says where it comes from:

    role      sequence                              weight on
    source    BOS text EOS                          nothing
    foil      BOS text EOS                          nothing
    caption   BOS text EOS                          nothing
    prompt    prompt BOS                            nothing
    target    prompt BOS answer EOS                 answer EOS

The prompt of a question is the question; the prompt of a caption names its language where that is not English.

Several targets may share a row, so that less of it is padding: `pack`. One step is compiled for one length of a stream;
texts of very different lengths are several streams, which are the buckets.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from input_pipeline.names import require_known
from input_pipeline.tokenizers import CaptionTokenizer, Tokenizer
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.text import clean_text
from mmfuse.types import BOS, ENCODED_ROLES, EOS, Caption, ConfigError, Example, Question

Piece = Caption | Question
T = TypeVar("T")


class TextSpec(NamedTuple):
    """What one role holds.

    Attributes:
      take: where the texts come from, a key of `TAKES`.
      number: C, rows of texts for each example; a row holds one text where nothing is packed.
      length: T, tokens of a row.
      languages: codes of the captions that are taken, beside all questions; all captions where it is empty.
      balance: what is drawn evenly, a key of `BALANCES`.
      packed: the most texts that share a row.
      optional: whether an example that has no such text can be used for what else it has.
    """

    take: str
    number: int
    length: int
    languages: tuple[str, ...] = ()
    balance: str = "texts"
    packed: int = 1
    optional: bool = False


class Encoded(NamedTuple):
    """Token ids and their loss weights, without padding."""

    ids: Int[np.ndarray, "t"]
    weight: Float[np.ndarray, "t"]


def first_of_each_language(captions: Sequence[Caption]) -> tuple[Caption, ...]:
    """What a record says first in each language, such as the name of what it shows."""
    return tuple({caption.language: caption for caption in reversed(captions)}.values())


def whole_captions(example: Example) -> tuple[Caption, ...]:
    """Those that say everything there is."""
    return tuple(caption for caption in example.captions if caption.whole)


TAKES: Mapping[str, Callable[[Example], tuple[Piece, ...]]] = {
    "captions": lambda example: example.captions,
    "whole_captions": whole_captions,
    "first_captions": lambda example: first_of_each_language(example.captions),
    "questions": lambda example: example.questions,
    "whole_captions_and_questions": lambda example: (*whole_captions(example), *example.questions),
    "description": lambda example: (Caption(example.description),) if example.description else (),
    "foil": lambda example: (Caption(example.foil),) if example.foil else (),
}
IN_LANGUAGES = ("captions", "whole_captions", "first_captions")  # the takes whose texts all say their language
ASKED = ("questions", "whole_captions_and_questions")  # the takes that hold questions
CAPTIONED = (*IN_LANGUAGES, "whole_captions_and_questions")  # whose captions can be chosen by language
ROLES = (*ENCODED_ROLES, "prompt", "target")
LEAST_LENGTH = 3  # BOS, one token of text, EOS


def shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    """All in random order: the more captions a language has, the more often it is drawn first."""
    return [items[i] for i in rng.permutation(len(items))]


def languages_in_turn(captions: Sequence[Caption], rng: np.random.Generator) -> list[Caption]:
    """One caption of each language, then a second one of each, …: every language is as likely to be drawn first."""
    spoken: dict[str, list[Caption]] = {}
    for caption in shuffled(captions, rng):
        spoken.setdefault(caption.language, []).append(caption)
    # shuffled once more: a language with many captions is likely to have been met early
    languages = shuffled(list(spoken.values()), rng)
    turns = range(max(map(len, languages)))
    return [language[turn] for turn in turns for language in languages if turn < len(language)]


BALANCES: Mapping[str, Callable[[Sequence, np.random.Generator], list]] = {
    "texts": shuffled,
    "languages": languages_in_turn,
}


def check_spec(role: str, spec: TextSpec) -> None:
    """Raises ConfigError for names that are not there, for numbers that hold no text, for what does not go together."""
    for what, name, names in (
        ("role of text", role, ROLES),
        ("kind of text to take", spec.take, tuple(TAKES)),
        ("balance of texts", spec.balance, tuple(BALANCES)),
    ):
        require_known(what, name, names)
    if spec.number < 1 or spec.length < LEAST_LENGTH:
        raise ConfigError(
            f"text.{role} has number={spec.number}, length={spec.length}: "
            f"write a number of 1 or more and a length of {LEAST_LENGTH} or more."
        )
    if spec.packed < 1 or (spec.packed > 1 and role != "target"):
        raise ConfigError(
            f"text.{role}.packed is {spec.packed}: write 1, or more for texts of the role 'target' alone."
        )
    if isinstance(spec.languages, str) or not all(isinstance(code, str) and code for code in spec.languages):
        raise ConfigError(f"text.{role}.languages is {spec.languages!r}: write codes in a tuple, such as ('de', 'sw').")
    takes = IN_LANGUAGES if spec.balance == "languages" else CAPTIONED if spec.languages else TAKES
    if spec.take not in takes:
        raise ConfigError(
            f"text.{role} chooses by language, and a text of '{spec.take}' does not say its language: "
            f"leave out languages and balance, or take one of {', '.join(takes)}."
        )


def choose(example: Example, spec: TextSpec, rng: np.random.Generator) -> list[Piece]:
    """Draws the texts of one role, without repeats: as many as its rows may hold.

    Raises:
      BadRecord: the example has no such text, and needs one.
    """
    pieces, reason = TAKES[spec.take](example), f"no {spec.take.replace('_', ' ')}"
    if spec.languages:
        pieces = [piece for piece in pieces if isinstance(piece, Question) or piece.language in spec.languages]
        reason += " in these languages"
    if not pieces and spec.optional:
        return []
    if not pieces:
        raise BadRecord(reason)
    return BALANCES[spec.balance](pieces, rng)[: spec.number * spec.packed]


def prompt_of(piece: Piece) -> str:
    """What the single tower is given to start from; empty for an English caption."""
    if isinstance(piece, Question):
        return piece.text
    return "" if piece.language == "en" else f"{piece.language}:"


def encode(piece: Piece, role: str, length: int, tokenizer: CaptionTokenizer) -> Encoded:
    """The token sequence of a role, cut to `length`.

    A caption that is cut keeps its EOS, as CLIP's do; an answer that is cut does not, since it has not ended. The
    tokenizer of a released model fills the whole length: such models were trained to read their padding.

    Raises:
      BadRecord: a text that cannot be used, or a prompt that leaves no room for an answer.
    """
    if role in ENCODED_ROLES:
        return _sequence(tokenizer.encode_whole(clean_text(piece.text), length), answered=0)
    assert isinstance(tokenizer, Tokenizer), "validated: what is written is in our own ids"
    prompt = prompt_of(piece)
    start = [*tokenizer.encode(clean_text(prompt)), BOS] if prompt else [BOS]
    if len(start) >= length:
        raise BadRecord("prompt too long")
    if role == "prompt":
        return _sequence(start, answered=0)
    answer = piece.answer if isinstance(piece, Question) else piece.text
    ending = [*tokenizer.encode(clean_text(answer)), EOS][: length - len(start)]
    return _sequence(start + ending, answered=len(ending))


def pack(sequences: Sequence[Encoded], spec: TextSpec) -> list[list[Encoded]]:
    """Deals an example's texts out to the rows of their role: each to the first row that has room for it.

    A text without room is left out. It was drawn at random and will be again; short texts find room more often.
    """
    rows: list[list[Encoded]] = [[] for _ in range(spec.number)]
    for sequence in sequences:
        for row in rows:
            filled = sum(len(text.ids) for text in row)
            if len(row) < spec.packed and filled + len(sequence.ids) <= spec.length:
                row.append(sequence)
                break
    return rows


def _sequence(ids, answered):
    weight = np.zeros(len(ids), np.float32)
    weight[len(ids) - answered :] = 1
    return Encoded(np.array(ids, np.int32), weight)
