"""Rows in both directions, by arrays of which every number is different; and a table is complete or says what lacks."""

import jax
import numpy as np
import pytest

from mmfuse.types import CheckpointError
from mmfuse.weights.table import LINEAR, Layout, Row, Table, convolution

L, IN, OUT, PATCH, C = 3, 5, 7, (2, 3), 4
TABLE = Table(
    (
        Row("scale", ("scale",), Layout(shape=(1,))),
        Row("token", ("token",), Layout(shape=(OUT,))),
        Row("patches", ("embed",), convolution(PATCH, C, OUT)),
        Row("layers.{}.fc", ("fc",), LINEAR),
        Row("layers.{}.in", ("query", "key"), LINEAR),
        Row("positions", ("first", "rest")),
    ),
    {r"\.ids$": "they are 0, 1, 2, …"},
)
OURS = {
    "scale": (),
    "token": (1, OUT),
    "embed": (PATCH[0] * PATCH[1] * C, OUT),
    "fc": (L, IN, OUT),
    "query": (L, IN, 2),
    "key": (L, IN, 4),
    "first": (1, IN),
    "rest": (6, IN),
}
THEIRS = {
    "scale": (1,),
    "token": (OUT,),
    "patches": (OUT, C, *PATCH),
    **{f"layers.{layer}.fc": (OUT, IN) for layer in range(L)},
    **{f"layers.{layer}.in": (6, IN) for layer in range(L)},
    "positions": (7, IN),
}
random = np.random.default_rng(0)
FILE = {name: random.standard_normal(shape).astype(np.float32) for name, shape in THEIRS.items()}
SHAPES = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in OURS.items()}


def ours():
    return dict(TABLE.to_ours(FILE.__getitem__, SHAPES))


def test_theirs_becomes_ours_number_by_number():
    got = ours()
    assert {name: array.shape for name, array in got.items()} == OURS
    assert got["scale"] == FILE["scale"][0]
    np.testing.assert_array_equal(got["token"][0], FILE["token"])
    for row, column, channel, out in np.ndindex(*PATCH, C, OUT):
        place = (row * PATCH[1] + column) * C + channel
        assert got["embed"][place, out] == FILE["patches"][out, channel, row, column]
    for layer in range(L):
        np.testing.assert_array_equal(got["fc"][layer].T, FILE[f"layers.{layer}.fc"])
        np.testing.assert_array_equal(got["query"][layer].T, FILE[f"layers.{layer}.in"][:2])
        np.testing.assert_array_equal(got["key"][layer].T, FILE[f"layers.{layer}.in"][2:])
    np.testing.assert_array_equal(got["first"], FILE["positions"][:1])
    np.testing.assert_array_equal(got["rest"], FILE["positions"][1:])


def test_there_and_back_is_the_same():
    back = {name: (shape, make()) for name, shape, make in TABLE.to_theirs(ours())}
    assert back.keys() == FILE.keys()
    for name, (shape, array) in back.items():
        assert shape == array.shape == THEIRS[name]
        np.testing.assert_array_equal(array, FILE[name])


def test_half_precision_is_widened_exactly():
    half = {name: array.astype(np.float16) for name, array in FILE.items()}
    got = dict(TABLE.to_ours(half.__getitem__, SHAPES))
    assert got["fc"].dtype == np.float32
    np.testing.assert_array_equal(got["fc"][1].T, half["layers.1.fc"].astype(np.float32))


def test_a_tensor_is_asked_for_once_and_when_it_is_needed():
    asked = []
    pieces = TABLE.to_ours(lambda name: asked.append(name) or FILE[name], SHAPES)
    next(pieces)
    assert asked == ["scale"]
    assert len(list(pieces)) == len(OURS) - 1 and sorted(asked) == sorted(FILE)


def test_parameters_lie_where_jax_takes_them_over():
    for array in ours().values():
        assert array.ctypes.data % 64 == 0


def test_tensors_that_fit_pass_and_ignored_ones_do_not_matter():
    TABLE.check(FILE | {"a.ids": np.zeros(3)}, SHAPES, "here")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"layers.1.fc": None}, r"layers.1.fc: missing in the file, \[7, 5\] in the model"),
        ({"more": np.zeros((2, 3))}, r"more: \[2, 3\] in the file, not used in the model"),
        ({"layers.3.fc": np.zeros((7, 5))}, r"layers.3.fc: \[7, 5\] in the file, not used"),
        ({"scale": np.zeros(())}, r"scale: \[\] in the file, \[1\] in the model"),
        ({"positions": np.zeros((8, 5))}, r"positions: \[8, 5\] in the file, \[7, 5\] in the model"),
    ],
)
def test_a_difference_is_printed(change, said):
    file = {name: array for name, array in (FILE | change).items() if array is not None}
    with pytest.raises(CheckpointError, match=said):
        TABLE.check(file, SHAPES, "here")


def test_a_long_difference_is_cut():
    file = {f"other{i}": np.zeros(1) for i in range(90)}
    with pytest.raises(CheckpointError, match=r"100 differ(.|\n)* and 80 more"):
        TABLE.check(file, SHAPES, "here")


@pytest.mark.parametrize("change", [{"new": (3,)}, {"rest": None}])
def test_a_model_that_its_table_does_not_cover_is_refused(change):
    shapes = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in (OURS | change).items() if shape}
    with pytest.raises(CheckpointError, match=f"differ in .*{next(iter(change))}"):
        Table(TABLE.rows, {}).their_shapes(shapes | {"scale": SHAPES["scale"]})


def test_a_parameter_in_two_rows_is_refused():
    with pytest.raises(CheckpointError, match="differ in 1: token"):
        Table((*TABLE.rows, Row("again", ("token",))), {}).their_shapes(SHAPES)
