"""Does each thing find its counterpart among all others?

Recall@K: the share of queries that have one of their counterparts among the K nearest candidates, both ways, between
all listed pairs. Several captions of an image are all its counterparts; so is whatever has the same concept. Ranks are
counted for a chunk of queries at a time: the full matrix is never in memory. Where texts are in several languages,
each language is also measured alone: its texts as queries, or as the only candidates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Shaped

from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.models.memory import present
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState
from mmfuse.types import Caption

LABELS = {"caption": "text", "source": "description"}  # what the numbers call a role
TIE = 1e-6  # cosines this close are equal: the same two vectors give 6e-8 more or less from chunk to chunk


def ranks(
    queries: Float[np.ndarray, "A E"],
    candidates: Float[np.ndarray, "B E"],
    positive: Callable[[slice], Bool[np.ndarray, "a B"]],
    *,
    chunk: int,
) -> Int[np.ndarray, "A"]:
    """How many wrong candidates stand before the nearest right one; 0 is the best.

    A tie counts as lost, and so does a score that is not a number: a collapsed model finds nothing.

    Args:
      queries, candidates: unit embeddings.
      positive: which candidates are right for a slice of queries; each query has at least one.
      chunk: queries at a time.
    """
    found = []
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        scores, right = queries[rows] @ candidates.T, positive(rows)
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found.append((~right & ~(scores < best - TIE)).sum(axis=1))
    return np.concatenate(found)


class _Found(NamedTuple):
    embeddings: Float[np.ndarray, "A E"]
    concept: Int[np.ndarray, "A"]
    language: Shaped[np.ndarray, "A"]  # of texts; empty for signals

    def only(self, language: str) -> "_Found":
        """The texts of one language; signals as they are."""
        return _Found(*(field[np.isin(self.language, ("", language))] for field in self))


class Retrieval:
    """Recall@K between modalities over a stream."""

    def __init__(
        self,
        stream: FiniteStream,
        merge: Callable[[TrainState], Multimodal],
        mesh: Mesh,
        *,
        between: Sequence[Sequence[str]],
        at: Sequence[int],
        chunk: int,
        workers: int,
    ):
        """Args: `between` pairs of signals and text roles; `at` the Ks; `chunk` queries ranked at a time."""
        self.between, self.at, self.chunk = between, at, chunk
        self.names = sorted({name for pair in between for name in pair})

        def embed(state, batch):
            memory = merge(state).encode(batch)
            return {name: (memory.embeddings[name], present(batch, name)) for name in self.names}

        self.sweep = Sweep(stream, embed, mesh, workers=workers)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns `{a}_to_{b}[/{language}]/recall_at_{k}`, `…/candidates`, and `rejected`, how many records were.

        Queries without a counterpart among the candidates are left out.
        """
        sides = self._collect(state)
        numbers = {}
        for pair in self.between:
            for a, b in (pair, pair[::-1]):
                label, texts = f"{LABELS.get(a, a)}_to_{LABELS.get(b, b)}", {*sides[a].language, *sides[b].language}
                numbers |= self._measure(label, sides[a], sides[b])
                languages = sorted(texts - {""})
                for language in languages if len(languages) > 1 else ():
                    numbers |= self._measure(f"{label}/{language}", sides[a].only(language), sides[b].only(language))
        return numbers | {"rejected": float(len(self.sweep.rejected))}

    def _collect(self, state) -> dict[str, _Found]:
        parts = {name: [] for name in self.names}
        for loaded, out in self.sweep(state):
            for name, (embeddings, there) in out.items():
                concept = np.repeat(loaded.batch.concept[:, None], there.shape[1], axis=1)
                language = np.full(there.shape, "", object)
                for row, pieces in enumerate(loaded.pieces):
                    spoken = [piece.language for piece in pieces.get(name, ()) if isinstance(piece, Caption)]
                    language[row, : len(spoken)] = spoken
                parts[name].append((embeddings[there], concept[there], language[there]))
        return {name: _Found(*map(np.concatenate, zip(*found))) for name, found in parts.items()}

    def _measure(self, label, queries, candidates):
        answerable = np.isin(queries.concept, candidates.concept)
        if not answerable.any():
            return {f"{label}/candidates": float(len(candidates.concept))}
        concept = queries.concept[answerable]
        rank = ranks(
            queries.embeddings[answerable],
            candidates.embeddings,
            lambda rows: concept[rows, None] == candidates.concept[None],
            chunk=self.chunk,
        )
        recall = {f"{label}/recall_at_{k}": float((rank < k).mean()) for k in self.at}
        return recall | {f"{label}/candidates": float(len(candidates.concept))}
