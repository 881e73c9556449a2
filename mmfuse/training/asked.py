"""How is a config written down, so that it comes back as it was asked for?

A run's folder knows its config without the file that made it, which may have changed since. Values that are one, as the
shards of a test and those of each of its evaluators, stay one: whoever changes the first changes all.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference


def write_down(config: ConfigDict) -> dict[str, Any]:
    """Plain data: the values, and the dotted names of those that are one."""
    shared: dict[int, list[str]] = {}
    for name, reference in _references(config):
        shared.setdefault(id(reference), []).append(name)
    return {"values": config.to_dict(), "shared": [names for names in shared.values() if len(names) > 1]}


def read_back(written: Mapping[str, Any]) -> ConfigDict:
    """The config that was written down; lists, of which JSON alone has made some, are tuples."""
    config = ConfigDict(_with_tuples(written["values"]))
    for first, *others in written["shared"]:
        node, key = _place(config, first)
        reference = node.get_ref(key)
        for name in others:
            node, key = _place(config, name)
            del node[key]
            node[key] = reference
    return config.lock()


def _references(config, prefix=""):
    for key, value in config.items(preserve_field_references=True):
        if isinstance(value, FieldReference):
            yield f"{prefix}{key}", value
        elif isinstance(value, ConfigDict):
            yield from _references(value, f"{prefix}{key}.")


def _place(config, name):
    *rooms, key = name.split(".")
    for room in rooms:
        config = config[room]
    return config, key


def _with_tuples(value):
    if isinstance(value, Mapping):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value
