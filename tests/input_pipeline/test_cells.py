"""Are cells of the types that fields have read, and of all others none?"""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from input_pipeline.sources import cells
from input_pipeline.sources.cells import check_offsets, check_types, read_cells
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError

STRUCT = pa.struct({"text": pa.string(), "whole": pa.bool_()})
GOOD = {
    "text": (pa.string(), "ö"),
    "large text": (pa.large_string(), "ö"),
    "bytes": (pa.binary(), b"\xff"),
    "bytes of one size": (pa.binary(2), b"ab"),
    "number": (pa.uint8(), 7),
    "truth": (pa.bool_(), True),
    "half": (pa.float16(), 0.5),
    "null": (pa.null(), None),
    "no text": (pa.string(), None),
    "list": (pa.list_(pa.string()), ["a", None]),
    "large list": (pa.large_list(pa.string()), []),
    "list of one size": (pa.list_(pa.string(), 2), ["a", "b"]),
    "list of structs": (pa.list_(STRUCT), [{"text": "a", "whole": None}]),
    "list of nothing": (pa.list_(pa.null()), []),
    "no list": (pa.list_(pa.string()), None),
    "struct": (STRUCT, {"text": "a", "whole": True}),
}
BAD = {
    "time": pa.array([2**62], pa.timestamp("s")),
    "time of a place that is not": pa.array([1], pa.timestamp("s", "Nowhere/Land")),
    "span": pa.array([2**62], pa.duration("s")),
    "day": pa.array([2**31 - 1], pa.int32()).view(pa.date32()),
    "decimal": pa.array([Decimal("1.5")]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "list of lists": pa.array([[["a"]]]),
    "struct of lists": pa.array([{"text": ["a"]}]),
    "list view": pa.array([["a"]], pa.list_view(pa.string())),
    "text view": pa.array(["a"], pa.string_view()),
    "one run": pa.RunEndEncodedArray.from_arrays([1], ["a"]),
    "union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array(["a"])]),
    "extension": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16], pa.binary(16))),
}


def _in_a_struct(array):
    return pa.StructArray.from_arrays([pa.nulls(len(array)), array], ["none", "text"])


def _in_a_list(array):
    return pa.ListArray.from_arrays(pa.array(range(len(array) + 1), pa.int32()), _in_a_struct(array))


def read(array, row=0, field="caption"):
    table = pa.table({"column": array})
    check_types(table.schema, {field: "column"}, "t")
    return read_cells(table.slice(row, 1), {field: "column"})[field]


@pytest.mark.parametrize("name", GOOD)
def test_values_come_back(name):
    kind, value = GOOD[name]
    assert read(pa.array([None, value], kind), row=1) == value


@pytest.mark.parametrize("name", GOOD)
def test_offsets_of_what_is_whole_are_good_in_any_row(name):
    kind, value = GOOD[name]
    array = pa.array([value, None, value], kind)
    for row in range(3):
        check_offsets(array.slice(row, 1))


@pytest.mark.parametrize(
    "value", [{"bytes": b"ab", "path": None}, [{"text": "a", "language": None}], [None], None, {"path": [None, None]}]
)
def test_nulls_without_a_type_are_whole(value):
    array = pa.array([value] * 3)
    for row in range(3):
        check_offsets(array.slice(row, 1))


@pytest.mark.parametrize("wrap", [lambda array: array, _in_a_struct, _in_a_list], ids=["plain", "struct", "list"])
def test_offsets_that_lead_beyond_the_data_are_noticed_and_those_of_neighbours_are_not(wrap):
    offsets = pa.py_buffer(np.array([0, 2, 10**6, 6], np.int32))
    array = wrap(pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"\xff\xffbbcc")]))
    check_offsets(array.slice(0, 1))  # bytes that are no text are for who reads them
    for row in (1, 2):
        with pytest.raises(pa.ArrowInvalid):
            check_offsets(array.slice(row, 1))


@pytest.mark.parametrize("name", BAD)
def test_other_types_are_named_at_the_start(name):
    with pytest.raises(DataError, match=r"t: the column 'column' has the type .*'caption' is not read"):
        read(BAD[name])


def test_a_value_of_a_dictionary_counts_alone(monkeypatch):
    monkeypatch.setattr(cells, "MAX_BYTES", 20)
    array = pa.array([f"value {number}" for number in range(100)]).dictionary_encode()
    assert read(array, row=57) == "value 57"


@pytest.mark.parametrize(
    ("array", "field", "reason"),
    [
        (pa.array(["a" * 2000]), "caption", "text too long"),
        (pa.array([["a" * 20] * 99]), "captions", "text too long"),
        (pa.array([b"a" * 4000]), "image", "file too large"),
        (pa.array([{"bytes": b"a" * 4000}]), "audio", "file too large"),
        (pa.ListArray.from_arrays([0, 9], pa.nulls(9)), "captions", "too many texts"),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_copied(monkeypatch, array, field, reason):
    for name, value in (("MAX_BYTES", 1000), ("MAX_FILE_BYTES", 3000), ("MAX_TEXTS", 8)):
        monkeypatch.setattr(cells, name, value)
    with pytest.raises(BadRecord, match=reason):
        read(array, field=field)


def test_a_row_is_not_charged_for_its_neighbours(monkeypatch):
    monkeypatch.setattr(cells, "MAX_FILE_BYTES", 3000)
    array = pa.array([np.random.default_rng(row).bytes(2000) for row in range(9)])
    assert read(array, row=4, field="image") == array[4].as_py()
