"""Are ranks those of a full sort, and are precisions and chances what they are by hand?"""

import itertools
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mmfuse.evaluators.ranking import average_precision, chance_precision, chance_recall, rank, wrong_before
from tests.ranks import sorted_ranks, unit

WIDTH = 5


@pytest.fixture
def pairs():
    random = np.random.default_rng(0)
    right = random.integers(7, size=23)[:, None] == np.concatenate([np.arange(7), random.integers(7, size=24)])[None]
    return unit(random, 23, WIDTH), unit(random, 31, WIDTH), right


@pytest.mark.parametrize("chunk", [1, 2, 7, 22, 23, 100])
def test_ranks_are_those_of_a_sort(pairs, chunk):
    queries, candidates, right = pairs
    found = rank(queries, candidates, lambda rows: right[rows], chunk=chunk).first
    assert found.tolist() == sorted_ranks(queries, candidates, right)
    assert len(set(found.tolist())) > 5


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize(("width", "candidates"), [(7, 101), (16, 259), (257, 1031)])
def test_a_collapsed_model_finds_nothing(width, candidates, chunk):
    # the same two vectors: a product of one row differs by 6e-8 from column to column
    same = np.repeat(unit(np.random.default_rng(0), 1, width), candidates, axis=0)
    right = np.eye(13, candidates, dtype=bool)
    found = rank(same[:13], same, lambda rows: right[rows], chunk=chunk).first
    assert (found == candidates - 1).all()


def test_what_is_not_a_number_finds_nothing_and_is_not_found(pairs):
    queries, candidates, _ = pairs
    right = np.arange(23)[:, None] == np.arange(31)[None]
    queries, candidates = queries.copy(), candidates.copy()
    candidates[:23] = queries  # everything is found at once
    assert (rank(queries, candidates, lambda rows: right[rows], chunk=9).first == 0).all()
    queries[3], candidates[5], candidates[29] = np.nan, np.nan, np.nan
    found = rank(queries, candidates, lambda rows: right[rows], chunk=9).first
    assert found[3] == found[5] == 30  # a query, or all of its counterparts, that is not a number
    assert (np.delete(found, [3, 5]) == 2).all()  # behind the two candidates that are none


def test_the_full_matrix_is_never_in_memory():
    random = np.random.default_rng(0)
    queries, candidates = unit(random, 1009, 3), unit(random, 2003, 3)
    concept = np.arange(1009)
    tracemalloc.start()
    rank(queries, candidates, lambda rows: concept[rows, None] == np.arange(2003)[None], chunk=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1009 * 2003 / 4


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_average_precision_is_that_of_a_reference(pairs, chunk):
    queries, candidates, right = pairs
    found = rank(queries, candidates, lambda rows: right[rows], chunk=chunk)
    expected = [average_precision_score(its, candidates @ query) for query, its in zip(queries, right)]
    np.testing.assert_allclose(found.precision, expected)
    assert found.positives.tolist() == right.sum(axis=1).tolist() and len(set(found.positives)) > 3


def test_average_precision_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.7, 0.1, 0.5], np.float32)
    right = np.array([False, True, True, False, True, False])
    before = wrong_before(scores, right)
    assert before.tolist() == [1, 2, 3]  # a tie is lost
    assert average_precision(before) == pytest.approx((1 / 2 + 2 / 4 + 3 / 6) / 3)
    assert average_precision(np.array([0, 0])) == 1


def test_chance_is_the_mean_over_all_orders():
    orders = [np.array(order) for order in itertools.permutations(range(5))]
    for positives in (1, 2, 5):
        counted = np.array([positives])
        places = [np.flatnonzero(order < positives) for order in orders]
        precisions = [np.mean(np.arange(1, positives + 1) / (place + 1)) for place in places]
        assert chance_precision(counted, 5) == pytest.approx(np.mean(precisions))
        for k in (1, 2, 4, 7):
            assert chance_recall(counted, 5, k) == pytest.approx(np.mean([place[0] < k for place in places]))


def test_chance_is_the_mean_over_queries():
    positives = np.array([1, 3, 4])
    each = [chance_recall(positives[i : i + 1], 11, 2) for i in range(3)]
    assert chance_recall(positives, 11, 2) == pytest.approx(np.mean(each)) and each[0] == pytest.approx(2 / 11)
    each = [chance_precision(positives[i : i + 1], 11) for i in range(3)]
    assert chance_precision(positives, 11) == pytest.approx(np.mean(each))
    assert chance_precision(np.array([1]), 1) == 1
