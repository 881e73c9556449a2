"""Minutes become steps once; see `tests/test_main.py` for a run by minutes."""

import pytest

from mmfuse.budget import fit_to_minutes
from mmfuse.experiment import Experiment
from mmfuse.types import ConfigError
from tests import small_silent


def experiment(workdir, **train):
    config = small_silent.get_config()
    with config.unlocked():
        config.train.update(train)
    return Experiment(config, workdir)


def test_without_minutes_nothing_changes(tmp_path):
    for plain in (experiment(tmp_path), experiment(tmp_path, minutes=0.0)):
        assert fit_to_minutes(plain, {}) is plain


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 2), (20, 2), (19, 1), (9, 0)])
def test_a_run_that_goes_on_keeps_its_steps(tmp_path, steps, warmup):
    fitted = fit_to_minutes(experiment(tmp_path, minutes=5.0), {"train": {"steps": steps}}).config
    assert (fitted.train.steps, fitted.optimizer.warmup) == (steps, warmup)


def test_minutes_that_are_too_few_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="are over before the first step"):
        fit_to_minutes(experiment(tmp_path / "none", minutes=0.001), {})
    assert not (tmp_path / "none").exists()


def test_steps_are_the_most_that_is_done(tmp_path):
    measured = experiment(tmp_path, minutes=60.0)
    fitted = fit_to_minutes(measured, {})
    assert fitted.config.train.steps == 12
    assert fitted.streams is measured.streams and fitted.tokenizer is measured.tokenizer
