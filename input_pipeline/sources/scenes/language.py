"""What do people say of a scene?

Captions come from a small grammar: a noun phrase names some attributes of an object, in one of several words for each,
and a frame puts noun phrases together. Whole captions name the colour and the shape of every object; part captions
name less. What is said is always true. The characters that speak of an object are recorded with its index.

The description is an inventory, in canonical words and in another style, meant as an input rather than as a caption.
"""

import itertools
import random
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from input_pipeline.sources.scenes.words import ADDED, NUMBERS, ORDINALS, WORDS, plural, with_article
from input_pipeline.sources.scenes.world import MARGIN, Scene, SceneObject
from mmfuse.types import Caption

_ONE = (
    "There is only {}.",
    "A single object: {}.",
    "{}, all alone.",
    "{} on a BACKGROUND background",
    "a picture of {}",
    "The scene shows nothing but {}.",
)
_LIST = (
    "{} on a BACKGROUND background",
    "a picture of {}",
    "The scene shows {}.",
    "{} can be seen.",
    "NUMBER objects: {}.",
    "Against a BACKGROUND background: {}.",
    "Here are {}.",
)
_FROM_LEFT = (
    "From left to right: {}.",
    "{}, from left to right.",
    "Starting on the left, one finds {}.",
    "Seen from the left, there are NUMBER objects: {}.",
)
_FROM_RIGHT = ("From right to left: {}.", "Starting on the right, one finds {}.")
_FROM_TOP = ("From top to bottom: {}.", "{}, one below the other.")
_JOINS = ((", ", " and "), (", then ", " and then "))

_SINGLE = (
    "There is {}.",
    "I can see {}.",
    "One of the objects is {}.",
    "Somewhere in the scene is {}.",
    "{}, among other things",
)
_ALONE = ("There is {}.", "I can see {}.", "The only object is {}.", "{}")
_RELATION = {
    "left": ("{} is to the left of {}.", "{} stands left of {}.", "On the left of {1} is {0}."),
    "right": ("{} is to the right of {}.", "{} stands right of {}.", "On the right of {1} is {0}."),
    "above": ("{} is above {}.", "{} is higher up than {}.", "Above {1} is {0}."),
    "below": ("{} is below {}.", "{} is lower down than {}.", "Below {1} is {0}."),
}
_COUNT = ("There are {}.", "{} are in the scene.", "I count {}.")


class Phrase(NamedTuple):
    """A noun phrase, and the objects that it speaks of."""

    text: str
    objects: tuple[int, ...]


def noun_phrase(thing: SceneObject, attributes: Collection[str], rng: random.Random) -> str:
    """Returns "a small red circle with dots": the named attributes of an object, in words that vary."""
    word = {name: rng.choice(WORDS[getattr(thing, name)]) for name in attributes}
    before = [name for name in ("size", "texture", "colour") if name in word]
    after = ""
    if "texture" in word and thing.texture in ADDED and rng.random() < 0.3:
        before.remove("texture")
        after = " " + ADDED[thing.texture]
    words = [word[name] for name in before] + [word.get("shape", "object")]
    return with_article(" ".join(words)) + after


def captions(scene: Scene, rng: random.Random) -> tuple[Caption, ...]:
    """Returns two whole captions and two part captions, all different."""
    chosen: dict[str, Caption] = {}
    for count, write in ((2, _whole), (4, _part)):
        while len(chosen) < count:
            caption = write(scene, rng)
            chosen[caption.text] = caption
    return tuple(chosen.values())


def description(scene: Scene) -> str:
    """Returns the inventory: every attribute of every object, and its centre in per cent of width and height."""
    things = (
        f"{thing.shape}: {thing.colour}, {thing.size}, {thing.texture}, "
        f"x {100 * thing.centre[0] / scene.canvas:.0f}, y {100 * thing.centre[1] / scene.canvas:.0f}."
        for thing in scene.objects
    )
    return " ".join([f"background: {scene.background}.", *things])


def _whole(scene: Scene, rng: random.Random) -> Caption:
    frame, order = _arrangement(scene, rng)
    frame = frame.replace("BACKGROUND", scene.background).replace("NUMBER", NUMBERS[len(order)])
    phrases = []
    for index in order:
        extra = [name for name in ("size", "texture") if rng.random() < 0.35]
        phrases.append(_phrase(scene, index, ["colour", "shape", *extra], rng))
    return _weave(frame, phrases, whole=True)


