"""Does the model know classes that it was never trained to choose from?

Zero-shot classification: each class is described by several prompts, and stands where the mean of their unit
embeddings points; an example is of the class that its own embedding is nearest to. The class of an example is its
concept. Probabilities are the softmax over classes of cosines times the model's learned scale.
Reference: Radford et al. 2021 (CLIP), arXiv 2103.00020, section 3.1.4.
"""

from collections.abc import Callable, Sequence
from typing import cast

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int
from scipy.special import softmax

from input_pipeline.streams import Recipe, evaluation_stream
from input_pipeline.texts import TextSpec
from input_pipeline.tokenizers import CaptionTokenizer
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.text import clean_text
from mmfuse.evaluators.calibration import brier_score, calibration_error
from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.evaluators.ranking import chance_precision, rank
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.sharding import batch_shards
from mmfuse.training.state import TrainState
from mmfuse.types import Caption, ConfigError, Example

Classes = Sequence[tuple[str, Sequence[str]]]
MOST_ROWS = 64  # classes whose prompts are embedded at once
CHUNK = 16  # classes that all examples are ranked for at once


class _Prompts:
    """A source of one record for each class, whose captions are its prompts."""

    def __init__(self, classes: Classes):
        self.classes = classes

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> Example:
        concept, prompts = self.classes[index]
        return Example(concept, concept, {}, tuple(map(Caption, prompts)))


def check_classes(name: str, classes: Classes) -> None:
    """Raises ConfigError where classes cannot be told apart, or are not described."""
    concepts = [concept for concept, _ in classes]
    if len(classes) < 2 or len(set(concepts)) < len(classes):
        raise ConfigError(
            f"{name} has {len(set(concepts))} different classes in {len(classes)}: name two or more, once."
        )
    for concept, prompts in classes:
        if isinstance(prompts, str) or not prompts or not all(map(_is_text, prompts)):
            raise ConfigError(f"{name}: the prompts of {concept!r} are {prompts!r}: write texts in a tuple.")


def _is_text(prompt) -> bool:
    try:
        return isinstance(prompt, str) and bool(clean_text(prompt))
    except BadRecord:
        return False


class Classification:
    """Zero-shot classification of a signal over a stream."""

    def __init__(
        self,
        stream: FiniteStream,
        merge: Callable[[TrainState], Multimodal],
        mesh: Mesh,
        *,
        signal: str,
        classes: Classes,
        length: int,
        tokenizer: CaptionTokenizer,
        workers: int,
    ):
        """Args: `signal` to classify; `classes`, the concept and the prompts of each; `length` tokens of a prompt."""
        self.number = {concept: number for number, (concept, _) in enumerate(classes)}
        most = max(len(prompts) for _, prompts in classes)
        recipe = Recipe({}, {"caption": TextSpec("captions", most, length)}, tokenizer)

        def describe(state, batch):
            model = merge(state)
            assert model.dual is not None, "validated to be there"
            there = batch.present("caption")[..., None]
            mean = jnp.where(there, model.encode(batch).embeddings["caption"], 0).sum(axis=1)
            return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12), model.dual.scale

        def embed(state, batch):
            return merge(state).encode(batch).embeddings[signal][:, 0], batch.present(signal)[:, 0]

        shards = batch_shards(mesh)
        rows = -(-min(len(classes), MOST_ROWS) // shards) * shards
        prompts = evaluation_stream("prompts", _Prompts(classes), recipe, rows=rows)
        self.describing = Sweep(cast(FiniteStream, prompts), describe, mesh, workers=0)
        self.sweep = Sweep(stream, embed, mesh, workers=workers)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns accuracies, average precisions and calibration, and of how many examples.

        `accuracy`, the share of examples whose class is the likeliest; `mean_average_precision`, the mean over classes
        of how early the class ranks its own examples; both with `_chance`; `calibration_error`; `brier_score`;
        `examples`; `left_out`, those of no class that is listed; `rejected`, records left out.
        """
        vectors, label, left_out = self._collect(state)
        counts = {"examples": len(label), "left_out": left_out, "rejected": len(self.sweep.rejected)}
        numbers = self._measure(*self._describe(state), vectors, label) if len(label) else {}
        return numbers | {name: float(count) for name, count in counts.items()}

    def _describe(self, state) -> tuple[Float[np.ndarray, "K E"], float]:
        """The classes' embeddings, and what cosines are multiplied by."""
        found = [(vectors[loaded.batch.valid], float(scale)) for loaded, (vectors, scale) in self.describing(state)]
        return np.concatenate([vectors for vectors, _ in found]), found[0][1]

    def _collect(self, state) -> tuple[Float[np.ndarray, "n E"], Int[np.ndarray, "n"], int]:
        """Embeddings and classes of the examples that have the signal, and how many are of no class."""
        parts, left_out = [], 0
        for loaded, (vectors, there) in self.sweep(state):
            label = np.array([self.number.get(example.concept, -1) if example else -1 for example in loaded.examples])
            parts.append((vectors[there & (label >= 0)], label[there & (label >= 0)]))
            left_out += int((there & (label < 0)).sum())
        vectors, label = map(np.concatenate, zip(*parts))
        return vectors, label, left_out

    def _measure(self, classes, scale, vectors, label):
        probabilities = softmax(scale * (vectors @ classes.T), axis=1)
        right, shown = probabilities.argmax(axis=1) == label, np.unique(label)
        right &= np.isfinite(probabilities).all(axis=1)  # the largest of what is no number is said to be the first
        ranking = rank(classes[shown], vectors, lambda rows: shown[rows, None] == label[None], chunk=CHUNK)
        return {
            "accuracy": float(right.mean()),
            "accuracy_chance": 1 / len(classes),
            "mean_average_precision": float(ranking.precision.mean()),
            "mean_average_precision_chance": chance_precision(ranking.positives, len(vectors)),
            "calibration_error": calibration_error(probabilities.max(axis=1), right),
            "brier_score": brier_score(probabilities, label),
        }
