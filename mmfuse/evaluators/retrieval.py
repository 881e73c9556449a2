"""Does each thing find its counterpart among all others?

Recall@K, the share of queries that have one of their counterparts among the K nearest candidates, and mean average
precision, which asks for all counterparts; both ways, between all listed pairs, and what a random order would reach
beside them. Several captions of an image are all its counterparts; so is whatever has the same concept. An image or a
sound that several records of a concept share counts once. The embeddings of the whole stream are on the host, their
product never is: see `ranking.py`. Where texts are in several languages, each language is also measured alone: its
texts as queries, or as the only candidates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, Shaped

from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.evaluators.ranking import chance_precision, chance_recall, rank
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState
from mmfuse.types import Caption

LABELS = {"caption": "text", "source": "description"}  # what the numbers call a role
SAME = 1e-4  # embeddings of one concept whose cosine is this near to 1 are of the same signal


class _Found(NamedTuple):
    embeddings: Float[np.ndarray, "A E"]
    concept: Int[np.ndarray, "A"]
    language: Shaped[np.ndarray, "A"]  # of texts; empty for signals

    def only(self, language: str) -> "_Found":
        """The texts of one language; signals as they are."""
        return _Found(*(field[np.isin(self.language, ("", language))] for field in self))


class Retrieval:
    """Recall@K and mean average precision between modalities over a stream."""

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
            return {name: (memory.embeddings[name], batch.present(name)) for name in self.names}

        self.sweep = Sweep(stream, embed, mesh, workers=workers)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns numbers of `{a}_to_{b}[/{language}]/`, and `rejected`, how many records were.

        They are `recall_at_{k}` and `mean_average_precision`, the same with `_chance`, what is expected of a random
        order, and `candidates`. Queries without a counterpart among the candidates are left out.
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
        found = {name: _Found(*map(np.concatenate, zip(*found))) for name, found in parts.items()}
        return {name: side if name in LABELS else _without_repeats(side) for name, side in found.items()}

    def _measure(self, label, queries, candidates):
        answerable, number = np.isin(queries.concept, candidates.concept), len(candidates.concept)
        counts = {f"{label}/candidates": float(number)}
        if not answerable.any():
            return counts
        concept = queries.concept[answerable]
        ranking = rank(
            queries.embeddings[answerable],
            candidates.embeddings,
            lambda rows: concept[rows, None] == candidates.concept[None],
            chunk=self.chunk,
        )
        numbers = {"mean_average_precision": float(ranking.precision.mean())}
        numbers["mean_average_precision_chance"] = chance_precision(ranking.positives, number)
        for k in self.at:
            numbers[f"recall_at_{k}"] = float((ranking.first < k).mean())
            numbers[f"recall_at_{k}_chance"] = chance_recall(ranking.positives, number, k)
        return {f"{label}/{name}": value for name, value in numbers.items()} | counts


def _without_repeats(found: _Found) -> _Found:
    """The signals, without those that have the concept and the embedding of an earlier one."""
    order = np.argsort(found.concept, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(found.concept[order])) + 1)
    stays = np.ones(len(found.concept), bool)
    for rows in (rows for rows in groups if len(rows) > 1):
        cosine = found.embeddings[rows] @ found.embeddings[rows].T
        stays[rows] = ~np.tril(cosine > 1 - SAME, -1).any(axis=1)
    return _Found(*(field[stays] for field in found))
