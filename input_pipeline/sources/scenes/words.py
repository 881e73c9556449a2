"""Which words name an attribute, and which attributes does a text name?

Sentences are made elsewhere. No two attributes share a word, so that words can be read back.
"""

import re
from collections.abc import Iterable

from input_pipeline.sources.scenes.world import COLOURS, SHAPES, Pair

# The first word is the canonical one.
WORDS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in SHAPES + COLOURS},
    "circle": ("circle", "disc"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus sign"),
    "moon": ("moon", "crescent"),
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized", "mid-sized"),
    "large": ("large", "big"),
    "solid": ("solid", "plain"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
}
NUMBERS = ("zero", "one", "two", "three", "four", "five")
ORDINALS = ("first", "second", "third", "fourth", "fifth")


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def plural(words: str) -> str:
    return words + ("es" if words.endswith(("s", "x")) else "s")


def _any_of(names: Iterable[str]) -> str:
    words = (word for name in names for word in WORDS[name])
    return "(" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_NAMED = re.compile(rf"\b{_any_of(COLOURS)} {_any_of(SHAPES)}\b", re.IGNORECASE)
_NAME = {word: name for name, words in WORDS.items() for word in words}


def parse_attributes(text: str) -> set[Pair]:
    """Returns the (shape, colour) pairs that a caption of this grammar, or one generated in its manner, names."""
    return {(_NAME[shape.lower()], _NAME[colour.lower()]) for colour, shape in _NAMED.findall(text)}
