"""Does the control learn how questions are put, and nothing else?"""

import pytest

from mmfuse.evaluators.question_only import QuestionOnly
from mmfuse.types import ConfigError, Question

COLOURS, NUMBERS = ("red", "green", "blue"), ("one", "two", "three")


def practice():
    """Of 9 questions of each sort, 5 have one answer; a bag of words could not tell the last two sorts apart."""
    yield from (Question("what colour is it?", colour, "colour") for colour in [*COLOURS] * 2 + ["blue"] * 3)
    yield from (Question("how many are there?", number, "count") for number in [*NUMBERS] * 2 + ["two"] * 3)
    yield from (
        Question("is the dog larger than the cat?", answer, "comparison") for answer in ["yes"] * 5 + ["no"] * 4
    )
    yield from (
        Question("is the cat larger than the dog?", answer, "comparison") for answer in ["yes"] * 4 + ["no"] * 5
    )


def test_it_says_what_is_most_often_true_of_such_a_question():
    asked = ["what colour is that?", "how many cubes are there?", "is the dog larger than the cat?"]
    assert QuestionOnly(practice())([*asked, "is the cat larger than the dog?"]) == ["blue", "two", "yes", "no"]


def test_no_question_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match="question_only: these records have no questions"):
        QuestionOnly(())
