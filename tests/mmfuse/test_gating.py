"""Are open gates counted right, and is a gate that has collapsed noticed?"""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from input_pipeline.collate import Fitted, Row, collate
from mmfuse.evaluators.damage import CLEAN, parts_by_damage
from mmfuse.evaluators.gating import Gating
from mmfuse.routing.gates import Gates
from mmfuse.training.sharding import make_mesh
from mmfuse.training.state import TrainState
from mmfuse.types import Example, Rejected

NUMBER, BLIND, BAD = 23, 9, 4  # of records; one without an image, and one that is torn
random = np.random.default_rng(0)
SOFT = random.random(NUMBER).astype(np.float32)
KINDS = ("darkness", "noise", "", "")
BEFALLEN = [{"image": (KINDS[i % 4], (i + 1) / NUMBER)} if KINDS[i % 4] else {} for i in range(NUMBER)]
USED = [i for i in range(NUMBER) if i not in (BLIND, BAD)]


class Routed:
    """A model whose gates are looked up in a table, by the record's index."""

    def __init__(self, state):
        soft = state.trainable

        def router(batch):
            mine = jnp.where(batch.signals["image"].present, soft[batch.origin[:, 1]], 0.0)
            return {"image": Gates(mine > 0.5, mine, mine, mine > 0.5)}

        router.costs = {"image": 0.75}
        self.router = router


def row(index):
    if index == BAD:
        return Row("test", (0, index), 0, {}, {}, {}, rejected=Rejected("torn", str(index)))
    signals = {} if index == BLIND else {"image": Fitted(np.zeros((2, 3, 3), np.uint8), (2, 3))}
    example = Example(str(index), str(index), {}, truth={"corruptions": BEFALLEN[index]})
    return Row("test", (0, index), 0, signals, {}, {}, example=example)


def evaluate(soft, rows=4):
    stream = [
        collate([row(i) for i in range(s, min(s + rows, NUMBER))], rows, {"image": (2, 3)}, {})
        for s in range(0, NUMBER, rows)
    ]
    state = TrainState(jnp.asarray(soft), {}, {}, {}, jnp.int32(0), jnp.int32(0))
    return Gating(stream, Routed, make_mesh(data=2), workers=1)(state)


@pytest.fixture(scope="module")
def numbers():
    return evaluate(SOFT)


def of(rows):
    return float(np.mean([SOFT[i] > 0.5 for i in rows])), float(np.mean([SOFT[i] for i in rows]))


def test_shares_are_those_of_the_examples_that_have_the_modality(numbers):
    opened, soft = of(USED)
    assert numbers["open/image"] == pytest.approx(opened) and numbers["soft/image"] == pytest.approx(soft)
    distance = np.mean([abs((SOFT[i] > 0.5) - SOFT[i]) for i in USED])
    assert numbers["agreement/image"] == pytest.approx(1 - distance)
    assert numbers["rejected"] == 1 and numbers["collapsed/image"] == 0


def test_the_cost_is_over_all_examples(numbers):
    opened = [SOFT[i] > 0.5 and i != BLIND for i in range(NUMBER) if i != BAD]
    assert numbers["cost"] == pytest.approx(0.75 * np.mean(opened))


def test_each_kind_and_level_is_counted_apart(numbers):
    parts = {"/clean": [i for i in USED if not BEFALLEN[i]]}
    for i in USED:
        if BEFALLEN[i]:
            kind, level = BEFALLEN[i]["image"]
            parts.setdefault(f"/{kind}/{int(np.ceil(level * 5))}", []).append(i)
    for part, rows in parts.items():
        assert (numbers[f"open/image{part}"], numbers[f"soft/image{part}"]) == pytest.approx(of(rows))
    assert {name for name in numbers if name.startswith("open/")} == {"open/image"} | {f"open/image{p}" for p in parts}


def test_what_has_no_examples_is_no_part():
    noise = ("noise", 0.5)
    assert [name for name, _ in parts_by_damage([noise, noise])] == ["", "/noise/3"]
    assert [name for name, _ in parts_by_damage([CLEAN, CLEAN])] == [""]
    assert [name for name, _ in parts_by_damage([CLEAN, noise])] == ["", "/clean", "/noise/3"]


def test_what_is_spoiled_is_noticed_as_often_as_a_reference_says(numbers):
    clean = [not BEFALLEN[i] for i in USED]
    assert numbers["auroc/image"] == pytest.approx(roc_auc_score(clean, [SOFT[i] for i in USED]))


@pytest.mark.parametrize("soft", [0.9 + 0.1 * SOFT, 0.1 * SOFT, np.where(SOFT > 0.5, 0.501, 0.499)])
def test_a_gate_that_has_collapsed_is_noticed(soft, caplog):
    assert evaluate(soft.astype(np.float32))["collapsed/image"] == 1
    assert "the gate of image has collapsed" in caplog.text
