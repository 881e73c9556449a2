"""Does every evaluator keep the contract of `evaluator.py`? A new one joins by one entry of `tests/small_routed.py`."""

import json
import math
import numbers

import numpy as np
import pytest

from input_pipeline.collate import collate
from mmfuse import build_goals
from mmfuse.analysis.examples import show_examples
from mmfuse.build_data import make_text_specs
from mmfuse.evaluators.evaluator import Evaluator
from mmfuse.experiment import Experiment
from tests import small, small_routed

CONFIG = small_routed.get_config()
with CONFIG.unlocked():
    CONFIG.evaluators.update(small.get_config().evaluators)
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
    return {name: evaluator(state) for name, evaluator in experiment.evaluation.evaluators.items()}


def test_every_kind_of_evaluator_is_tested():
    assert {CONFIG.evaluators[name].kind for name in NAMES} == build_goals.EVALUATORS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_it_returns_finite_numbers_by_name(experiment, once, name):
    assert isinstance(experiment.evaluation.evaluators[name], Evaluator)
    assert 0 <= once[name]["rejected"] < CONFIG.evaluators[name].stream.examples
    for key, value in once[name].items():
        assert isinstance(key, str) and isinstance(value, numbers.Real) and math.isfinite(value), key


@pytest.fixture(scope="module")
def measured(experiment, state, once):
    """What all of them say after that, under the names of a summary."""
    return experiment.evaluation.measure(state, "again")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_the_same_again_under_its_name(measured, once, name):
    called = CONFIG.evaluators[name].get("called", {})
    assert {called.get(key, f"{name}/{key}"): value for key, value in once[name].items()}.items() <= measured.items()
    assert set(called) <= once[name].keys()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_can_be_read_again(experiment, measured, once, name):
    path = experiment.workdir / "results-again" / f"{name}.json"
    keys = {"answering": {"question_id", "answer"}, "captioning": {"image_id", "caption"}}
    assert path.exists() == (CONFIG.evaluators[name].kind in keys)
    if path.exists():
        results = json.loads(path.read_text())
        assert results == experiment.evaluation.evaluators[name].results
        assert {frozenset(result) for result in results} == {frozenset(keys[CONFIG.evaluators[name].kind])}
        assert len(results) == once[name]["questions" if "questions" in once[name] else "candidates"]


@pytest.fixture(scope="module")
def shown(experiment, state, measured):
    """What a report shows of that, with no evaluator run again."""
    evaluation, its = experiment.evaluation, experiment.evaluation.evaluators
    with pytest.MonkeyPatch.context() as patch:
        for evaluator in its.values():
            patch.setattr(evaluator.sweep, "function", None)
        return show_examples(state, its, evaluation.sources, evaluation.merge, evaluation.mesh)


@pytest.mark.parametrize("name", NAMES)
def test_a_report_shows_what_was_found(experiment, shown, name):
    kind = {"answering": "answers", "captioning": "answers", "retrieval": "neighbours"}.get(
        CONFIG.evaluators[name].kind
    )
    assert shown.get(name, {}).keys() == ({kind} if kind else set())
    if kind == "answers":
        cards = shown[name]["answers"]["shown"]
        signals = set(CONFIG.evaluators[name].stream.signals)
        assert all(card["gates"].keys() == signals for card in cards)
        assert all(gate["open"] or 0 <= gate["probability"] < 1 for card in cards for gate in card["gates"].values())
        texts = [" ".join(word["text"] for word in text["words"]) for card in cards for text in card["texts"]]
        results = experiment.evaluation.evaluators[name].results[: len(texts)]
        assert texts == [" ".join(result.get("answer", result.get("caption")).split()) for result in results]
        assert any(texts)


@pytest.mark.parametrize("name", NAMES)
def test_holes_in_the_stream_change_nothing(experiment, state, once, name):
    """The same records in order, with a batch of nothing but holes between them."""
    evaluator, config = experiment.evaluation.evaluators[name], CONFIG.evaluators[name].stream
    nothing = collate([], config.rows, dict(config.signals), make_text_specs(config))
    whole = evaluator.sweep.stream
    evaluator.sweep.stream = [whole[0], nothing, *(whole[step] for step in range(1, len(whole)))]
    try:
        np.testing.assert_equal(evaluator(state), once[name])
    finally:
        evaluator.sweep.stream = whole
