"""Is it counted right how well mismatches are noticed, kind by kind?"""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from input_pipeline.collate import Fitted, Row, collate
from input_pipeline.texts import Encoded, TextSpec
from mmfuse.evaluators.agreement import Agreeing
from mmfuse.routing.consensus import Agreement
from mmfuse.routing.gates import Gates
from mmfuse.training.sharding import make_mesh
from mmfuse.training.state import TrainState
from mmfuse.types import Example, Rejected, Tokens

NUMBER, BAD, BLIND, SHUT = 41, 7, 10, 13  # records; one that is torn, without an image, with a sound that is not read
NAMES, PAIRS = ("image", "audio", "source"), [("image", "audio"), ("image", "source"), ("audio", "source")]
random = np.random.default_rng(0)
KINDS = [["", "", ""], ["swap", "", ""], ["", "alter", ""], ["", "", "swap"], ["alter", "swap", ""]]
BEFALLEN = [KINDS[i % len(KINDS)] for i in range(NUMBER)]
LOGITS = random.standard_normal((NUMBER, 3)).astype(np.float32)
SOFT = random.random((NUMBER, 3)).astype(np.float32)
OPEN = random.random((NUMBER, 3)) < 0.6
USED = [i for i in range(NUMBER) if i != BAD]
LEFT_OUT = {"image": BLIND, "audio": SHUT, "source": None}


class Compared:
    """A model whose agreement is looked up by the record's index."""

    def __init__(self, state):
        self.logits, self.open, self.soft = state.trainable

    def encode(self, batch):
        index = batch.origin[:, 1]
        gates = {
            name: Gates(*[mine := self.open[index, place]] * 2, self.soft[index, place], mine)
            for place, name in enumerate(NAMES)
        }
        mismatch = {pair: self.logits[index, place] for place, pair in enumerate(PAIRS)}
        tokens = {}
        for name in NAMES:
            read = batch.present(name) & ((index != SHUT) | (name != "audio"))[:, None]
            tokens[name] = Tokens(*[read.astype(jnp.int32)] * len(Tokens._fields))
        return SimpleNamespace(agreement=Agreement(tokens, mismatch, gates))


def row(index):
    if index == BAD:
        return Row("test", (0, index), 0, {}, {}, {}, rejected=Rejected("torn", str(index)))
    truth = {name: (kind, 1.0) for name, kind in zip(("image", "audio", "description"), BEFALLEN[index]) if kind}
    example = Example(str(index), str(index), {}, truth={"corruptions": truth})
    image = {} if index == BLIND else {"image": Fitted(np.zeros((2, 3, 3), np.uint8), (2, 3))}
    sound = {"audio": Fitted(np.zeros(5, np.float32), (5,))}
    text = {"source": [Encoded(np.array([3]), np.ones(1))]}
    return Row("test", (0, index), 0, image | sound, text, {}, example=example)


@pytest.fixture(scope="module")
def numbers():
    shapes, text = {"image": (2, 3), "audio": (5,)}, {"source": TextSpec("description", 1, 4)}
    stream = [collate([row(i) for i in range(s, min(s + 4, NUMBER))], 4, shapes, text) for s in range(0, NUMBER, 4)]
    state = TrainState(tuple(map(jnp.asarray, (LOGITS, OPEN, SOFT))), {}, {}, {}, jnp.int32(0), jnp.int32(0))
    return Agreeing(stream, Compared, make_mesh(data=2), workers=1)(state)


def odd(a, b):
    """The probability that one of two modalities is the odd one, for each record."""
    return (1 - SOFT[:, NAMES.index(a)]) + (1 - SOFT[:, NAMES.index(b)])


@pytest.mark.parametrize("kind", ["swap", "alter"])
@pytest.mark.parametrize("measure", ["auroc", "consensus"])
def test_areas_compare_clean_pairs_with_pairs_of_one_such_side(numbers, measure, kind):
    areas = []
    for place, (a, b) in enumerate(PAIRS):
        used = [i for i in USED if i not in (LEFT_OUT[a], LEFT_OUT[b])]
        sides = {i: sorted([BEFALLEN[i][NAMES.index(a)], BEFALLEN[i][NAMES.index(b)]]) for i in used}
        false = {i: sides[i] == ["", kind] for i in used if sides[i] in (["", ""], ["", kind])}
        if not any(false.values()):
            assert f"{measure}/{kind}/{a}_{b}" not in numbers
            continue
        scores = {"auroc": LOGITS[:, place], "consensus": odd(a, b)}[measure]
        areas.append(roc_auc_score([*false.values()], [scores[i] for i in false]))
        assert numbers[f"{measure}/{kind}/{a}_{b}"] == pytest.approx(areas[-1])
    assert numbers[f"{measure}/{kind}"] == pytest.approx(np.mean(areas))


def test_open_gates_are_counted_by_what_befell_their_modality(numbers):
    for place, name in enumerate(NAMES):
        used = [i for i in USED if i != LEFT_OUT[name]]
        parts = {"": used, "/clean": [i for i in used if not BEFALLEN[i][place]]}
        parts |= {f"/{kind}/5": [i for i in used if BEFALLEN[i][place] == kind] for kind in ("swap", "alter")}
        for part, of in parts.items():
            if of:
                assert numbers[f"open/{name}{part}"] == pytest.approx(np.mean([OPEN[i, place] for i in of]))
                assert numbers[f"soft/{name}{part}"] == pytest.approx(np.mean([SOFT[i, place] for i in of]))
            else:
                assert f"open/{name}{part}" not in numbers
    assert numbers["rejected"] == 1
