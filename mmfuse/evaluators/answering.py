"""Does the model answer questions right?

Answers are generated greedily and compared with the true ones, as text in which a run of white space is one space:
accuracy over all questions and by type.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh

from input_pipeline.tokenizers import Tokenizer
from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.inference.generate import generate
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState
from mmfuse.types import Question


class Answering:
    """Accuracy of generated answers over a stream whose role `prompt` holds questions."""

    def __init__(
        self,
        stream: FiniteStream,
        merge: Callable[[TrainState], Multimodal],
        mesh: Mesh,
        *,
        tokenizer: Tokenizer,
        tokens: int,
        workers: int,
    ):
        """Args: `tokens` the longest answer; `tokenizer` reads the answers."""
        self.tokenizer = tokenizer

        def answer(state, batch):
            model = merge(state)
            return generate(model.single, model.encode(batch), batch.text["prompt"], tokens=tokens)

        self.sweep = Sweep(stream, answer, mesh, workers=workers)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns `accuracy`, `accuracy/{type}`, `questions`, how many there were, and `rejected`, records left out."""
        asked, right = Counter(), Counter()
        for loaded, written in self.sweep(state):
            for pieces, answers in zip(loaded.pieces, written):
                questions = [piece for piece in pieces.get("prompt", ()) if isinstance(piece, Question)]
                for question, ids in zip(questions, answers):
                    asked[question.kind] += 1
                    right[question.kind] += self._read(ids) == _one_spaced(question.answer)
        counts = {"questions": float(asked.total()), "rejected": float(len(self.sweep.rejected))}
        if not asked:
            return counts
        numbers = {f"accuracy/{kind}": right[kind] / number for kind, number in sorted(asked.items())}
        return {"accuracy": right.total() / asked.total(), **numbers, **counts}

    def _read(self, ids: np.ndarray) -> str:
        return _one_spaced(self.tokenizer.decode(ids))


def _one_spaced(text: str) -> str:
    return " ".join(text.split())
