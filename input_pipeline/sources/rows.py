"""How does a row of a table become an Example?

A table comes from `jsonl.py`, `parquet.py` or `arrow.py`. A row is a mapping from fields to cells, all optional:

    image, audio  encoded bytes; or {"bytes": …, "path": …}, as Hugging Face writes them; or a path from the folder;
                  empty, there is none
    concept       rows with the same text or number show the same thing; without it, those with the same image, or sound
    caption, captions, language, question, answer, questions, description, foil    texts, see `annotations.py`

A field is the column of the same name, unless `columns` names another one, or None: then the field is left out. Nothing
is decoded here, and a path never leads out of the folder.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from input_pipeline.names import nearest
from input_pipeline.sources.annotations import parse_fields, wrong_type
from input_pipeline.sources.contract import concept_of
from input_pipeline.sources.files import MAX_FILE_BYTES, SIGNALS, file_state
from input_pipeline.transforms import BadRecord
from mmfuse.types import DataError, Example, Rejected

TEXTS = ("caption", "captions", "language", "question", "answer", "questions", "description", "foil")
FIELDS = (*SIGNALS, "concept", *TEXTS)


def choose_columns(columns: Mapping[str, str | None] | None) -> dict[str, str]:
    """Returns field → column, of all fields but those whose column is None.

    Raises:
      DataError: `columns` speaks of a field that there is not.
    """
    columns = columns or {}
    for field in columns:
        if field not in FIELDS:
            raise DataError(f"columns: there is no field {field!r}{nearest(field, FIELDS)} There are: {_list(FIELDS)}.")
    chosen = {field: columns.get(field, field) for field in FIELDS}
    return {field: column for field, column in chosen.items() if column is not None}


def find_columns(columns: Mapping[str, str], names: Sequence[str], path: str, signals: Sequence[str]) -> dict[str, str]:
    """Returns those of the columns that the table in `path` has, of texts and of the signals that are wanted.

    A field's own name may be missing. A table of signals alone has no columns for whoever wants none of them: it is
    asked for the number of its records, too.

    Raises:
      DataError: a column of another name is missing, two columns share a name, or there is no column for any field.
    """
    wanted = {field: column for field, column in columns.items() if field in signals or field not in SIGNALS}
    for field, column in wanted.items():
        if field != column and column not in names:
            raise DataError(
                f"{path} has no column {column!r} for {field!r}{nearest(column, names)} It has: {_list(names)}."
            )
        if names.count(column) > 1:
            raise DataError(f"{path} has {names.count(column)} columns of the name {column!r}: rename them.")
    if not any(column in names for column in columns.values()):
        fields = _list(columns)
        raise DataError(f"{path} has no column for any of {fields}. It has: {_list(names)}. Name them in `columns`.")
    return {field: column for field, column in wanted.items() if column in names}


def read_record(
    read: Callable[[], Mapping[str, Any]], *, key: str, signals: Iterable[str], folder: str
) -> Example | Rejected:
    """Returns the example of the row that `read` gives, or why there is none."""
    try:
        return read_row(read(), key=key, signals=signals, folder=folder)
    except BadRecord as bad:
        return Rejected(bad.reason, key)


def read_row(fields: Mapping[str, Any], *, key: str, signals: Iterable[str], folder: str) -> Example:
    """Returns the example of one row, with those of the signals that it has.

    Raises:
      BadRecord: "field of a wrong type" as `wrong_type` says, "empty record", or a reason of `read_file`.
    """
    data = {signal: _read_cell(fields, signal, folder) for signal in signals}
    data = {signal: encoded for signal, encoded in data.items() if encoded is not None}
    texts = parse_fields(fields)
    if not data and not any(texts[:3]):
        raise BadRecord("empty record")
    return Example(key, concept_of(texts.concept, data, key), data, *texts[:4])


def read_file(folder: str, name: str) -> bytes:
    """Returns the bytes of a regular file in the folder or below.

    Raises:
      BadRecord: "unsafe path", "missing file", "not a regular file", "file too large", "file cannot be read".
    """
    try:
        with open(_safe_path(folder, name), "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadRecord("not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise BadRecord("file too large")
            return file.read(status.st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise BadRecord("missing file") from None
    except OSError as error:
        # ENXIO: a socket
        reason = {errno.EISDIR: "not a regular file", errno.ENXIO: "not a regular file"}.get(error.errno or 0)
        raise BadRecord(reason or "file cannot be read") from None


def require_unchanged(path: str, state: tuple[int, int]) -> None:
    """Raises BadRecord: "file cannot be read" or "file changed since it was indexed"."""
    try:
        now = file_state(os.stat(path))
    except OSError:
        raise BadRecord("file cannot be read") from None
    if now != state:
        raise BadRecord("file changed since it was indexed")


def _safe_path(folder: str, name: str) -> str:
    """The path without links, if it stays in the folder."""
    if os.path.isabs(name) or ".." in name.split("/"):
        raise BadRecord("unsafe path")
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(os.path.join(root, name))
    except ValueError:  # a zero byte, or a lone surrogate
        raise BadRecord("unsafe path") from None
    if os.path.commonpath([root, path]) != root:
        raise BadRecord("unsafe path")
    return path


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a pipe at once, though nobody writes to it, and no link, which could have been put there since."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _read_cell(fields: Mapping[str, Any], name: str, folder: str) -> bytes | None:
    cell = fields.get(name)
    if isinstance(cell, Mapping):
        cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    if isinstance(cell, str | bytes) and not cell:
        return None
    if isinstance(cell, str):
        return read_file(folder, cell)
    if cell is not None and not isinstance(cell, bytes):
        raise BadRecord(wrong_type(name))
    if cell is not None and len(cell) > MAX_FILE_BYTES:
        raise BadRecord("file too large")
    return cell


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
