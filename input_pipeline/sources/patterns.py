"""Which files does a pattern name?

A pattern is a path with globs (`*`, `?`, `[a-z]`, `**`), ranges `{000..012}` and lists `{train,validation}`, as a shell
would expand them; braces do not nest. Only local files: `pipe:` and addresses are taken for names of files.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from mmfuse.types import DataError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_patterns(patterns: str | Sequence[str]) -> list[str]:
    """Returns the files that the patterns name, in the order of the patterns, those of one glob sorted.

    Raises:
      DataError: a pattern names nothing, a folder, or a file that was named before.
    """
    files = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for path in _expand(os.path.expanduser(pattern)):
            if path in files:
                raise DataError(f"{path} is named twice, by {files[path]!r} and by {pattern!r}: name each file once.")
            files[path] = pattern
    if not files:
        raise DataError("no files were named: write at least one pattern, such as 'folder/*.tar'.")
    return list(files)


def expand_braces(pattern: str) -> Iterator[str]:
    """Yields what `{a..b}` and `{a,b}` stand for. A range keeps its zeros; other braces stay as they are."""
    for braces in BRACES.finditer(pattern):
        choices = _choices(braces[1])
        if choices is not None:
            for choice in choices:
                yield from expand_braces(pattern[: braces.start()] + choice + pattern[braces.end() :])
            return
    yield pattern


def _choices(inside: str) -> Iterable[str] | None:
    if numbers := RANGE.fullmatch(inside):
        first, last = int(numbers[1]), int(numbers[2])
        width = max(map(len, numbers.groups())) if inside.startswith("0") else 0
        step = 1 if first <= last else -1
        return (f"{number:0{width}d}" for number in range(first, last + step, step))
    return inside.split(",") if "," in inside else None


def _expand(pattern: str) -> Iterator[str]:
    if os.path.isfile(pattern):  # a name may contain brackets
        yield pattern
        return
    for path in expand_braces(pattern):
        files = [file for file in sorted(glob.glob(path, recursive=True)) if os.path.isfile(file)]
        if not files and os.path.isfile(path):
            files = [path]
        if not files:
            raise DataError(_nothing_found(path, pattern))
        yield from files


def _nothing_found(path: str, pattern: str) -> str:
    if os.path.isdir(path):
        return f"{path} is a folder: name the files in it, such as {os.path.join(path, '*.tar')!r}."
    folder = path
    while not os.path.isdir(folder or "."):
        folder = os.path.dirname(folder)
    found = sorted(os.listdir(folder or "."))
    some = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
    origin = "" if path == pattern else f" (from {pattern!r})"
    return (
        f"no file is named {path!r}{origin}. The folder {folder or '.'!r} holds {len(found)} names: {some or 'none'}."
    )
