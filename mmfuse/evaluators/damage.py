"""Which examples were spoiled, how, and by how much?

Sources that spoil signals say so: `truth["corruptions"]` of an example has the (kind, level) of each modality that was.
Numbers of an evaluator are then also given for what is clean and for each kind, by level: `/clean`, `/{kind}/{level}`.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Float

from mmfuse.types import Example

LEVELS = 5  # bins of the level of a corruption, from 0 to 1
CLEAN = ("", 0.0)
TRUTH = {"source": "description"}  # what sources call a role

Damage = tuple[str, float]  # its kind and level


def damage_of(example: Example, modality: str) -> Damage:
    """What befell a modality of an example; `CLEAN` where nothing did."""
    return example.truth.get("corruptions", {}).get(TRUTH.get(modality, modality), CLEAN)


def shares_by_damage(
    name: str, opened: Bool[np.ndarray, "n"], soft: Float[np.ndarray, "n"], befallen: Iterable[Damage]
) -> dict[str, float]:
    """`open/{name}` and `soft/{name}`, the means of a gate over n examples and over their parts by damage."""
    columns = {"open": opened, "soft": soft}
    return {
        f"{what}/{name}{part}": float(column[rows].mean())
        for part, rows in parts_by_damage(befallen)
        for what, column in columns.items()
    }


def damage_of_all(example: Example, modalities: Iterable[str]) -> Damage:
    """What befell an example in these modalities, those that are read: its one damage, "several" at the highest level
    of them, or `CLEAN`."""
    befallen = [damage for name in modalities if (damage := damage_of(example, name)) != CLEAN]
    if len(befallen) > 1:
        return "several", max(level for _, level in befallen)
    return befallen[0] if befallen else CLEAN


def parts_by_damage(befallen: Iterable[Damage]) -> Iterator[tuple[str, Bool[np.ndarray, "n"]]]:
    """Names of parts of n examples, all of them first, and which they are; level 1 to `LEVELS`."""
    kinds, levels = (np.array(column) for column in zip(*befallen))
    clean = kinds == ""
    yield "", np.ones(len(kinds), bool)
    if clean.any() and not clean.all():
        yield "/clean", clean
    bins = np.ceil(levels * LEVELS).clip(1)
    for kind in sorted(set(kinds) - {""}):
        for level in sorted(set(bins[kinds == kind])):
            yield f"/{kind}/{level:.0f}", (kinds == kind) & (bins == level)
