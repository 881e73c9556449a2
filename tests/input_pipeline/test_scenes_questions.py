"""Are the answers right, by a second reading of the question, and does the text alone tell little of them?"""

import re
from collections import Counter, defaultdict

import pytest

from input_pipeline.sources.scenes import Scenes

VALUES = {
    "size": ("small", "medium", "large"),
    "texture": ("solid", "striped", "dotted"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "shape": ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon"),
}
WORD = {value: name for name, values in VALUES.items() for value in values}
NOUN_PHRASE = rf"((?:(?:{'|'.join(WORD)}) )*(?:object|{'|'.join(VALUES['shape'])}))\b"
NUMBERS = ("zero", "one", "two", "three")
RANKS = ("first", "second", "third", "fourth", "fifth")
CHANCE = {
    **dict.fromkeys(("existence", "relation", "comparison", "sameness"), 1 / 2),
    **dict.fromkeys(("size", "texture"), 1 / 3),
    "count": 1 / 4,
    "colour": 1 / 8,
    "shape": 1 / 8,
    "ordinal": 1 / 16,
}


def examples(split, count):
    source = Scenes(split, signals=(), size=count)
    return [source[index] for index in range(count)]


@pytest.fixture(scope="module")
def train():
    return examples("train", 4000)


def matching(objects, phrase):
    """Returns the objects that a noun phrase fits."""
    wanted = {WORD[word]: word for word in phrase.split() if word in WORD}
    assert wanted
    return [i for i, thing in enumerate(objects) if all(getattr(thing, k) == v for k, v in wanted.items())]


def the_one(objects, phrase):
    (index,) = matching(objects, phrase)
    return index


def yes(truth):
    return "yes" if truth else "no"


def existence(text, objects):
    found = matching(objects, re.search(rf"\ban? {NOUN_PHRASE}", text)[1])
    return yes(found), found


def count(text, objects):
    singular = re.sub(r"(?<=ross)es\b|(?<!s)s\b", "", text.removesuffix("?"))
    found = matching(objects, singular)
    return NUMBERS[len(found)], found


def attribute(text, objects, kind):
    index = the_one(objects, re.search(rf"\bthe {NOUN_PHRASE}", text)[1])
    return getattr(objects[index], kind), [index]


def ordinal(text, objects):
    order = sorted(range(len(objects)), key=lambda index: objects[index].centre[0])
    side = re.search(r"left|right", text)[0]
    rank = next((rank for rank, word in enumerate(RANKS) if word in text), 0)
    assert ("most" in text) != any(word in text for word in RANKS)
    index = order[rank] if side == "left" else order[-1 - rank]
    return getattr(objects[index], "colour" if "colour" in text else "shape"), [index]


def two(text, objects):
    return [the_one(objects, phrase) for phrase in re.findall(rf"\bthe {NOUN_PHRASE}", text)]


def relation(text, objects):
    first, second = two(text, objects)
    (x, y), (u, v) = objects[first].centre, objects[second].centre
    claims = {"left of": u - x, "right of": x - u, "above": v - y, "higher": v - y, "below": y - v, "lower": y - v}
    (gap,) = (value for words, value in claims.items() if words in text)
    assert abs(gap) >= 0.07 * 64
    return yes(gap > 0), [first, second]


def comparison(text, objects):
    first, second = two(text, objects)
    sizes = [VALUES["size"].index(objects[index].size) for index in (first, second)]
    assert sizes[0] != sizes[1]
    return yes(sizes[0] > sizes[1] if "larger" in text else sizes[0] < sizes[1]), [first, second]


def sameness(text, objects):
    first, second = two(text, objects)
    name = re.search(r"the same (\w+)\?", text)[1]
    return yes(getattr(objects[first], name) == getattr(objects[second], name)), [first, second]


def oracle(question, objects):
    if question.kind in VALUES:
        return attribute(question.text, objects, question.kind)
    return globals()[question.kind](question.text, objects)


@pytest.mark.parametrize("split", ["train", "test_systematic"])
def test_answers_and_objects_are_those_of_a_second_reading(split):
    for example in examples(split, 450):
        for question in example.questions:
            answer, about = oracle(question, example.truth["objects"])
            assert (question.answer, list(question.about)) == (answer, about), (question, example.truth["objects"])


def test_a_phrase_never_names_what_is_asked_for(train):
    for question in (question for example in train for question in example.questions):
        hidden = {"comparison": "size", **{name: name for name in VALUES}}.get(question.kind)
        phrases = re.findall(rf"\bthe {NOUN_PHRASE}", question.text)
        assert hidden is None or not any(WORD.get(word) == hidden for phrase in phrases for word in phrase.split())


def test_every_example_offers_several_questions_of_different_kinds(train):
    for example in train:
        kinds = [question.kind for question in example.questions]
        assert 4 <= len(kinds) == len(set(kinds)) <= 6
    kinds = Counter(question.kind for example in train for question in example.questions)
    assert set(kinds) == set(CHANCE)
    assert min(kinds.values()) > len(train) / 5, kinds


def test_the_majority_of_each_kind_is_near_chance(train):
    """A best constant answer per kind: within two points of one half, and within a quarter of other chances."""
    answers = defaultdict(Counter)
    for question in (question for example in train for question in example.questions):
        answers[question.kind][question.answer] += 1
    majority = {kind: tally.most_common(1)[0][1] / tally.total() for kind, tally in answers.items()}
    assert {kind: len(tally) for kind, tally in answers.items()} == {k: round(1 / c) for k, c in CHANCE.items()}
    for kind, chance in CHANCE.items():
        assert majority[kind] < chance + (0.025 if chance == 0.5 else chance / 4), majority


def test_the_text_of_a_question_alone_tells_little(train):
    """The majority answer of each exact text, learned on one half, is tried on the other half."""
    seen, kinds = defaultdict(Counter), defaultdict(Counter)
    half = len(train) // 2
    for question in (question for example in train[:half] for question in example.questions):
        seen[question.text][question.answer] += 1
        kinds[question.kind][question.answer] += 1
    right, asked = Counter(), Counter()
    for question in (question for example in train[half:] for question in example.questions):
        tally = seen.get(question.text, kinds[question.kind])
        right[question.kind] += tally.most_common(1)[0][0] == question.answer
        asked[question.kind] += 1
    # Six colours go with a shape, and an ordinal asks for one of two attributes: the text narrows these down.
    chance = CHANCE | {"colour": 1 / 6, "shape": 1 / 6, "ordinal": 1 / 8}
    accuracy = {kind: right[kind] / asked[kind] for kind in asked}
    assert all(accuracy[kind] < chance[kind] + 0.045 for kind in asked), accuracy


def test_a_no_asks_for_something_that_shares_an_attribute_with_what_is_there(train):
    for example in train:
        for question in example.questions:
            if question.kind == "existence" and question.answer == "no":
                wanted = [word for word in re.findall(r"\w+", question.text) if word in WORD]
                shared = [word for word in wanted for thing in example.truth["objects"] if word in thing[:4]]
                assert len(wanted) == 2 and shared, (question, example.truth["objects"])
