"""Does the model answer questions right?

Answers are generated and compared with the true ones, as text in which a run of white space is one space and letters
are composed. Beside the accuracy stands what can be reached without looking:

    blind      the same model, and no evidence; where a model that only reads is trained, the better of the two
    majority   one answer to all questions of a type, the one that is right most often among these very questions: no
               constant answer, of whatever training data, is right more often
    chance     one drawn evenly from the true answers to questions of the type
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mmfuse.evaluators.calibration import calibration_error
from mmfuse.evaluators.damage import damage_of_all, parts_by_damage
from mmfuse.evaluators.question_only import QuestionOnly
from mmfuse.evaluators.writing import Writing, Written
from mmfuse.training.state import TrainState
from mmfuse.types import Question


class Answering(Writing):
    """Accuracy of generated answers over a stream whose role `prompt` holds questions."""

    def __init__(self, *arguments, question_only: QuestionOnly | None = None, **options):
        """Args: those of `Writing`; `question_only` is a model that has only ever read, or None for no such control."""
        super().__init__(*arguments, **options)
        self.question_only = question_only

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns accuracies, `calibration_error`, `questions`, how many, and `rejected`, records left out.

        `accuracy`, `accuracy_blind`, `accuracy_majority` and `accuracy_chance` are over all questions; with `/{type}`
        over those of a type; where what is read was spoiled there are `accuracy/clean` and `accuracy/{kind}/{level}`,
        too. With `question_only` there are `accuracy_question_only` and `accuracy_no_evidence`, and `accuracy_blind` is
        the higher of the two. An answer's probability, by which calibration is measured, is that of all its tokens.
        """
        found = list(self.written(state, Question))
        self.results = [{"question_id": _id(written), "answer": one_spaced(written.text)} for written in found]
        counts = {"questions": float(len(found)), "rejected": float(len(self.sweep.rejected))}
        if not found:
            return counts
        kinds = np.array([written.prompt.kind for written in found], object)
        texts = [(written.prompt.answer, written.text, written.blind) for written in found]
        truth, said, blind = np.array([[one_spaced(text) for text in its] for its in texts], object).T
        right = {
            "accuracy": said == truth,
            "accuracy_blind": blind == truth,
            "accuracy_majority": majority(kinds, truth),
            "accuracy_chance": chance(kinds, truth),
        }
        if self.question_only:
            read = np.array([one_spaced(text) for text in self.question_only([one.prompt.text for one in found])])
            right |= {"accuracy_question_only": read == truth, "accuracy_no_evidence": right["accuracy_blind"]}
        probability = np.exp([written.log_probability for written in found])
        numbers = {"calibration_error": calibration_error(probability, right["accuracy"])}
        parts = {"": np.ones(len(kinds), bool)} | {f"/{kind}": kinds == kind for kind in sorted(set(kinds))}
        for part, of_part in parts.items():
            numbers |= {f"{name}{part}": float(by_question[of_part].mean()) for name, by_question in right.items()}
            if self.question_only:
                both = numbers[f"accuracy_question_only{part}"], numbers[f"accuracy_no_evidence{part}"]
                numbers[f"accuracy_blind{part}"] = max(both)
        assert self.sweep.first is not None, "something was written"
        batch = self.sweep.first[0].batch
        befallen = [damage_of_all(written.example, (*batch.signals, *batch.text)) for written in found]
        for part, of_part in parts_by_damage(befallen):
            numbers[f"accuracy{part}"] = float(right["accuracy"][of_part].mean())
        return numbers | counts


def _id(written: Written) -> str:
    """The record's key, and which of its questions it is."""
    return f"{written.example.key}#{written.example.questions.index(written.prompt)}"


def majority(kinds: Shaped[np.ndarray, "n"], truth: Shaped[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Whether the most frequent true answer to questions of its type is right, for each question."""
    likeliest = {kind: answers.most_common(1)[0][0] for kind, answers in _answers(kinds, truth).items()}
    return np.array([likeliest[kind] == answer for kind, answer in zip(kinds, truth)])


def chance(kinds: Shaped[np.ndarray, "n"], truth: Shaped[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """How likely an answer is right that is drawn evenly from the different ones to its type, for each question."""
    answers = _answers(kinds, truth)
    return np.array([1 / len(answers[kind]) for kind in kinds])


def _answers(kinds: Iterable[str], truth: Iterable[str]) -> dict[str, Counter]:
    """How often each answer is true, by type of question."""
    answers: dict[str, Counter] = defaultdict(Counter)
    for kind, answer in zip(kinds, truth):
        answers[kind][answer] += 1
    return answers


def one_spaced(text: str) -> str:
    """The text by which answers are compared: a run of white space is one space, there is none at the ends, and letters
    are composed (NFC), as in the texts that a model learns from."""
    return unicodedata.normalize("NFC", " ".join(text.split()))
