"""Are recalls those of a full sort, with several captions and shared concepts, and is chance beside them?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from input_pipeline.collate import Fitted, Row, collate
from input_pipeline.texts import Encoded, TextSpec
from mmfuse.evaluators.ranking import chance_precision, chance_recall
from mmfuse.evaluators.retrieval import Retrieval
from mmfuse.models.memory import Memory
from mmfuse.training.sharding import make_mesh
from mmfuse.training.state import TrainState
from mmfuse.types import Caption, Rejected
from tests.ranks import sorted_ranks, unit

WIDTH, CAPTIONS = 5, 2


class Looked:
    """A model whose embeddings are looked up in tables, by the record's index."""

    def __init__(self, state):
        self.tables = state.trainable

    def encode(self, batch):
        return Memory({}, {name: table[batch.origin[:, 1]] for name, table in self.tables.items()}, {}, {}, {})


SIZE = 13
CONCEPT = np.array([50, 51, 52, 53, 54, 50, 56, 57, 58, 59, 60, 61, 62], np.int32)
CAPTIONED = np.array([2, 2, 1, 2, 2, 1, 2, 0, 2, 2, 2, 2, 2])  # record 7 has none
BLIND = 9  # has no image
BAD = 4
LANGUAGE = np.full((SIZE, CAPTIONS), "en")


def row(index):
    if index == BAD:
        return Row("test", (0, index), 0, {}, {}, {}, rejected=Rejected("torn", str(index)))
    signals = {} if index == BLIND else {"image": Fitted(np.zeros((2, 3, 3), np.uint8), (2, 3))}
    sequence = Encoded(np.array([1, 2], np.int32), np.zeros(2, np.float32))
    captions = {"caption": [sequence] * CAPTIONED[index]}
    pieces = {"caption": [Caption("", str(LANGUAGE[index, c])) for c in range(CAPTIONED[index])]}
    return Row("test", (0, index), int(CONCEPT[index]), signals, captions, pieces)


def stream_of(rows):
    spec = {"caption": TextSpec("captions", CAPTIONS, 3)}
    starts = range(0, SIZE, rows)
    return [collate([row(i) for i in range(s, min(s + rows, SIZE))], rows, {"image": (2, 3)}, spec) for s in starts]


def evaluate(tables, rows=4, chunk=3, at=(1, 3, 5), devices=2):
    state = TrainState(jax.tree.map(jnp.asarray, tables), {}, {}, {}, jnp.int32(0), jnp.int32(0))
    options = {"between": (("image", "caption"),), "at": at, "chunk": chunk, "workers": 1}
    return Retrieval(stream_of(rows), Looked, make_mesh(data=devices), **options)(state)


@pytest.fixture
def tables():
    random = np.random.default_rng(2)
    image = unit(random, SIZE, 1, WIDTH)
    caption = image + 1.5 * unit(random, SIZE, CAPTIONS, WIDTH)  # so that much is found, but not all
    return {"image": image, "caption": caption / np.linalg.norm(caption, axis=-1, keepdims=True)}


def expected(tables, at=(1, 3, 5), languages=("en",)):
    """Recalls by a full sort over what is there, of the texts of some languages."""
    images = [i for i in range(SIZE) if i not in (BAD, BLIND)]
    texts = [(i, c) for i in range(SIZE) if i != BAD for c in range(CAPTIONED[i]) if LANGUAGE[i, c] in languages]
    sides = {
        "image": (np.array([tables["image"][i, 0] for i in images]), CONCEPT[images]),
        "text": (np.array([tables["caption"][i, c] for i, c in texts]), CONCEPT[[i for i, _ in texts]]),
    }
    numbers = {"rejected": 1}
    for a, b in (("image", "text"), ("text", "image")):
        (queries, asked), (candidates, given) = sides[a], sides[b]
        answerable = np.isin(asked, given)
        right = asked[answerable][:, None] == given[None]
        places = np.array(sorted_ranks(queries[answerable], candidates, right))
        numbers |= {f"{a}_to_{b}/recall_at_{k}": np.mean(places < k) for k in at}
        numbers |= {f"{a}_to_{b}/recall_at_{k}_chance": chance_recall(right.sum(axis=1), len(given), k) for k in at}
        precision = [average_precision_score(its, candidates @ query) for query, its in zip(queries[answerable], right)]
        numbers[f"{a}_to_{b}/mean_average_precision"] = np.mean(precision)
        numbers[f"{a}_to_{b}/mean_average_precision_chance"] = chance_precision(right.sum(axis=1), len(given))
        numbers[f"{a}_to_{b}/candidates"] = len(given)
    return numbers


