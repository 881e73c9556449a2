"""The pointing game by hand."""

import numpy as np
import pytest

from mmfuse.analysis.pointing import Pointed, middles_inside, point, score

# Three rows and five columns of patches: middles at x = 0.1, 0.3, … 0.9 and y = 1/6, 1/2, 5/6.
BOXES = [(0.25, 0.0, 0.55, 0.4), (0.85, 0.8, 1.0, 1.0)]


def test_middles_that_lie_in_a_box():
    expected = np.zeros((3, 5), bool)
    expected[0, 1:3] = expected[2, 4] = True
    np.testing.assert_array_equal(middles_inside((3, 5), BOXES), expected)


@pytest.mark.parametrize(("most", "hit"), [((0, 2), True), ((2, 4), True), ((1, 2), False), ((2, 0), False)])
def test_the_brightest_patch_points(most, hit):
    heat = np.random.default_rng(0).uniform(0, 1, (3, 5)).astype(np.float32)
    heat[most] = 2
    assert point(heat, BOXES) == Pointed(hit, pytest.approx(3 / 15))


def test_games_that_cannot_be_played_are_not_counted():
    heat = np.ones((3, 5), np.float32)
    assert point(np.zeros_like(heat), BOXES) is None
    assert point(heat, []) is None
    assert point(heat, [(0.0, 0.0, 0.05, 0.05)]) is None  # between the middles
    assert score([None, Pointed(True, 0.25), Pointed(False, 0.5), Pointed(True, 0.75)]) == {
        "hits": pytest.approx(2 / 3),
        "chance": 0.5,
        "games": 3,
    }
    assert score([None]) == {"games": 0}
