"""Which run does a folder belong to?

Before its first step a run writes down what it is: the resolved config, the data it found, the git hash and the
versions. Whoever comes back with another config is refused: the losses would no longer be those of one run.
"""

import json
import platform
import subprocess
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmfuse.types import CheckpointError

CONFIG, PROVENANCE = "config.json", "provenance.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")

# What may change between two starts of a run: it decides how fast steps come and what is kept, not what they are. On
# another mesh sums are taken in another order: numbers then agree to rounding, and not to the last bit.
FREE = ("loader", "log_every", "mesh", "checkpoint")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name → value, for every leaf of a nested mapping."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def claim(workdir: str | Path, config: ConfigDict, data: Mapping[str, Any]) -> None:
    """Writes down what the run is, or checks that it is the one that this folder belongs to.

    Args:
      workdir: the run's folder.
      config: resolved.
      data: what the data is beyond the config, such as the tokenizer's hash and the number of records.

    Raises:
      CheckpointError: the folder belongs to a run of another config or other data; it names the fields.
    """
    path = Path(workdir) / CONFIG
    wanted = json.loads(json.dumps({"config": config.to_dict(), "data": dict(data)}))
    if path.exists():
        _compare(path, _fixed(json.loads(path.read_text())), _fixed(wanted))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / PROVENANCE).write_text(json.dumps(provenance(), indent=2) + "\n")
    fresh = path.with_name(f"{CONFIG}.{uuid.uuid4().hex}")  # processes that start together must not share it
    fresh.write_text(json.dumps(wanted, indent=2) + "\n")
    fresh.replace(path)


def check_claimed(workdir: str | Path) -> None:
    """Raises CheckpointError where no run has begun."""
    if not (Path(workdir) / CONFIG).exists():
        raise CheckpointError(f"there is no run in {workdir}: train first, or name its folder with --workdir.")


def provenance() -> dict[str, Any]:
    """The git hash, whether files differ from it, and the versions of what computes."""

    def git(*words):
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    return {
        "git": git("rev-parse", "HEAD"),
        "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in PACKAGES},
    }


def _fixed(written: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in written["config"].items() if name not in FREE}
    return flatten({**config, "data": written["data"]})


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
