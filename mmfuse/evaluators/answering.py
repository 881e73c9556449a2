"""Does the model answer questions right?

Answers are generated greedily and compared with the true ones, as text in which a run of white space is one space:
accuracy over all questions and by type.
"""

from collections import Counter

from mmfuse.evaluators.writing import Writing
from mmfuse.training.state import TrainState
from mmfuse.types import Question


class Answering(Writing):
    """Accuracy of generated answers over a stream whose role `prompt` holds questions."""

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns `accuracy`, `accuracy/{type}`, `questions`, how many there were, and `rejected`, records left out."""
        asked, right = Counter(), Counter()
        for question, answer, _ in self.written(state, Question):
            asked[question.kind] += 1
            right[question.kind] += _one_spaced(answer) == _one_spaced(question.answer)
        counts = {"questions": float(asked.total()), "rejected": float(len(self.sweep.rejected))}
        if not asked:
            return counts
        numbers = {f"accuracy/{kind}": right[kind] / number for kind, number in sorted(asked.items())}
        return {"accuracy": right.total() / asked.total(), **numbers, **counts}


def _one_spaced(text: str) -> str:
    return " ".join(text.split())
