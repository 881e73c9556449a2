"""Each step of a run has one phase, whose capacities are what the config says of that step."""

from mmfuse.phases import first_steps, phases_of
from tests import small, small_routed

CAPACITY = {"image": 0.5, "audio": 0.75, "source": 0.5}


def phase_at(config, step):
    return next(phase.config for phase in phases_of(config) if step <= phase.last)


def test_capacities_fall_from_all_to_what_is_asked_for():
    config = small_routed.get_config()
    with config.unlocked():
        config.model.router.update(dense_steps=3, falling=((5, 0.8), (9, 0.6)), learns=False)
    expected = {1: 1.0, 3: 1.0, 4: 0.8, 5: 0.8, 6: 0.6, 9: 0.6, 10: 0.0, 10**9: 0.0}
    for step, least in expected.items():
        router = phase_at(config, step).model.router
        assert router.capacity.to_dict() == {name: max(least, share) for name, share in CAPACITY.items()}
        assert (router.gate, router.learns) == (("dimmed", True) if step <= 3 else ("threshold", False))
    assert phase_at(config, 10) is config


def test_phases_ahead_begin_within_the_run():
    config = small_routed.get_config()
    with config.unlocked():
        config.model.router.update(dense_steps=3, falling=((5, 0.8), (30, 0.6)))
        config.train.steps = 12
    expected = {0: [1, 4, 6], 2: [3, 4, 6], 3: [4, 6], 4: [5, 6], 11: [12], 12: []}
    assert {done: first_steps(config, done) for done in expected} == expected


def test_who_has_no_router_has_one_phase():
    config = small.get_config()
    assert [phase.config for phase in phases_of(config)] == [config]
    assert first_steps(config, 0) == [1]
