"""Is what is said true, and are the mentions where they claim to be?"""

import re
from collections import Counter

import pytest

from input_pipeline.sources.scenes import Scenes
from input_pipeline.sources.scenes.words import WORDS, named_objects, plural, with_article
from input_pipeline.sources.scenes.world import HELD_OUT

KIND = dict.fromkeys(("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon"), "shape")
KIND |= dict.fromkeys(("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"), "colour")
KIND |= {"small": "size", "medium": "size", "large": "size"}
KIND |= {"solid": "texture", "striped": "texture", "dotted": "texture"}
MEANING = {word: value for value, words in WORDS.items() for word in words} | {"stripes": "striped", "dots": "dotted"}
PAIR = {"shape", "colour"}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
CLAIMS = {
    r"left to right|on the left, one|from the left, there": lambda i, x, y: [x[j] for j in i] == sorted(x),
    r"right to left|on the right, one": lambda i, x, y: [x[j] for j in i] == sorted(x)[::-1],
    r"top to bottom|one below the other": lambda i, x, y: [y[j] for j in i] == sorted(y),
    r"is to the left of|stands left of|^On the right of": lambda i, x, y: x[i[0]] < x[i[1]],
    r"is to the right of|stands right of|^On the left of": lambda i, x, y: x[i[0]] > x[i[1]],
    r"is above|higher up|^Below": lambda i, x, y: y[i[0]] < y[i[1]],
    r"is below|lower down|^Above": lambda i, x, y: y[i[0]] > y[i[1]],
}
ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4}


@pytest.fixture(scope="module")
def examples():
    source = Scenes("train", signals=(), size=503)
    return [source[index] for index in range(len(source))]


def attributes(text):
    """Returns {attribute: value} of the attribute words in a phrase."""
    found = {}
    for word in sorted(MEANING, key=len, reverse=True):
        if re.search(rf"\b{word}(s|es)?\b", text, re.IGNORECASE):
            text = re.sub(rf"\b{word}(s|es)?\b", " ", text, flags=re.IGNORECASE)
            assert KIND[MEANING[word]] not in found
            found[KIND[MEANING[word]]] = MEANING[word]
    return found


def _pair(said):
    """The (shape, colour) of a named object."""
    values = {KIND[value]: value for value in said}
    return values["shape"], values["colour"]


def fits(thing, wanted):
    return all(getattr(thing, name) == value for name, value in wanted.items())


def test_words_are_unambiguous():
    assert set(WORDS) == set(KIND)
    assert len(MEANING) == sum(len(words) for words in WORDS.values()) + 2


def test_every_mention_names_its_object_and_nothing_else_is_named(examples):
    for example in examples:
        for caption in example.captions:
            rest = caption.text
            for start, end, index in caption.mentions:
                wanted = attributes(caption.text[start:end])
                assert wanted, caption
                assert fits(example.truth["objects"][index], wanted), (caption, wanted)
                rest = rest[:start] + "_" * (end - start) + rest[end:]
            assert not attributes(rest), caption


def test_whole_captions_name_colour_and_shape_of_every_object_and_part_captions_do_not(examples):
    for example in examples:
        assert Counter(caption.whole for caption in example.captions) == {True: 2, False: 2}
        pairs = {(thing.shape, thing.colour) for thing in example.truth["objects"]}
        for caption in example.captions:
            named = [frozenset(attributes(caption.text[start:end]).values()) for start, end, _ in caption.mentions]
            assert named_objects(caption.text) == [said for said in named if {KIND[value] for value in said} >= PAIR]
            assert ({_pair(said) for said in named_objects(caption.text)} == pairs) == caption.whole, caption
            assert not caption.whole or sorted(m[2] for m in caption.mentions) == list(range(len(pairs)))


def test_orders_places_relations_and_counts_are_true(examples):
    checked = Counter()
    for example in examples:
        objects = example.truth["objects"]
        x, y = ([thing.centre[axis] for thing in objects] for axis in (0, 1))
        for caption in example.captions:
            text, order = caption.text, [index for _, _, index in caption.mentions]
            for pattern, holds in CLAIMS.items():
                if re.search(pattern, text):
                    checked[pattern] += 1
                    assert holds(order, x, y), caption
            if place := re.match(r"The (\w+) object from the (left|right)|The (left|right)most object", text):
                rank = ORDINALS[place[1]] if place[1] else 0
                checked["place"] += 1
                assert order == [rank if "left" in (place[2], place[3]) else len(objects) - 1 - rank], caption
            if number := re.search(r"\b(two|three|four|five) (?!objects:)([\w -]+?)(?: are in|\.)", text):
                wanted = attributes(number[2])
                checked["number"] += 1
                assert NUMBERS[number[1].lower()] == len(order) == sum(fits(thing, wanted) for thing in objects)
            if total := re.search(r"\b(\w+) objects:", text):
                assert {**NUMBERS, "one": 1}[total[1].lower()] == len(objects)
    assert len(checked) == 9 and min(checked.values()) >= 10, checked


def test_background_is_the_true_one(examples):
    said = [(e.truth["background"], c.text) for e in examples for c in e.captions if "background" in c.text]
    assert len(said) > 100
    assert all(f"a {name} background" in text for name, text in said)


def test_captions_vary_and_are_well_formed(examples):
    texts = [caption.text for example in examples for caption in example.captions]
    assert len(set(texts)) > 0.8 * len(texts)
    for text in texts:
        assert re.fullmatch(r"[A-Za-z ,:.-]+", text) and "  " not in text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text, re.IGNORECASE), text
        assert text.endswith(".") == text[0].isupper(), text
    assert all(len({caption.text for caption in example.captions}) == 4 for example in examples)


def test_description_tells_everything(examples):
    for example in examples:
        background, *things = example.description.removesuffix(".").split(". ")
        assert background == f"background: {example.truth['background']}"
        for line, thing in zip(things, example.truth["objects"], strict=True):
            shape, colour, size, texture, x, y = re.split(r": |, ", line)
            assert (shape, colour, size, texture) == thing[:4]
            assert abs(int(x[2:]) - thing.centre[0] / 0.64) <= 0.51 and abs(int(y[2:]) - thing.centre[1] / 0.64) <= 0.51


def test_no_text_of_the_training_split_names_a_held_out_pair(examples):
    for example in examples:
        texts = [caption.text for caption in example.captions] + [question.text for question in example.questions]
        assert not any(_pair(said) in HELD_OUT for text in texts for said in named_objects(text))


def test_grammar():
    assert with_article("orange star") == "an orange star" and with_article("red star") == "a red star"
    assert [plural(word) for word in ("star", "cross", "plus sign")] == ["stars", "crosses", "plus signs"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A tiny violet plus sign", ["small purple cross"]),
        ("a red object and a Turquoise disc with dots; STRIPED BLUE stars.", ["cyan circle dotted"]),
        ("a stripy, mid-sized blue star with stripes", ["striped medium blue star"]),
        ("red red circle, red circle", ["red circle", "red circle"]),  # each time that it is named
        ("a red blue circle", ["red blue circle"]),  # which there cannot be
        ("a small circle, two red circles, red. Circle, hundred circle", []),
    ],
)
def test_named_objects(text, named):
    assert named_objects(text) == [frozenset(values.split()) for values in named]
