"""How do the commands print rows of words and numbers?"""

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[object]]) -> str:
    """Aligns columns with two spaces between them: whole numbers at the right, everything else at the left."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else _printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if isinstance(cell, int) else text.ljust(width)
            for cell, text, width in zip(row, texts, widths, strict=True)
        ).rstrip()
        for row, texts in zip(rows, cells, strict=True)
    )


def _printable(text: str) -> str:
    # Names of files and fields of JSON may hold lone surrogates, which no terminal takes.
    return text.encode(errors="backslashreplace").decode()
