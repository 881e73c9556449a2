"""Which config is each step of a run made of?

At first a router may have all be read, some of it dimmed (`gates.Dimmed`), and its capacities may fall by and by.
Shapes are static, so each phase is a program of its own.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from ml_collections import ConfigDict


class Phase(NamedTuple):
    """What a step is made of up to the `last` one."""

    last: float
    config: ConfigDict


def phases_of(config: ConfigDict) -> Iterator[Phase]:
    """All steps of a run, in order: those that read everything, those whose capacity falls, and the rest."""
    if "router" in config.model:
        router = config.model.router
        if router.dense_steps:
            yield Phase(router.dense_steps, _with_all_read(config))
        for last, share in router.get("falling", ()):  # runs from before there was one have none
            yield Phase(last, _with_capacity(config, share))
    yield Phase(math.inf, config)


def first_steps(config: ConfigDict, done: int) -> list[int]:
    """The next step after those that are done, and where each later phase of the run begins."""
    begins = {done + 1, *(phase.last + 1 for phase in phases_of(config))}
    return sorted(int(step) for step in begins if done < step <= config.train.steps)


def _with_all_read(config: ConfigDict) -> ConfigDict:
    """The config with a capacity that holds every example, and gates that learn what being open is worth."""
    whole = _with_capacity(config, 1.0)
    whole.model.router.update(gate="dimmed", learns=True)
    return whole


def _with_capacity(config, least) -> ConfigDict:
    """The config with capacities of that share at least."""
    wide = config.copy_and_resolve_references().unlock()  # configs from before gates could be kept have no `learns`
    wide.model.router.capacity = {name: max(least, share) for name, share in config.model.router.capacity.items()}
    return wide
