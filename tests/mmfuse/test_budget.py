"""Minutes become steps once; see `tests/test_main.py` for a run by minutes."""

import pytest

from mmfuse.budget import fit_to_minutes
from mmfuse.types import ConfigError
from tests import small_silent


def config(**train):
    made = small_silent.get_config()
    with made.unlocked():
        made.train.update(train)
    return made


def test_without_minutes_nothing_changes(tmp_path):
    for plain in (config(), config(minutes=0.0)):
        assert fit_to_minutes(plain, {}, tmp_path) is plain


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 2), (20, 2), (19, 1), (9, 0)])
def test_a_run_that_goes_on_keeps_its_steps(tmp_path, steps, warmup):
    fitted = fit_to_minutes(config(minutes=5.0), {"train": {"steps": steps}}, tmp_path)
    assert (fitted.train.steps, fitted.optimizer.warmup) == (steps, warmup)


def test_minutes_that_are_too_few_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="are over before the first step"):
        fit_to_minutes(config(minutes=0.001), {}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_steps_are_the_most_that_is_done(tmp_path):
    assert fit_to_minutes(config(minutes=60.0), {}, tmp_path).train.steps == 12
