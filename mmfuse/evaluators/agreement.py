"""Does the model notice a modality that is of something else?

Over sources that mix in signals of other examples and say so (`truth["corruptions"]`, see `damage.py`): how well a
pair's mismatch tells real pairs from such in which one side is of something else, and which gates that shuts.
"""

from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh
from sklearn.metrics import roc_auc_score

from mmfuse.evaluators.damage import CLEAN, damage_of, shares_by_damage
from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState

ABSENT = "absent"  # in place of a kind, where there is no signal


class Agreeing:
    """Areas under the curve of mismatch, and shares of open gates, over a stream."""

    def __init__(self, stream: FiniteStream, merge: Callable[[TrainState], Multimodal], mesh: Mesh, *, workers: int):
        def compare(state, batch):
            agreement = merge(state).encode(batch).agreement
            # of what is absent, and of what a router has shut, there are no tokens to be compared
            there = {name: (tokens.segment > 0).any(axis=1) for name, tokens in agreement.tokens.items()}
            gates = agreement.gates.items()
            return agreement.mismatch, {n: gate.open for n, gate in gates}, {n: gate.soft for n, gate in gates}, there

        self.sweep = Sweep(stream, compare, mesh, workers=workers)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns

        `open/{modality}`, the share of open gates of it, and `soft/{modality}`, the mean probability that it belongs;
        the same with `/clean` and, for each kind of corruption, `/{kind}/{level}` (`damage.py`);
        `auroc/{kind}/{a}_{b}`: how well their mismatch tells pairs that both are as they were from pairs of which one
        side suffered that kind and the other nothing; `auroc/{kind}`, the mean over pairs; `consensus/{kind}/{a}_{b}`
        and `consensus/{kind}`, the same of the probability that a or b is the odd one, on which all pairs have a say;
        `rejected`, how many records were left out. What is absent, or was shut by a router, counts nowhere.
        """
        (mismatch, opened, soft, there), examples = self.sweep.joined(state)
        numbers = {"rejected": float(len(self.sweep.rejected))}
        kinds = {}
        for name in opened:
            befallen = [damage_of(example, name) for example in examples]
            kinds[name] = np.where(there[name], [kind for kind, _ in befallen], ABSENT)
            if there[name].any():
                mine = [damage for damage, present in zip(befallen, there[name]) if present]
                numbers |= shares_by_damage(name, opened[name][there[name]], soft[name][there[name]], mine)
        odd = {(a, b): 2 - soft[a] - soft[b] for a, b in mismatch}
        for kind in sorted({*np.concatenate([*kinds.values()])} - {CLEAN[0], ABSENT}):
            for measure, scores in (("auroc", mismatch), ("consensus", odd)):
                areas = {pair: _area(scores[pair], *(kinds[name] for name in pair), kind) for pair in mismatch}
                found = {f"{measure}/{kind}/{'_'.join(pair)}": area for pair, area in areas.items() if area is not None}
                if found:
                    numbers |= found | {f"{measure}/{kind}": float(np.mean([*found.values()]))}
        return numbers


def _area(logits, a, b, kind):
    """Of one pair of modalities, whose damages are a and b; None where there is nothing to tell apart."""
    clean = (a == CLEAN[0]) & (b == CLEAN[0])
    false = ((a == kind) & (b == CLEAN[0])) | ((a == CLEAN[0]) & (b == kind))
    if not clean.any() or not false.any():
        return None
    kept = clean | false
    return float(roc_auc_score(false[kept], logits[kept]))
