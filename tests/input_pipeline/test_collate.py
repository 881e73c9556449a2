"""Are rows packed into static shapes, with a mask for whatever is not there?"""

import numpy as np
import pytest

from input_pipeline.collate import Fitted, Row, collate
from input_pipeline.texts import Encoded, TextSpec
from mmfuse.types import Caption, Example, Rejected

SIGNALS = {"image": (5, 3), "audio": (13,)}
TEXT = {"caption": TextSpec("captions", 2, 7), "target": TextSpec("captions", 1, 11)}


def encoded(*ids):
    return Encoded(np.array(ids, np.int32), np.linspace(0, 1, len(ids), dtype=np.float32))


def row(index, source="a", captions=2, **changes):
    """A row whose every number depends on its index."""
    signals = {
        "image": Fitted(np.full((5, 2, 3), 10 + index, np.uint8), (5, 2)),
        "audio": Fitted(np.full(11, index / 8, np.float32), (11,)),
    }
    sequences = {
        "caption": [encoded(*range(index, index + 3 + i)) for i in range(captions)],
        "target": [encoded(index, 9)],
    }
    pieces = {"caption": [Caption(f"{index} {i}") for i in range(captions)], "target": [Caption(f"{index}")]}
    return Row(source, (3, index), 100 + index, signals, sequences, pieces)._replace(**changes)


def rejected(source, reason):
    return Row(source, (3, 999), 0, {}, {}, {}, rejected=Rejected(reason, "key"))


def arrays(batch):
    """Every array of a batch by name."""
    signals = {f"{name}/{field}": a for name, s in batch.signals.items() for field, a in s._asdict().items()}
    texts = {f"{role}/{field}": a for role, t in batch.text.items() for field, a in t._asdict().items()}
    return signals | texts | {"valid": batch.valid, "concept": batch.concept, "origin": batch.origin}


def test_rows_by_hand():
    batch = collate([row(4), row(6)], 2, SIGNALS, TEXT).batch
    image, audio, caption, target = (*batch.signals.values(), *batch.text.values())
    assert (image.values[0, 0, :, :2] == 14).all() and (image.values[1, 0, :, :2] == 16).all()
    assert (image.values[:, :, :, 2] == 0).all()
    assert (audio.values[1, 0, :11] == 0.75).all() and (audio.values[1, 0, 11:] == 0).all()
    assert image.item_mask.tolist() == audio.item_mask.tolist() == [[True], [True]]
    assert image.size.tolist() == [[[5, 2]], [[5, 2]]] and audio.size.tolist() == [[[11]], [[11]]]
    assert caption.ids[1].tolist() == [[6, 7, 8, 0, 0, 0, 0], [6, 7, 8, 9, 0, 0, 0]]
    assert caption.segment[1].tolist() == [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]]
    assert caption.weight[1, 0].tolist() == [0, 0.5, 1, 0, 0, 0, 0]
    assert target.ids[:, 0, :3].tolist() == [[4, 9, 0], [6, 9, 0]]
    assert batch.valid.all() and batch.concept.tolist() == [104, 106] and batch.origin.tolist() == [[3, 4], [3, 6]]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(1), row(2), row(3)],
        [rejected("a", "bad"), row(2, captions=1)],
        [row(5, signals={}, captions=0), row(6)],
    ],
)
def test_shapes_and_dtypes_are_static(rows):
    expected = collate([row(0)], 3, SIGNALS, TEXT).batch
    for name, array in arrays(collate(rows, 3, SIGNALS, TEXT).batch).items():
        assert (array.shape, array.dtype) == (arrays(expected)[name].shape, arrays(expected)[name].dtype), name
    assert arrays(expected)["image/values"].shape == (3, 1, 5, 3, 3)
    assert arrays(expected)["audio/size"].shape == (3, 1, 1)
    assert arrays(expected)["caption/ids"].shape == (3, 2, 7)
    assert {arrays(expected)[name].dtype for name in ("concept", "origin", "caption/ids")} == {np.dtype("int32")}


