"""Is calibration what it is by hand?"""

import numpy as np
import pytest

from mmfuse.evaluators.calibration import brier_score, calibration_error


def test_calibration_error_by_hand():
    # two bins of five: (0.2, 0.4] holds two, 0.4 at its upper edge among them; (0.8, 1] holds three
    confidence = np.array([0.3, 0.4, 0.9, 1.0, 0.85])
    right = np.array([True, False, True, False, False])
    expected = 2 / 5 * abs(1 / 2 - 0.35) + 3 / 5 * abs(1 / 3 - 2.75 / 3)
    assert calibration_error(confidence, right, bins=5) == pytest.approx(expected)


def test_errors_of_a_bin_make_up_for_one_another_and_those_of_two_bins_do_not():
    confidence = np.array([0.5, 0.5, 0.7, 0.7])
    assert calibration_error(confidence, np.array([True, False, True, False]), bins=1) == pytest.approx(0.1)
    assert calibration_error(confidence, np.array([False, False, True, True]), bins=1) == pytest.approx(0.1)
    assert calibration_error(confidence, np.array([False, False, True, True]), bins=10) == pytest.approx(0.4)


def test_the_ends():
    sure, never = np.ones(3), np.zeros(3)
    assert calibration_error(sure, np.ones(3, bool)) == calibration_error(never, np.zeros(3, bool)) == 0
    assert calibration_error(sure, np.zeros(3, bool)) == calibration_error(never, np.ones(3, bool)) == 1


def test_a_calibrated_predictor_has_little_error():
    random = np.random.default_rng(0)
    confidence = random.uniform(size=100_003)
    assert calibration_error(confidence, random.uniform(size=100_003) < confidence) < 0.01


def test_brier_score_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    expected = ((0.25 + 0.49 + 0.04) + (1 + 1)) / 2
    assert brier_score(probabilities, np.array([1, 2])) == pytest.approx(expected)
    assert brier_score(np.full((5, 4), 1 / 4), np.arange(5) % 4) == pytest.approx(1 - 1 / 4)
