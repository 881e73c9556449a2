"""Which words name an attribute, and which attributes does a text name?

Sentences are made elsewhere. No two attributes share a word, so that words can be read back.
"""

import re
from collections.abc import Iterable

from input_pipeline.sources.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES

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
ADDED = {"striped": "with stripes", "dotted": "with dots"}  # said behind the shape
NUMBERS = ("zero", "one", "two", "three", "four", "five")
ORDINALS = ("first", "second", "third", "fourth", "fifth")


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def plural(words: str) -> str:
    return words + ("es" if words.endswith(("s", "x")) else "s")


def _any_of(names: Iterable[str]) -> str:
    words = (word for name in names for word in WORDS[name])
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_BEFORE = _any_of((*COLOURS, *SIZES, *TEXTURES))
_NAMED = re.compile(rf"\b((?:{_BEFORE},? )+)({_any_of(SHAPES)})\b(?: ({'|'.join(ADDED.values())})\b)?", re.IGNORECASE)
_VALUE = re.compile(rf"\b{_BEFORE}", re.IGNORECASE)
_NAME = {word: name for name, words in WORDS.items() for word in words} | {words: name for name, words in ADDED.items()}


def named_objects(text: str) -> list[frozenset[str]]:
    """Returns what a caption says of each object whose colour and shape it names, in order.

    It is read from the words alone: attributes in any order, then a shape, then perhaps "with dots". A phrase without a
    colour names no object, and one with two names an impossible one.

    Returns:
      For each object its values, such as {"small", "red", "circle"}.
    """
    named = []
    for before, shape, after in _NAMED.findall(text):
        words = [*_VALUE.findall(before), shape, *filter(None, [after])]
        values = frozenset(_NAME[word.lower()] for word in words)
        if not values.isdisjoint(COLOURS):
            named.append(values)
    return named
