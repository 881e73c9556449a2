"""How early does a ranking give what was asked for?

Candidates are ranked for each query by the product of their unit embeddings. What is counted is how many wrong ones
stand before each right one; recall@K and average precision are functions of these counts, and beside both stands what a
random order would reach. Ranks are counted for a chunk of queries at a time, so that memory is linear in their number:
a million queries among a million candidates, 256 at a time, need 1.3 GB for a block of scores and of what is right; the
full matrix would be 4 TB.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

TIE = 1e-6  # cosines this close are equal: the same two vectors give 6e-8 more or less from chunk to chunk


class Ranking(NamedTuple):
    """What became of each query.

    Attributes:
      first: wrong candidates that stand before the nearest right one; 0 is the best.
      precision: average precision, in (0, 1].
      positives: how many candidates are right.
    """

    first: Int[np.ndarray, "A"]
    precision: Float[np.ndarray, "A"]
    positives: Int[np.ndarray, "A"]


def rank(
    queries: Float[np.ndarray, "A E"],
    candidates: Float[np.ndarray, "B E"],
    positive: Callable[[slice], Bool[np.ndarray, "a B"]],
    *,
    chunk: int,
) -> Ranking:
    """Ranks all candidates for each query.

    A tie counts as lost, and so does a score that is not a number: a collapsed model finds nothing.

    Args:
      queries, candidates: unit embeddings.
      positive: which candidates are right for a slice of queries; each query has at least one.
      chunk: queries at a time.
    """

    def counts(rows):
        for scores, right in zip(queries[rows] @ candidates.T, positive(rows)):
            before = wrong_before(scores, right)
            yield int(before[0]), average_precision(before), len(before)

    # one list at a time: what is left of a chunk goes before the next one is made
    found = [each for start in range(0, len(queries), chunk) for each in [*counts(slice(start, start + chunk))]]
    first, precision, positives = zip(*found)
    return Ranking(np.array(first), np.array(precision), np.array(positives))


def wrong_before(scores: Float[np.ndarray, "B"], right: Bool[np.ndarray, "B"]) -> Int[np.ndarray, "p"]:
    """How many wrong candidates stand before each of the p right ones, from the best of these to the worst.

    Nothing is sorted but the right ones: with p of B candidates it takes B · log p.
    """
    its = np.where(np.isnan(scores[right]), -np.inf, scores[right])
    limits = np.sort(its - its.dtype.type(TIE))
    # before how many right ones each wrong one stands; before all of them where it is not a number
    lead = np.searchsorted(limits, scores[~right], side="right")
    return np.cumsum(np.bincount(lead, minlength=len(limits) + 1)[:0:-1])


def average_precision(before: Int[np.ndarray, "p"]) -> float:
    """The mean over right candidates of the precision at their place, not interpolated:

        AP = 1/p · Σᵢ i / (i + wᵢ),    wᵢ wrong candidates stand before the i-th right one

    Args:
      before: w, ascending.

    Returns:
      In (0, 1]; 1 where all right ones stand before all wrong ones.

    Source: Manning, Raghavan & Schütze 2008, "Introduction to Information Retrieval", section 8.4.
    """
    place = np.arange(1, len(before) + 1)
    return float(np.mean(place / (place + before)))


def chance_recall(positives: Int[np.ndarray, "A"], candidates: int, k: int) -> float:
    """The recall@K that is expected of a random order, the mean over queries of 1 − C(n − p, k) / C(n, k).

    It is k / n where every query has one counterpart.

    Args:
      positives: p of each query.
      candidates: n.
      k: how many of the first are looked at; all where there are fewer.
    """
    drawn = np.arange(min(k, candidates))[:, None]
    missed = np.maximum(candidates - positives - drawn, 0) / (candidates - drawn)
    return float(1 - missed.prod(axis=0).mean())


def chance_precision(positives: Int[np.ndarray, "A"], candidates: int) -> float:
    """The average precision that is expected of a random order, the mean over queries of

        1/n · (Hₙ + (p − 1) / (n − 1) · (n − Hₙ)),    Hₙ = 1 + 1/2 + … + 1/n

    Args:
      positives: p of each query.
      candidates: n.

    Source: Bestgen 2015, "Exact expected average precision of the random baseline for system evaluation".
    """
    harmonic = (1 / np.arange(1, candidates + 1)).sum()
    others = (positives - 1) / max(candidates - 1, 1)
    return float((harmonic + others * (candidates - harmonic)).mean() / candidates)
