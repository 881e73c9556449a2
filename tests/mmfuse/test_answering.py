"""Are answers counted right, over all questions, by type and blind? The model answers what it is told."""

from types import SimpleNamespace
from typing import cast

import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.streams import Recipe, evaluation_stream
from input_pipeline.texts import TextSpec
from mmfuse.evaluators.answering import Answering, chance, majority, one_spaced
from mmfuse.evaluators.damage import CLEAN, damage_of_all
from mmfuse.evaluators.question_only import QuestionOnly
from mmfuse.evaluators.writing import Writing
from mmfuse.training.sharding import make_mesh
from mmfuse.training.state import TrainState
from mmfuse.types import Batch, Caption, Example, Question, Rejected
from tests import told

PROMPT = "how many circles?"
KINDS = ("count", "colour")
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


def expected_numbers(right, blind, error):
    """Of three questions of each type, each type with one true answer."""
    numbers = {"accuracy": right, "accuracy_blind": blind, "accuracy_majority": 3, "accuracy_chance": 3}
    numbers = {
        name: value if isinstance(value, dict) else dict.fromkeys(KINDS, value) for name, value in numbers.items()
    }
    overall = {name: sum(by_kind.values()) / 6 for name, by_kind in numbers.items()}
    by_kind = {f"{name}/{kind}": by_kind[kind] / 3 for name, by_kind in numbers.items() for kind in KINDS}
    return overall | by_kind | {"calibration_error": pytest.approx(error), "questions": 6, "rejected": 2}


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
    state = told.state_that_writes(answer, tokenizer, after=PROMPT)
    (probability,) = {round(np.exp(written.log_probability), 6) for written in evaluator.written(state, Question)}
    assert 0.5 < probability < 1  # the same to the same question
    error = abs(probability - sum(right.values()) / 6)
    assert evaluator(state) == expected_numbers(right, right, error)


def test_an_answer_is_right_however_its_letters_are_composed():
    assert one_spaced(" cafe\u0301  noir\n") == one_spaced("caf\u00e9 noir") == "caf\u00e9 noir"


def test_blind_answers_are_those_without_evidence(evaluator, tokenizer):
    state = told.state_that_writes("two", tokenizer, after=PROMPT, only_blind=True)
    found = evaluator(state)
    assert found == expected_numbers(0, {"count": 3, "colour": 0}, found["calibration_error"])


def test_results_have_the_form_of_the_vqa_server(evaluator, tokenizer):
    evaluator(told.state_that_writes(" red  circle ", tokenizer, after=PROMPT))
    ids = [f"{record}#{place}" for record, place in ((0, 0), (1, 0), (2, 0), (2, 1), (4, 0), (6, 0))]
    by_id = {result["question_id"]: result for result in evaluator.results}
    assert by_id == {key: {"question_id": key, "answer": "red circle"} for key in ids} and len(evaluator.results) == 6


@pytest.mark.parametrize(("guess", "right"), [("two", 4), ("red circle", 2), ("three", 0)])
def test_blind_is_the_better_of_no_evidence_and_of_reading_alone(tokenizer, guess, right):
    """Of six questions, all of the same words: the one that only reads says to all of them what it was told most."""
    recipe = Recipe({"image": told.IMAGE}, {"prompt": TextSpec("questions", 2, 17)}, tokenizer)
    practice = [Question(PROMPT, guess, "count")] * 3 + [Question(PROMPT, "blue", "count")] * 2

    class More(Asked):
        questions = ((TWO,), (TWO,), (TWO, RED), (), (TWO,), (), (RED,))

    stream = evaluation_stream("test", More(), recipe, rows=4)
    options = {"tokenizer": tokenizer, "tokens": 7, "workers": 0}
    evaluator = Answering(stream, told.merge, make_mesh(data=2), question_only=QuestionOnly(practice), **options)
    found = evaluator(told.state_that_writes("red circle", tokenizer, after=PROMPT))
    assert found["accuracy_question_only"] == pytest.approx(right / 6)
    assert found["accuracy"] == found["accuracy_no_evidence"] == pytest.approx(2 / 6)
    assert found["accuracy_blind"] == pytest.approx(max(right, 2) / 6)
    for kind, own in (("count", "two"), ("colour", "red circle")):
        assert found[f"accuracy_question_only/{kind}"] == (guess == own)
        assert found[f"accuracy_blind/{kind}"] == max(guess == own, kind == "colour")


