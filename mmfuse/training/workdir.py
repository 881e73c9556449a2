"""Which run does a folder belong to?

Before its first step a run writes down what it is: the resolved config, the data it found, the git hash and the
versions. Whoever comes back with another config is refused: the losses would no longer be those of one run.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Generator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mmfuse.training.asked import read_back, write_down
from mmfuse.types import CheckpointError

LOGGER = logging.getLogger(__name__)
SAVED = Path(__file__).parents[2] / "configs" / "saved.py"
CONFIG, PROVENANCE, LOCK = "config.json", "provenance.json", "lock"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")

# What may change between two starts of a run: it decides how fast steps come and what is kept, not what they are. On
# another mesh sums are taken in another order: numbers then agree to rounding, and not to the last bit.
FREE = ("loader", "log_every", "mesh", "checkpoint")
# What may change for an evaluation: on what a run is measured does not change what it learned.
MEASURED_ON = ("evaluators", "eval", "data.test")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name → value, for every leaf of a nested mapping."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def claim(
    workdir: str | Path,
    config: ConfigDict,
    data: Mapping[str, Any],
    *,
    free: Sequence[str] = FREE,
    asked: ConfigDict | None = None,
) -> None:
    """Writes down what the run is, or checks that it is the one that this folder belongs to.

    Args:
      workdir: the run's folder.
      config: resolved.
      data: what the data is beyond the config, such as the tokenizer's hash, and of each source the number of records
        and, under "files", the fingerprint of its files.
      free: the fields that may be other ones.
      asked: the config before it was fitted to the data and the machine; None: it was not.

    Raises:
      CheckpointError: the folder belongs to a run of another config or other data; it names the fields.
    """
    path = Path(workdir) / CONFIG
    wanted = json.loads(json.dumps({"config": config.to_dict(), "data": dict(data)}))
    if path.exists():
        saved = json.loads(path.read_text())
        # Of runs from before they were written down, the files are taken to be those that are there.
        saved["data"]["files"] = wanted["data"].get("files", {}) | saved["data"].get("files", {})
        _compare(path, _fixed(saved, free), _fixed(wanted, free))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / PROVENANCE).write_text(json.dumps(provenance(), indent=2) + "\n")
    fresh = path.with_name(f"{CONFIG}.{uuid.uuid4().hex}")  # processes that start together must not share it
    fresh.write_text(json.dumps({**wanted, "asked": write_down(asked or config)}, indent=2) + "\n")
    fresh.replace(path)


@contextlib.contextmanager
def alone(workdir: str | Path) -> Generator[None]:
    """Keeps a second start of the run waiting outside: both would write, and delete, the same files.

    The lock is the first process's, and goes with it, whatever ends it.

    Raises:
      CheckpointError: a process that has begun earlier trains there.
    """
    with open(Path(workdir) / LOCK, "w") as file:
        try:
            if jax.process_index() == 0:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"another process trains in {workdir}: wait for it, or stop it, or take another --workdir."
            ) from None
        except OSError as error:
            LOGGER.warning("%s cannot be locked (%s): see to it that nothing else trains there", workdir, error)
        yield


def check_claimed(workdir: str | Path, config: ConfigDict) -> None:
    """Checks that a run of this config is there, whatever it is measured on.

    Raises:
      CheckpointError: no run has begun in this folder, or one of another config.
    """
    path = Path(workdir) / CONFIG
    if not path.exists():
        raise CheckpointError(f"there is no run in {workdir}: train first, or name its folder with --workdir.")
    saved, wanted = json.loads(path.read_text()), json.loads(json.dumps({"config": config.to_dict()}))
    _compare(path, *(_fixed({"config": run["config"]}, FREE + MEASURED_ON) for run in (saved, wanted)))


def saved_config(workdir: str | Path) -> dict[str, Any]:
    """The config of the run in this folder, tuples as lists; empty where there is no run."""
    path = Path(workdir) / CONFIG
    return json.loads(path.read_text())["config"] if path.exists() else {}


def asked_config(workdir: str | Path) -> ConfigDict:
    """The config that the run in this folder was begun with, before it was fitted to anything."""
    return read_back(json.loads((Path(workdir) / CONFIG).read_text())["asked"])


def with_config(arguments: Sequence[str]) -> list[str]:
    """A command's arguments; where they name no config, with that of the workdir's run.

    Of runs from before it was written down, with the flags that made it.

    Raises:
      CheckpointError: no config is named, and there is no run in the workdir.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--workdir")
    given, _ = parser.parse_known_args(arguments)
    if given.config or not given.workdir:
        return list(arguments)
    path = Path(given.workdir) / CONFIG
    if not path.exists():
        raise CheckpointError(f"there is no run in {given.workdir}: name its --config to begin one.")
    if "asked" in json.loads(path.read_text()):
        flags = [f"--config={SAVED}:{given.workdir}"]
    else:
        flags = json.loads(path.with_name(PROVENANCE).read_text())["flags"]
    return [arguments[0], *flags, *arguments[1:]]


def provenance() -> dict[str, Any]:
    """The git hash, whether files other than results differ from it, the config's flags, the machine, and versions."""

    def git(*words):
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "git": git("rev-parse", "HEAD"),
        "flags": _config_flags(sys.argv[1:]),
        "changed": bool(git("status", "--porcelain", "--untracked-files=no", ":/", ":(top,exclude)results")),
        "python": platform.python_version(),
        "machine": machine(),
        **{name: version(name) for name in PACKAGES},
    }


def machine() -> str:
    """Devices, cores and processor, in words."""
    return f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {_processor()}"


def _processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _config_flags(arguments):
    """Those of the config, with their values, which may be words of their own."""
    values = [*arguments[1:], "--"]
    return [
        word
        for flag, value in zip(arguments, values)
        if flag.startswith("--config")
        for word in ([flag] if "=" in flag or value.startswith("-") else [flag, value])
    ]


def _fixed(written: Mapping[str, Any], free: Sequence[str]) -> dict[str, Any]:
    """What must not change: all of the config but what is free, and the data under a name of its own."""
    flat = flatten(written["config"]) | flatten(written.get("data", {}), "found.")
    return {name: value for name, value in flat.items() if not f"{name}.".startswith(tuple(f"{at}." for at in free))}


def _compare(path, saved, wanted):
    missing = "nothing"
    differing = [name for name in saved | wanted if saved.get(name, missing) != wanted.get(name, missing)]
    if differing:
        lines = [
            f"  {name}: {saved.get(name, missing)} there, {wanted.get(name, missing)} now" for name in differing[:8]
        ]
        raise CheckpointError(
            f"{path.parent} belongs to a run that differs in {len(differing)} fields:\n"
            + "\n".join(lines)
            + "\nGive back these values to go on with it, or take another --workdir."
        )
