"""What did each query find?

The first batch of a retrieval evaluator, both ways between its pairs, as plain data for the page: the first queries and
the worst ones, with the candidates that are nearest to them and the rank of the right one.

    [{"from", "to", "candidates", "queries": [query]}]
    query = {"item", "rank", "worst", "found": [{"item", "cosine", "right"}]}        item = {"text", "picture"?}
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from input_pipeline.collate import Loaded
from mmfuse.analysis import pictures
from mmfuse.evaluators.ranking import wrong_before

FIRST, WORST, NEAREST = 3, 2, 5


Embedded = tuple[Float[np.ndarray, "B C E"], Bool[np.ndarray, "B C"]]  # unit vectors, and which of them are there


class _Side(NamedTuple):
    """All things of one kind in the batch: where they stand, what they mean, and what they show."""

    embeddings: Float[np.ndarray, "A E"]
    row: Int[np.ndarray, "A"]
    items: list[dict[str, str]]


def show_neighbours(
    loaded: Loaded,
    embedded: Mapping[str, Embedded],
    spectrograms: Float[np.ndarray, "B frames bands"] | None,
    between: Sequence[Sequence[str]],
) -> list[dict[str, Any]]:
    """What the queries of a batch found.

    Args:
      loaded: the batch.
      embedded: its signals and texts by name.
      spectrograms: of the sounds, or None.
      between: the pairs of names to look between.
    """
    sides = {name: _side(loaded, name, embedded[name], spectrograms) for pair in between for name in pair}
    return [
        {"from": a, "to": b, "candidates": len(sides[b].row), "queries": _queries(loaded, sides[a], sides[b])}
        for pair in between
        for a, b in (tuple(pair), tuple(pair)[::-1])
        if len(sides[a].row) and len(sides[b].row)
    ]


def _side(loaded, name, embedded, spectrograms) -> _Side:
    embeddings, there = embedded
    row, place = np.nonzero(there)
    items = [_item(loaded, name, spectrograms, *at) for at in zip(row, place)]
    # of a model that has diverged they are no numbers
    return _Side(np.nan_to_num(embeddings[there]), row, items)


def _item(loaded, name, spectrograms, row, place) -> dict[str, str]:
    if name == "image":
        signal = loaded.batch.signals[name]
        height, width = signal.size[row, place]
        picture = pictures.picture_uri(signal.values[row, place, :height, :width])
        return {"picture": picture, "text": f"picture of example {loaded.batch.origin[row, 1]}"}
    if name == "audio" and spectrograms is not None:
        picture = pictures.spectrogram_uri(spectrograms[row])
        return {"picture": picture, "text": f"spectrogram of example {loaded.batch.origin[row, 1]}"}
    if name in loaded.batch.text:
        return {"text": loaded.pieces[row][name][place].text}
    return {"text": f"{name} of example {loaded.batch.origin[row, 1]}"}


def _queries(loaded, queries, candidates) -> list[dict[str, Any]]:
    cosine = queries.embeddings @ candidates.embeddings.T
    concept = loaded.batch.concept
    right = concept[queries.row][:, None] == concept[candidates.row][None]
    asked = np.flatnonzero(right.any(axis=1))
    place = {query: 1 + int(wrong_before(cosine[query], right[query])[0]) for query in asked}
    worst = [query for query in sorted(asked, key=lambda query: -place[query]) if place[query] > 1][:WORST]
    chosen = [*[(query, False) for query in asked[:FIRST]], *[(query, True) for query in worst]]
    return [
        {
            "item": queries.items[query],
            "rank": place[query],
            "worst": bad,
            "found": [
                {"item": candidates.items[at], "cosine": float(cosine[query, at]), "right": bool(right[query, at])}
                for at in np.argsort(-cosine[query], kind="stable")[:NEAREST]
            ],
        }
        for query, bad in chosen
    ]
