"""Are answers counted right, over all questions and by type? The model is made so that it answers what it is told."""

import numpy as np
import pytest

from input_pipeline.streams import Recipe, evaluation_stream
from input_pipeline.texts import TextSpec
from mmfuse.evaluators.answering import Answering
from mmfuse.training.sharding import make_mesh
from mmfuse.types import Example, Question, Rejected
from tests import told

PROMPT = "how many circles?"
TWO, RED = Question(PROMPT, "two", "count"), Question(PROMPT, "red circle", "colour")


class Asked:
    """Seven records: three of each kind are asked in all, one has two questions, one record is bad, one text is."""

    questions = (
        (TWO,),
        (RED,),
        (TWO, RED),
        (),
        (Question(PROMPT, " two\n", "count"),),
        (RED._replace(text=" "),),
        (RED,),
    )

    def __len__(self):
        return len(self.questions)

    def __getitem__(self, index):
        if index == 3:
            return Rejected("torn", "3")
        return Example(
            str(index), str(index), {"image": np.zeros((4, 6, 3), np.uint8)}, questions=self.questions[index]
        )


def make_evaluator(source, tokenizer, workers):
    recipe = Recipe({"image": told.IMAGE}, {"prompt": TextSpec("questions", 2, 17)}, tokenizer)
    stream = evaluation_stream("test", source, recipe, rows=4)
    options = {"tokenizer": tokenizer, "tokens": 7, "workers": workers}
    return Answering(stream, told.merge, make_mesh(data=2), **options)


@pytest.fixture(scope="module")
def evaluator(tokenizer):
    return make_evaluator(Asked(), tokenizer, workers=1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("two", {"count": 3, "colour": 0}),
        ("red circle", {"count": 0, "colour": 3}),
        (" red  circle ", {"count": 0, "colour": 3}),  # what differs in white space alone is the same answer
        ("Two", {"count": 0, "colour": 0}),
        ("two red", {"count": 0, "colour": 0}),
        ("", {"count": 0, "colour": 0}),
    ],
)
def test_accuracy_over_all_and_by_type(evaluator, tokenizer, answer, right):
    assert evaluator(told.state_that_writes(answer, tokenizer, after=PROMPT)) == {
        "accuracy": sum(right.values()) / 6,
        "accuracy/count": right["count"] / 3,
        "accuracy/colour": right["colour"] / 3,
        "questions": 6,
        "rejected": 2,
    }


def test_a_stream_without_questions_has_no_accuracy(tokenizer):
    class Nothing(Asked):
        questions = ((), ())

    evaluator = make_evaluator(Nothing(), tokenizer, workers=0)
    assert evaluator(told.state_that_writes("two", tokenizer, after=PROMPT)) == {"questions": 0, "rejected": 2}