@pytest.mark.parametrize(("rows", "chunk", "devices"), [(4, 3, 2), (16, 100, 8), (2, 1, 1)])
def test_recall_both_ways(tables, rows, chunk, devices):
    found = evaluate(tables, rows, chunk, devices=devices)
    assert found == pytest.approx(expected(tables))
    assert 0 < found["image_to_text/recall_at_1"] < found["image_to_text/recall_at_5"]


def test_each_language_alone(tables, monkeypatch):
    monkeypatch.setattr(f"{__name__}.LANGUAGE", np.random.default_rng(5).choice(["de", "en", "sw"], (SIZE, CAPTIONS)))
    whole = expected(tables, languages=("de", "en", "sw"))
    for language in ("de", "en", "sw"):
        alone = expected(tables, languages=(language,))
        del alone["rejected"]
        whole |= {name.replace("/", f"/{language}/"): value for name, value in alone.items()}
    assert evaluate(tables) == pytest.approx(whole)


def test_a_perfect_model_finds_everything_at_once(tables):
    of_concept = np.eye(SIZE, dtype=np.float32)[np.unique(CONCEPT, return_inverse=True)[1]]
    perfect = {"image": of_concept[:, None], "caption": np.repeat(of_concept[:, None], CAPTIONS, axis=1)}
    found = evaluate(perfect)
    assert {value for name, value in found.items() if name.endswith(("recall_at_1", "precision"))} == {1.0}


def test_without_counterparts_there_is_no_recall(tables, monkeypatch):
    monkeypatch.setattr(f"{__name__}.CAPTIONED", np.zeros(SIZE, int))
    assert evaluate(tables) == {"image_to_text/candidates": 0, "text_to_image/candidates": 11, "rejected": 1}


def test_an_image_that_several_records_share_counts_once(tables):
    """Records 0 and 5 are of one concept; an image like another concept's stays, and is as good as the right one."""
    different = evaluate(tables)
    tables["image"][5] = tables["image"][0]
    same = evaluate(tables)
    assert different["image_to_text/candidates"] == same["image_to_text/candidates"]
    assert same["text_to_image/candidates"] == different["text_to_image/candidates"] - 1
    tables["image"][5] = unit(np.random.default_rng(9), 1, WIDTH)[0]
    tables["image"][6] = tables["image"][0]
    assert evaluate(tables)["text_to_image/candidates"] == different["text_to_image/candidates"]


def test_copies_of_a_wrong_image_do_not_crowd_out_the_right_one(tables, monkeypatch):
    """What records 8 to 12 share is nearest to the caption of record 2; its own image is the second that differs."""
    monkeypatch.setattr(f"{__name__}.CONCEPT", np.where(np.arange(SIZE) >= 8, 60, CONCEPT))
    one, other = np.eye(WIDTH, dtype=np.float32)[:2]
    tables["image"][:], tables["image"][8:], tables["image"][2] = -one, one, 0.9 * one + np.sqrt(0.19) * other
    monkeypatch.setattr(f"{__name__}.CAPTIONED", np.where(np.arange(SIZE) == 2, 1, 0))
    tables["caption"][:] = one
    numbers = evaluate(tables, at=(1, 2))
    assert (numbers["text_to_image/recall_at_1"], numbers["text_to_image/recall_at_2"]) == (0, 1)
