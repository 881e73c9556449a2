"""Is a name one of those that exist?"""

import difflib
from collections.abc import Collection

from mmfuse.types import ConfigError


def one_of(argument: str, name: str, known: Collection[str]) -> str:
    """Returns the name.

    Raises:
      ConfigError: names the argument, the nearest known name, and all of them.
    """
    if name not in known:
        nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{argument}: {name!r} is unknown; did you mean {nearest!r}? There are {', '.join(known)}")
    return name
