"""Which rule applies to which parameter?

Sharding, weight decay, freezing and learning-rate scales are ordered lists of (regex, rule). A parameter is called by
its path, such as `towers/image/stack/segments/0/unit/0/attention/query/kernel`; the first regex that is found in the
name (`re.search`) decides. A list must cover every name, and every regex must be found in some name, so that neither a
new parameter nor a misspelt rule passes silently.

What a rule means (a partition spec, a number) is not known here. After the lists of big_vision, `make_mask_trees`.
"""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

from mmfuse.types import ConfigError

SHOWN = 5  # names in an error message


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the "/"-joined name of a leaf, from its jax key path.

    A variable of NNX is a node with the single child `value`, which is left out, so that a parameter has one name
    whether its tree is a state, a state's pure dict, or (after a prefix such as `0/mu`) an optimizer's state.
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns name → leaf, in the order of `jax.tree.leaves`.

    Raises:
      ValueError: if two leaves have the same name, as those of `{"a/b": 1, "a": {"b": 2}}`.
    """
    pairs = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    counts = Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        raise ValueError(f"Two leaves have the same name: {[name for name, n in counts.items() if n > 1][:SHOWN]}.")
    return dict(pairs)


def match_rules(rules: Sequence[Sequence[Any]], tree: Any) -> Any:
    """Returns `tree` with each leaf replaced by its rule.

    A rule may itself be a tuple or a partition spec. It then still stands where one leaf stood: put `tree` first,
    `jax.tree.map(f, tree, rules_of_tree)`, and `f` gets each leaf with its whole rule.

    Args:
      rules: pairs (regex, rule); tuples or lists, since a ConfigDict gives back either.
      tree: any pytree; one without leaves matches any rules.

    Raises:
      ConfigError: if a name is not covered, or if a regex is found in no name at all. A regex that is found only in
        names that earlier rules took is right: it is how a list ends with ".*".
    """
    names = list(named_leaves(tree))
    regexes = [re.compile(pattern) for pattern, _ in rules]
    first = [next((i for i, regex in enumerate(regexes) if regex.search(name)), None) for name in names]
    _check_covered([name for name, i in zip(names, first) if i is None])
    _check_found([regex.pattern for regex in regexes if not any(map(regex.search, names))], names)
    return jax.tree.unflatten(jax.tree.structure(tree), [rules[i][1] for i in first if i is not None])


def _check_covered(uncovered: list[str]) -> None:
    if uncovered:
        raise ConfigError(
            f"No rule covers {len(uncovered)} of the names, such as {', '.join(uncovered[:SHOWN])}: "
            'end the list of rules with (".*", …).'
        )


def _check_found(unused: list[str], names: list[str]) -> None:
    for pattern in unused if names else []:
        nearest = difflib.get_close_matches(pattern, names, n=SHOWN, cutoff=0.0)
        raise ConfigError(
            f"The rule for {pattern!r} is found in no name: mend the regex or take the rule out. "
            f"The nearest names are {', '.join(nearest)}."
        )
