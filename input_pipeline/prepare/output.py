"""Can what a command is going to find be written down?"""

from pathlib import Path


def require_writable(path: str) -> None:
    """Makes the folder of a file and tries the file, which is left as it was: after hours of work it is too late.

    Raises:
      OSError: the file cannot be written.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    file.open("ab").close()
    if new:
        file.unlink()
