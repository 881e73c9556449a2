"""What may one ask of a scene, so that the answer must be perceived?

Ten kinds of question. The noun phrase after "the" fits exactly one object, and answers are single lower-case words.
Questions are balanced so that their text alone tells little of the answer:

  * yes and no are drawn first, evenly, and only for scenes that could give both;
  * what a "no" asks for differs in one attribute from something that is there, and is a pair of this split;
  * a phrase never names the attribute that is asked for, and all attributes are drawn evenly by `world`;
  * counts of zero to three are offered so much more rarely, the easier they are to find (`_count_one`);
    `test_systematic` has few shapes of a colour, so three is rare there.
"""

import functools
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import combinations, islice

from input_pipeline.sources.scenes.language import place_from_side, relations
from input_pipeline.sources.scenes.words import NUMBERS, plural, with_article
from input_pipeline.sources.scenes.world import (
    PAIRS,
    SIZES,
    VALUES,
    Scene,
    SceneObject,
    sample_scene,
)
from mmfuse.types import Question

MOST_QUESTIONS = 6
COUNTED = 4  # answers of a count: zero to three
_COUNT_TRIES = 3

_YES_NO = ("no", "yes")
_EXISTENCE = ("Is there {}?", "Can you see {}?", "Is {} in the scene?", "Does the scene contain {}?")
_COUNT = ("How many {} are there?", "How many {} can you see?", "What is the number of {}?")
_ATTRIBUTE = {
    "colour": ("What colour is {}?", "Which colour does {} have?", "What is the colour of {}?"),
    "shape": ("What shape is {}?", "Which shape does {} have?", "What is the shape of {}?"),
    "size": ("What size is {}?", "How big is {}?", "Is {} small, medium or large?"),
    "texture": ("What texture does {} have?", "Is {} solid, striped or dotted?", "What is the texture of {}?"),
}
_RELATION = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "higher up than"),
    "below": ("below", "lower down than"),
}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def ask(scene: Scene, rng: random.Random, kinds: Collection[str] = ()) -> tuple[Question, ...]:
    """Returns up to `MOST_QUESTIONS` questions of different kinds in random order; of all kinds if none are named."""
    # Counting comes first, since a place that depends on the number of objects would upset the balance of its answers.
    kinds = tuple(kinds or KINDS)
    order = sorted(rng.sample(kinds, len(kinds)), key=lambda kind: kind != "count")
    offered = filter(None, (KINDS[kind](scene, rng) for kind in order))
    asked = list(islice(offered, MOST_QUESTIONS))
    rng.shuffle(asked)
    return tuple(asked)


def _existence(scene: Scene, rng: random.Random) -> Question | None:
    """Asks for two attributes. One of them is altered for a "no"."""
    answer = rng.choice(_YES_NO)
    attributes = rng.choice((("colour", "shape"), ("colour", "shape"), ("size", "colour"), ("texture", "shape")))
    model = rng.choice(scene.objects)
    wanted = {name: getattr(model, name) for name in attributes}
    absent = list(_absent(scene, wanted))
    if not absent:
        return None
    if answer == "no":
        wanted = rng.choice(absent)
    phrase = with_article(_words(wanted))
    found = tuple(index for index, thing in enumerate(scene.objects) if _fits(thing, wanted))
    return Question(rng.choice(_EXISTENCE).format(phrase), answer, "existence", found)


