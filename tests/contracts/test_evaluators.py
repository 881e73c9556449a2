"""Does every evaluator keep the contract of `evaluator.py`? A new one joins by one entry of `tests/small.py`."""

import math
import numbers

import numpy as np
import pytest

from input_pipeline.collate import collate
from mmfuse import build
from mmfuse.evaluators.evaluator import Evaluator
from mmfuse.experiment import Experiment
from tests import small

CONFIG = small.get_config()
NAMES = sorted(CONFIG.evaluators)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return Experiment(CONFIG, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def state(experiment):
    return experiment.maker.create(0)


@pytest.fixture(scope="module")
def once(experiment, state):
    """What each evaluator says at first."""
    return {name: evaluator(state) for name, evaluator in experiment.evaluators.items()}


def test_every_kind_of_evaluator_is_tested():
    assert {CONFIG.evaluators[name].kind for name in NAMES} == build.EVALUATORS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_it_returns_finite_numbers_by_name(experiment, once, name):
    assert isinstance(experiment.evaluators[name], Evaluator)
    assert 0 <= once[name]["rejected"] < CONFIG.evaluators[name].stream.examples
    for key, value in once[name].items():
        assert isinstance(key, str) and isinstance(value, numbers.Real) and math.isfinite(value), key


@pytest.mark.parametrize("name", NAMES)
def test_it_says_the_same_again(experiment, state, once, name):
    assert experiment.evaluators[name](state) == once[name]


@pytest.mark.parametrize("name", NAMES)
def test_holes_in_the_stream_change_nothing(experiment, state, once, name):
    """The same records in order, with a batch of nothing but holes between them."""
    evaluator, config = experiment.evaluators[name], CONFIG.evaluators[name].stream
    text = {role: build.TextSpec(**spec) for role, spec in config.text.items()}
    nothing = collate([], config.rows, dict(config.signals), text)
    whole = evaluator.sweep.stream
    evaluator.sweep.stream = [whole[0], nothing, *(whole[step] for step in range(1, len(whole)))]
    try:
        np.testing.assert_equal(evaluator(state), once[name])
    finally:
        evaluator.sweep.stream = whole