def _arrangement(scene: Scene, rng: random.Random) -> tuple[str, list[int]]:
    """Returns a frame with a slot for each object, and an order of the objects in which it is true."""
    order = list(range(len(scene.objects)))
    if len(order) == 1:
        return rng.choice(_ONE), order
    ways = [
        (_LIST, _JOINS[:1], rng.sample(order, len(order))),
        (_FROM_LEFT, _JOINS, order),
        (_FROM_RIGHT, _JOINS, order[::-1]),
    ]
    down = sorted(order, key=lambda index: scene.objects[index].centre[1])
    if all(is_above(scene, upper, lower) for upper, lower in itertools.pairwise(down)):
        ways.append((_FROM_TOP, _JOINS, down))
    frames, joins, order = rng.choice(ways)
    between, last = rng.choice(joins)
    return rng.choice(frames).replace("{}", between.join(["{}"] * (len(order) - 1)) + last + "{}"), order


def is_above(scene: Scene, upper: int, lower: int) -> bool:
    """Whether one object is above another by a margin that leaves no doubt."""
    return scene.objects[lower].centre[1] - scene.objects[upper].centre[1] >= MARGIN * scene.canvas


def _part(scene: Scene, rng: random.Random) -> Caption:
    count = len(scene.objects)
    if count == 1:
        attributes = rng.choice((("size",), ("texture",), ("colour", "size"), ("shape", "texture"), ("shape",)))
        return _weave(rng.choice(_ALONE), [_phrase(scene, 0, attributes, rng)], whole=False)
    ways = [_single, _ordinal, _counted] if count == 2 else [_single, _ordinal, _counted, _relation, _relation]
    return rng.choice(ways)(scene, rng)


def _phrase(scene: Scene, index: int, attributes: Collection[str], rng: random.Random) -> Phrase:
    return Phrase(noun_phrase(scene.objects[index], attributes, rng), (index,))


def _some_attributes(rng: random.Random) -> list[str]:
    return rng.sample(("colour", "shape", "size", "texture"), rng.randint(1, 3))


def _single(scene: Scene, rng: random.Random) -> Caption:
    index = rng.randrange(len(scene.objects))
    return _weave(rng.choice(_SINGLE), [_phrase(scene, index, _some_attributes(rng), rng)], whole=False)


def _ordinal(scene: Scene, rng: random.Random) -> Caption:
    count = len(scene.objects)
    index = rng.randrange(count)
    frame = f"{place_from_side(index, count, rng)} is {{}}."
    return _weave(frame, [_phrase(scene, index, _some_attributes(rng), rng)], whole=False)


def place_from_side(index: int, count: int, rng: random.Random) -> str:
    """Returns "the third object from the left", counted from either side."""
    side, place = rng.choice((("left", index), ("right", count - 1 - index)))
    if place == 0 and rng.random() < 0.5:
        return f"the {side}most object"
    return f"the {ORDINALS[place]} object from the {side}"


def _relation(scene: Scene, rng: random.Random) -> Caption:
    pair = first, second = rng.sample(range(len(scene.objects)), 2)
    relation = rng.choice(relations(scene, first, second))
    phrases = [_phrase(scene, index, _some_attributes(rng), rng) for index in pair]
    return _weave(rng.choice(_RELATION[relation]), phrases, whole=False)


def relations(scene: Scene, first: int, second: int) -> list[str]:
    """Returns what is true of the first object seen from the second: left or right, and where clear above or below."""
    found = ["left" if first < second else "right"]
    found += ["above"] * is_above(scene, first, second) + ["below"] * is_above(scene, second, first)
    return found


def _counted(scene: Scene, rng: random.Random) -> Caption:
    """Says how many objects share an attribute; of one object alone it says what `_single` does."""
    attribute = rng.choice(("colour", "shape", "size", "texture"))
    values = [getattr(thing, attribute) for thing in scene.objects]
    value = rng.choice(values)
    found = tuple(index for index, other in enumerate(values) if other == value)
    if len(found) == 1:
        return _single(scene, rng)
    word = rng.choice(WORDS[value])
    things = plural(word) if attribute == "shape" else f"{word} objects"
    return _weave(rng.choice(_COUNT), [Phrase(f"{NUMBERS[len(found)]} {things}", found)], whole=False)


def _weave(frame: str, phrases: Sequence[Phrase], *, whole: bool) -> Caption:
    """Fills the slots of a frame, `{}` or `{0}`, and records where each phrase came to stand."""
    text, mentions, waiting = "", [], iter(phrases)
    for piece in re.split(r"(\{\d?\})", frame):
        if not piece.startswith("{"):
            text += piece
            continue
        phrase = phrases[int(piece[1])] if piece[1].isdigit() else next(waiting)
        mentions += [(len(text), len(text) + len(phrase.text), index) for index in phrase.objects]
        text += phrase.text
    if text.endswith("."):
        text = text[0].upper() + text[1:]
    return Caption(text, whole=whole, mentions=tuple(mentions))