def test_a_hole_is_empty_and_leaves_its_neighbours_alone():
    holed = collate([row(4), rejected("a", "bad"), row(6)], 4, SIGNALS, TEXT)
    whole = collate([row(4), row(5), row(6)], 4, SIGNALS, TEXT)
    for name, array in arrays(holed.batch).items():
        empty = -1 if name == "origin" else 0
        assert (array[[1, 3]] == empty).all(), name
        np.testing.assert_array_equal(array[[0, 2]], arrays(whole.batch)[name][[0, 2]], name)
    assert holed.batch.valid.tolist() == [True, False, True, False]


def test_read_is_used_and_rejected():
    rows = [row(1), rejected("b", "bad"), row(2, "b"), rejected("a", "bad"), rejected("b", "worse"), row(3)]
    assert collate(rows, 7, SIGNALS, TEXT).tally == {
        "a/read": 3,
        "a/used": 2,
        "a/rejected/bad": 1,
        "b/read": 3,
        "b/used": 1,
        "b/rejected/bad": 1,
        "b/rejected/worse": 1,
    }


def test_packed_texts_stand_behind_one_another():
    """A row of `number` 2, packed: its first and third text share a row, and the last has no room."""
    spec = {"target": TextSpec("captions", 2, 7, packed=2)}
    texts = [encoded(21, 22, 23), encoded(31, 32, 33, 34, 35), encoded(41, 42, 43, 44), encoded(51, 52, 53)]
    packed = row(4, signals={}, sequences={"target": texts}, pieces={"target": [Caption("")] * 4})
    loaded = collate([rejected("a", "bad"), packed], 3, {}, spec)
    text = loaded.batch.text["target"]
    assert text.ids[1].tolist() == [[21, 22, 23, 41, 42, 43, 44], [31, 32, 33, 34, 35, 0, 0]]
    assert text.segment[1].tolist() == [[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0]]
    np.testing.assert_array_equal(text.weight[1, 0], [*texts[0].weight, *texts[2].weight])
    np.testing.assert_array_equal(text.weight[1, 1], [*texts[1].weight, 0, 0])
    assert not text.segment[[0, 2]].any() and not text.ids[[0, 2]].any()
    assert loaded.tally == {"a/read": 2, "a/used": 1, "a/rejected/bad": 1, "a/left_out/target": 1}
    again = collate([packed, packed._replace(source="b")], 2, {}, spec)
    assert {name: n for name, n in again.tally.items() if "left" in name} == {f"{s}/left_out/target": 1 for s in "ab"}


def test_missing_rows_are_counted_nowhere():
    assert collate([], 5, SIGNALS, TEXT).tally == {}
    assert collate([row(1)], 5, SIGNALS, TEXT).tally == {"a/read": 1, "a/used": 1}


def test_pieces_stand_beside_their_rows():
    loaded = collate([row(1), rejected("a", "bad"), row(2, captions=1)], 4, SIGNALS, TEXT)
    assert [pieces.get("caption") for pieces in loaded.pieces] == [
        [Caption("1 0"), Caption("1 1")],
        None,
        [Caption("2 0")],
        None,
    ]


def test_records_stand_beside_their_rows():
    one, two = Example("one", "1", {}), Example("two", "2", {})
    loaded = collate([row(1, example=one), rejected("a", "bad"), row(2, example=two)], 4, SIGNALS, TEXT)
    assert loaded.examples == [one, None, two, None]


def test_absent_texts_and_signals_are_masked():
    batch = collate([row(1, captions=1), row(2, signals={})], 2, SIGNALS, TEXT).batch
    assert batch.text["caption"].present.tolist() == [[True, False], [True, True]]
    assert batch.signals["image"].present.tolist() == batch.signals["audio"].present.tolist() == [True, False]
    assert batch.valid.all()


def test_a_concept_may_be_negative():
    assert collate([row(1, concept=-(2**31))], 1, SIGNALS, TEXT).batch.concept.tolist() == [-(2**31)]
