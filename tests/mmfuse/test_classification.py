"""Are classes described by the mean of their prompts, and examples counted right?"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from input_pipeline.collate import Fitted, Row, collate
from mmfuse.evaluators.classification import Classification
from mmfuse.models.memory import Memory
from mmfuse.training.sharding import make_mesh
from mmfuse.training.state import TrainState
from mmfuse.types import Example, Rejected

WIDTH, PROMPTS, SCALE = 5, 3, 7.0
CLASSES = (
    ("cat", ("a cat", "one red cat", "how many cats")),
    ("dog", ("a dog", "one dog", "blue dog")),
    ("St. Bernard", ("a St. Bernard",)),
    ("fox", ("a fox", "left fox")),
)
CONCEPT = [("cat", "dog", "St. Bernard", "wolf")[i % 4] for i in range(23)]  # nothing is a fox
BLIND, BAD = 9, 4  # a record without an image, and one that is torn


class Looked:
    """A model whose embeddings are looked up in tables, by the record's index."""

    def __init__(self, state):
        self.tables, self.dual = state.trainable, SimpleNamespace(scale=jnp.float32(SCALE))

    def encode(self, batch):
        name = "caption" if "caption" in batch.text else "image"
        return Memory({}, {name: self.tables[name][batch.origin[:, 1]]}, {}, {}, {})


def row(index):
    if index == BAD:
        return Row("test", (0, index), 0, {}, {}, {}, rejected=Rejected("torn", str(index)))
    signals = {} if index == BLIND else {"image": Fitted(np.zeros((2, 3, 3), np.uint8), (2, 3))}
    return Row("test", (0, index), 0, signals, {}, {}, example=Example(str(index), CONCEPT[index], {}))


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def tables():
    random = np.random.default_rng(0)
    caption = unit(random.standard_normal((len(CLASSES), PROMPTS, WIDTH)))
    towards = [[concept for concept, _ in CLASSES].index(name) if name != "wolf" else 0 for name in CONCEPT]
    image = unit(caption[towards, 0] + random.standard_normal((len(CONCEPT), WIDTH)))[:, None]
    return {"image": image.astype(np.float32), "caption": caption.astype(np.float32)}


def evaluate(tables, tokenizer, rows=4, devices=2, classes=CLASSES, start=0):
    numbers = range(start, len(CONCEPT))
    stream = [
        collate([row(i) for i in numbers[s : s + rows]], rows, {"image": (2, 3)}, {})
        for s in range(0, len(numbers), rows)
    ]
    state = TrainState(jax.tree.map(jnp.asarray, tables), {}, {}, {}, jnp.int32(0), jnp.int32(0))
    options = {"signal": "image", "classes": classes, "length": 13, "tokenizer": tokenizer, "workers": 1}
    return Classification(stream, Looked, make_mesh(data=devices), **options)(state)


def by_hand(tables):
    means = [unit(tables["caption"][i, : len(prompts)].mean(axis=0)) for i, (_, prompts) in enumerate(CLASSES)]
    kept = [i for i in range(len(CONCEPT)) if i not in (BLIND, BAD) and CONCEPT[i] != "wolf"]
    label = np.array([[concept for concept, _ in CLASSES].index(CONCEPT[i]) for i in kept])
    cosines = tables["image"][kept, 0] @ np.array(means).T
    likely = np.exp(SCALE * cosines) / np.exp(SCALE * cosines).sum(axis=1, keepdims=True)
    right, sure = likely.argmax(axis=1) == label, likely.max(axis=1)
    bins = [np.flatnonzero((sure > b / 15) & (sure <= (b + 1) / 15)) for b in range(15)]
    gaps = [len(its) / len(kept) * abs(right[its].mean() - sure[its].mean()) for its in bins if len(its)]
    return {
        "accuracy": right.mean(),
        "accuracy_chance": 1 / 4,
        "mean_average_precision": np.mean([average_precision_score(label == k, cosines[:, k]) for k in range(3)]),
        "calibration_error": sum(gaps),
        "brier_score": np.mean(((likely - np.eye(4)[label]) ** 2).sum(axis=1)),
        "examples": len(kept),
        "left_out": sum(concept == "wolf" for concept in CONCEPT),
        "rejected": 1,
    }


@pytest.mark.parametrize(("rows", "devices"), [(4, 2), (32, 8), (1, 1)])
def test_numbers_are_those_by_hand(tables, tokenizer, rows, devices):
    found, expected = evaluate(tables, tokenizer, rows, devices), by_hand(tables)
    assert 0 < found.pop("mean_average_precision_chance") < found["mean_average_precision"] < 1
    assert found == pytest.approx(expected, rel=1e-5)
    assert 1 / 4 < found["accuracy"] < 1


def test_prompts_that_are_not_there_count_for_nothing(tables, tokenizer):
    """A class of one prompt stands where this prompt points, whatever the model makes of padding."""
    other = tables | {"caption": tables["caption"].copy()}
    other["caption"][2, 1:] = np.nan
    other["caption"][3, 2] = np.nan
    assert evaluate(other, tokenizer) == evaluate(tables, tokenizer)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # nor is how sure such a model is a number
def test_embeddings_that_are_no_numbers_are_of_no_class(tables, tokenizer):
    found = evaluate(tables | {"image": np.full_like(tables["image"], np.nan)}, tokenizer)
    assert found["accuracy"] == 0 and np.isnan(found["brier_score"])
    towards_none = tables["image"].copy()
    towards_none[:: len(CLASSES)] = np.nan  # all that are of the first class
    found, whole = evaluate(tables | {"image": towards_none}, tokenizer)["accuracy"], evaluate(tables, tokenizer)
    assert 0 < found < whole["accuracy"]


def test_examples_of_no_class_are_counted(tables, tokenizer):
    found = evaluate(tables, tokenizer, start=BLIND, classes=(("ant", ("an ant",)), ("bee", ("a bee",))))
    assert found == {"examples": 0, "left_out": len(CONCEPT) - BLIND - 1, "rejected": 0}
