"""What do the gates let through, and do they notice what is spoiled?

Only the router runs, no tower. Beside how often each gate is open stands how often it is where the signal was left as
it is, and where it was spoiled, kind by kind and level by level, for sources that know it (`truth["corruptions"]`).

What a gate is that has collapsed is said in `routing/instruments.py`.
"""

import logging
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh
from sklearn.metrics import roc_auc_score

from mmfuse.evaluators.damage import CLEAN, damage_of, shares_by_damage
from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.models.multimodal import Multimodal
from mmfuse.routing.instruments import has_collapsed
from mmfuse.training.state import TrainState

LOGGER = logging.getLogger(__name__)


class Gating:
    """Shares of open gates over a stream."""

    def __init__(self, stream: FiniteStream, merge: Callable[[TrainState], Multimodal], mesh: Mesh, *, workers: int):
        def decide(state, batch):
            router = merge(state).router
            gates = router(batch).items()
            there = {name: batch.present(name).any(axis=1) for name, _ in gates}
            return {name: gate.open for name, gate in gates}, {name: gate.soft for name, gate in gates}, there

        self.merge, self.sweep = merge, Sweep(stream, decide, mesh, workers=workers)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns numbers of the modalities that are there in an example.

        Of each: `open/{modality}`, the share of open gates; the same with `/clean` and, for each kind of corruption,
        `/{kind}/{level}` (`damage.py`); `soft/…` the mean probability of being open, likewise; `agreement/…`
        1 − |hard − soft|; `auroc/…` how well the soft gate tells what is clean from what is spoiled; `collapsed/…`.
        `cost` is the share of the towers' dense FLOPs that what is open needs (a batch pays for the rung of the ladder
        that holds it), `rejected` how many records were left out.
        """
        costs = self.merge(state).router.costs
        (opened, soft, there), examples = self.sweep.joined(state)
        numbers = {"cost": float(sum(costs[name] * opened[name].mean() for name in opened))}
        for name in opened:
            if not there[name].any():
                continue
            mine = [column[there[name]] for column in (opened[name], soft[name])]
            befallen = [damage_of(example, name) for example, present in zip(examples, there[name]) if present]
            numbers |= shares_by_damage(name, *mine, befallen)
            numbers |= self._health(name, *mine, np.array([damage == CLEAN for damage in befallen]))
        return numbers | {"rejected": float(len(self.sweep.rejected))}

    def _health(self, name, opened, soft, clean) -> dict[str, float]:
        share, varied = float(opened.mean()), float(np.abs(soft - soft.mean()).mean())
        collapsed = has_collapsed(share, varied)
        if collapsed:
            LOGGER.warning("the gate of %s has collapsed: open for %.1f%%, deviation %.3f", name, 100 * share, varied)
        numbers = {f"agreement/{name}": float(1 - np.abs(opened - soft).mean()), f"collapsed/{name}": float(collapsed)}
        if clean.any() and not clean.all():
            numbers[f"auroc/{name}"] = float(roc_auc_score(clean, soft))
        return numbers