def test_accuracy_by_what_befell_a_scene(tokenizer):
    """Where two circles are counted the answer is right: of three clean scenes in two, for example. Sounds and
    descriptions are not read."""

    class Spoiled(Asked):
        questions = ((TWO,), (RED,), (TWO,), (), (RED,), (TWO,), (TWO,))
        befallen = (
            {},
            {},
            {"image": ("noise", 0.9)},
            {},
            {"image": ("noise", 0.31)},
            {"image": ("darkness", 0.2), "audio": ("missing", 1.0)},
            {"description": ("gaps", 0.01), "audio": ("missing", 1.0)},
        )

        def __getitem__(self, index):
            made = super().__getitem__(index)
            return made if index == 3 else made._replace(truth={"corruptions": self.befallen[index]})

    found = make_evaluator(Spoiled(), tokenizer, workers=0)(told.state_that_writes("two", tokenizer, after=PROMPT))
    parts = {name.partition("/")[2]: value for name, value in found.items() if name.startswith("accuracy/")}
    by_damage = {"clean": 2 / 3, "noise/5": 1, "noise/2": 0, "darkness/1": 1}
    assert parts == by_damage | {"count": 1, "colour": 0} and found["accuracy"] == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("read", "damage"),
    [
        (("image", "audio", "source", "prompt"), ("several", 0.5)),
        (("image", "audio"), ("noise", 0.2)),
        (("source", "audio"), ("gaps", 0.5)),
        (("audio", "prompt"), CLEAN),
    ],
)
def test_what_befell_an_example_is_what_befell_that_which_is_read(read, damage):
    spoiled = {"corruptions": {"image": ("noise", 0.2), "description": ("gaps", 0.5)}}
    assert damage_of_all(Example("0", "0", {}, truth=spoiled), read) == damage


def test_controls_by_hand():
    kinds = np.array(["count", "count", "colour", "count", "colour", "count"])
    truth = np.array(["two", "one", "red", "two", "two", "three"])
    assert majority(kinds, truth).tolist() == [True, False, True, True, False, False]
    np.testing.assert_allclose(chance(kinds, truth), [1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 3])


def test_a_stream_without_questions_has_no_accuracy(tokenizer):
    class Nothing(Asked):
        questions = ((), ())

    evaluator = make_evaluator(Nothing(), tokenizer, workers=0)
    assert evaluator(told.state_that_writes("two", tokenizer, after=PROMPT)) == {"questions": 0, "rejected": 2}
    assert evaluator.results == []


def test_each_prompt_has_what_was_written_for_it(tokenizer):
    """Also where other pieces stand between the questions."""
    words = [np.array(tokenizer.encode(text)[:1]) for text in ("red", "two", "circle")]
    ids = np.stack([np.pad(one, (0, 4 - len(one))) for one in words])[None]
    pieces = {"prompt": (Question("q", "a", "count"), Caption("c"), Question("r", "b", "colour"))}
    batch = Batch({}, {}, np.ones(1, bool), np.zeros(1, np.int32), np.zeros((1, 2), np.int32))
    loaded = SimpleNamespace(examples=[Example("0", "0", {})], pieces=[pieces], batch=batch)
    log_prob = np.array([[[-1.0], [-2.0], [-3.0]]])
    writer = SimpleNamespace(tokenizer=tokenizer, sweep=lambda _: [(loaded, ((ids, ids[:, ::-1]), (log_prob, None)))])
    state = TrainState({}, {}, {}, {}, jnp.int32(0), jnp.int32(0))
    found = [*Writing.written(cast(Writing, writer), state, Question)]
    said = [tokenizer.decode(row) for row in ids[0]]
    assert [(one.prompt.text, one.text, one.log_probability, one.blind) for one in found] == [
        ("q", said[0], -1, said[2]),
        ("r", said[2], -3, said[0]),
    ]
