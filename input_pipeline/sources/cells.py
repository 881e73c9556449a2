"""How does a cell of a Parquet or Arrow table become a value, and which types may it have?

    cell    one, or a list of them
    one     a value, or a struct of values
    value   text, bytes, a number, a truth value, null

No field of `rows.py` needs more than that. Of other types a few bytes may stand for gigabytes (lists of lists of nulls,
run ends), or for what Python cannot hold (dates), or for code (extension types). Sizes are looked at before anything is
copied.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from input_pipeline.sources.annotations import MAX_BYTES, MAX_TEXTS
from input_pipeline.sources.files import MAX_FILE_BYTES, SIGNALS
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError

if TYPE_CHECKING:  # few runs need pyarrow: it is imported where it is used
    import pyarrow as pa


def check_types(schema: "pa.Schema", columns: Mapping[str, str], path: str) -> None:
    """Raises DataError where one of the columns, field → name, has a type that no field is read from."""
    from pyarrow import types

    for field, column in columns.items():
        kind = schema.field(column).type
        entry = kind.value_type if _is_list(kind) or types.is_dictionary(kind) else kind
        values = [part.type for part in entry] if types.is_struct(entry) else [entry]
        if not all(_is_value(value) for value in values):
            raise DataError(
                f"{path}: the column {column!r} has the type {kind}, from which {field!r} is not read. Write it as "
                "text, bytes, numbers, or a list or a struct of these; or name another column in `columns`, or None to "
                "leave the field out."
            )


def read_cells(row: "pa.RecordBatch | pa.Table", columns: Mapping[str, str]) -> dict[str, Any]:
    """Returns field → value of a table of one row, whose types `check_types` has seen.

    Raises:
      BadRecord: "file too large", "text too long", "too many texts".
    """
    return {field: _read_cell(row.column(column), field) for field, column in columns.items()}


def check_offsets(cells: "pa.Array") -> None:
    """Raises pa.ArrowInvalid where offsets lead beyond the data. Text may be anything: a row's neighbours are not read.

    Level by level, since a view of a list or struct that has nulls without any type in it is no longer whole.
    """
    import pyarrow as pa
    from pyarrow import types

    if _is_list(cells.type):
        cells.validate()
        check_offsets(cells.flatten())
    elif types.is_struct(cells.type):
        for part in cells.flatten():
            check_offsets(part)
    else:
        plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(cells.type, cells.type)
        cells.view(plain).validate(full=True)


def _read_cell(cells: "pa.Array | pa.ChunkedArray", field: str) -> Any:
    from pyarrow import types

    if types.is_dictionary(cells.type):  # its size would be that of all values that there are
        cells = cells.cast(cells.type.value_type)
    most, reason = (MAX_FILE_BYTES, "file too large") if field in SIGNALS else (MAX_BYTES, "text too long")
    if cells.nbytes > most:
        raise BadRecord(reason)
    cell = cells[0]
    if _is_list(cells.type) and cell.is_valid and len(cell) > MAX_TEXTS:
        raise BadRecord("too many texts")
    return cell.as_py()


def _is_list(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_value(kind: "pa.DataType") -> bool:
    from pyarrow import types

    text = types.is_string(kind) or types.is_large_string(kind)
    data = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return (
        text
        or data
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )
