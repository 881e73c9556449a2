"""Is there such a name, and if not, which one was meant?"""

import difflib
from collections.abc import Collection

from mmfuse.types import ConfigError


def nearest(name: object, names: Collection[str]) -> str:
    """How a sentence goes on that says that there is no such name."""
    near = difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def require_known(what: str, name: object, names: Collection[str]) -> None:
    """Raises ConfigError, with the nearest name and all of them, where there is no `what` of this name."""
    if name not in names:
        raise ConfigError(f"there is no {what} '{name}'{nearest(name, names)} There are: {', '.join(names)}.")