def _absent(scene: Scene, wanted: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yields each alteration of one attribute that fits no object, and that fits objects of other scenes."""
    for name in wanted:
        for value in VALUES[name]:
            other = wanted | {name: value}
            pair = (other.get("shape"), other.get("colour"))
            if (None in pair or pair in PAIRS[scene.split]) and not any(_fits(thing, other) for thing in scene.objects):
                yield other


def _count(scene: Scene, rng: random.Random) -> Question | None:
    """Tries a few times, so that counting is not much rarer than the rest."""
    return next(filter(None, (_count_one(scene, rng) for _ in range(_COUNT_TRIES))), None)


def _count_one(scene: Scene, rng: random.Random) -> Question | None:
    """Asks how many objects share a value.

    Every scene has a colour that occurs zero times, few have one that occurs three times. So an answer is dropped with
    the probability that makes it as frequent as the rarest one.
    """
    attribute, answer = rng.choice(tuple(VALUES)), rng.randrange(COUNTED)
    offers = _offers(scene.split)[attribute]
    rarest = min(share for share in offers if share)
    values = [value for value, count in _occurrences(scene, attribute).items() if count == answer]
    if not values or rng.random() * offers[answer] > rarest:
        return None
    value = rng.choice(values)
    things = plural(value) if attribute == "shape" else f"{value} objects"
    found = tuple(index for index, thing in enumerate(scene.objects) if getattr(thing, attribute) == value)
    return Question(rng.choice(_COUNT).format(things), NUMBERS[answer], "count", found)


def _occurrences(scene: Scene, attribute: str) -> dict[str, int]:
    return {value: sum(getattr(thing, attribute) == value for thing in scene.objects) for value in VALUES[attribute]}


@functools.cache
def _offers(split: str) -> dict[str, list[float]]:
    """Returns for each attribute the share of a split's scenes where some value occurs 0, 1, 2, 3 times."""
    scenes = [sample_scene(split, 1, random.Random(seed)) for seed in range(4096)]
    tallies = {name: Counter[int]() for name in VALUES}
    for name, tally in tallies.items():
        for scene in scenes:
            tally.update(set(_occurrences(scene, name).values()))
    return {name: [tally[count] / len(scenes) for count in range(COUNTED)] for name, tally in tallies.items()}


def _attribute(kind: str, scene: Scene, rng: random.Random) -> Question | None:
    named = _named(scene, kind, rng)
    if not named:
        return None
    index = rng.choice(tuple(named))
    text = rng.choice(_ATTRIBUTE[kind]).format(named[index])
    return Question(text, getattr(scene.objects[index], kind), kind, (index,))


def _ordinal(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.objects) == 1:
        return None
    kind, index = rng.choice(("colour", "shape")), rng.randrange(len(scene.objects))
    text = rng.choice(_ATTRIBUTE[kind]).format(place_from_side(index, len(scene.objects), rng))
    return Question(text, getattr(scene.objects[index], kind), "ordinal", (index,))


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.objects) == 1:
        return None
    first, second = rng.sample(range(len(scene.objects)), 2)
    relation, answer = rng.choice(relations(scene, first, second)), rng.choice(_YES_NO)
    words = rng.choice(_RELATION[relation if answer == "yes" else _OPPOSITE[relation]])
    named = _named(scene, None, rng)
    return Question(f"Is {named[first]} {words} {named[second]}?", answer, "relation", (first, second))


def _comparison(scene: Scene, rng: random.Random) -> Question | None:
    """Asks of two objects of different size, which both can be named without it, if one is larger or smaller."""
    named, rank = _named(scene, "size", rng), tuple(SIZES).index
    pairs = [pair for pair in combinations(named, 2) if len({scene.objects[index].size for index in pair}) == 2]
    if not pairs:
        return None
    first, second = rng.sample(rng.choice(pairs), 2)
    answer = rng.choice(_YES_NO)
    larger = rank(scene.objects[first].size) > rank(scene.objects[second].size)
    word = "larger" if larger == (answer == "yes") else "smaller"
    return Question(f"Is {named[first]} {word} than {named[second]}?", answer, "comparison", (first, second))


def _sameness(scene: Scene, rng: random.Random) -> Question | None:
    """Asks if two objects share an attribute, where the scene has both two that do and two that do not."""
    attribute, answer = rng.choice(tuple(VALUES)), rng.choice(_YES_NO)
    named = _named(scene, attribute, rng)
    pairs: dict[str, list[tuple[int, int]]] = {"no": [], "yes": []}
    for pair in combinations(named, 2):
        same = len({getattr(scene.objects[index], attribute) for index in pair}) == 1
        pairs["yes" if same else "no"].append(pair)
    if not (pairs["no"] and pairs["yes"]):
        return None
    first, second = rng.sample(rng.choice(pairs[answer]), 2)
    verb, joint = ("Are", "") if attribute in ("colour", "size") else ("Do", "have ")
    text = f"{verb} {named[first]} and {named[second]} {joint}the same {attribute}?"
    return Question(text, answer, "sameness", (first, second))


def _named(scene: Scene, hidden: str | None, rng: random.Random) -> dict[int, str]:
    """Returns a phrase for each object that can be told from the others without the hidden attribute."""
    order = rng.sample([name for name in VALUES if name != hidden], 4 - (hidden is not None))
    named = {}
    for index, thing in enumerate(scene.objects):
        rivals, wanted = [other for other in scene.objects if other is not thing], {}
        for name in order:
            wanted[name] = getattr(thing, name)
            rivals = [other for other in rivals if getattr(other, name) == wanted[name]]
            if not rivals:
                named[index] = f"the {_words(wanted)}"
                break
    return named


def _fits(thing: SceneObject, wanted: dict[str, str]) -> bool:
    return all(getattr(thing, name) == value for name, value in wanted.items())


def _words(wanted: dict[str, str]) -> str:
    """Returns the words for the wanted attributes in the order of speech: "small red circle", "dotted object"."""
    return " ".join(wanted[name] for name in VALUES if name in wanted) + ("" if "shape" in wanted else " object")


KINDS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "existence": _existence,
    "count": _count,
    **{kind: functools.partial(_attribute, kind) for kind in _ATTRIBUTE},
    "ordinal": _ordinal,
    "relation": _relation,
    "comparison": _comparison,
    "sameness": _sameness,
}
