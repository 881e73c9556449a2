"""How does a run come back exactly where it was?

A checkpoint of step n is a folder `n/` that holds the state, leaf by leaf under the names of `rules.named_leaves`, and
the position in the data as JSON. Orbax writes it in the background into a temporary folder, which is renamed when it is
whole, so that a kill at any moment leaves the earlier checkpoints untouched. The names and not the tree's types are
saved: a state may be restored onto another sharding, and into another kind of container with the same names.

Orbax is imported here and nowhere else. When to save, and what the position means, is decided by the loop.
"""

from itertools import count
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from mmfuse.training.rules import named_leaves
from mmfuse.types import CheckpointError

STATE, POSITION = "state", "position"
# What a whole checkpoint has. Orbax takes any folder with a number for a name as one.
FILES = ("_CHECKPOINT_METADATA", f"{STATE}/_METADATA", f"{STATE}/manifest.ocdbt", f"{POSITION}/metadata")
SHOWN = 5  # leaves in an error message


class Checkpointer:
    """Saves states in the background, and restores them.

    An error of a save in the background is raised by the next call of any method, and by `close` at the latest.

    Args:
      folder: of the checkpoints; it is made if need be.
      every: steps from one checkpoint to the next.
      keep: how many of the newest checkpoints stay on the disk.
    """

    def __init__(self, folder: str | Path, *, every: int, keep: int) -> None:
        self.folder = Path(folder).absolute()
        self.every = every
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._set_aside_incomplete()
        ocp.multihost.sync_global_processes("incomplete checkpoints set aside")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
        )
        handlers = {STATE: ocp.StandardCheckpointHandler(), POSITION: ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def due(self, step: int) -> bool:
        """Returns whether `step` is one of those to be saved."""
        return step % self.every == 0

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Starts to save; a step that is saved already is not saved again. `state` may be donated once this returns.

        Args:
          step: number of updates done.
          state: any pytree of arrays, sharded in any way.
          position: JSON of where the data and the counters stand.

        Raises:
          CheckpointError: if an earlier save failed, or if a later step is on the disk already.
        """
        self.wait()
        latest = self.latest_step()
        if latest == step:
            return
        if latest is not None and latest > step:
            raise CheckpointError(
                f"Step {step} cannot be saved in {self.folder}, which holds the later step {latest}: resume from that "
                "one, take the later ones out of the folder, or use a fresh workdir."
            )
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(named_leaves(state)), position=ocp.args.JsonSave(position)
        )
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            raise self._failed(error) from error

    def latest_step(self) -> int | None:
        """Returns the newest step that is whole on the disk, or None."""
        if not self._manager.is_saving_in_progress():
            self.wait()
        return max(self._complete(), default=None)

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Returns (state, position) as they were saved.

        Args:
          abstract_state: a `jax.ShapeDtypeStruct` with its sharding for every leaf; the state gets this sharding.
          step: which one; by default the newest, one that is being saved included.

        Raises:
          CheckpointError: if there is no such checkpoint, if its leaves differ from those that are wanted in name,
            shape or dtype, or if it cannot be read.
        """
        self.wait()
        complete = self._complete()
        step = max(complete, default=None) if step is None else step
        if step not in complete:
            raise CheckpointError(f"{self.folder} has no whole checkpoint of step {step}; it has {sorted(complete)}.")
        wanted = named_leaves(abstract_state)
        try:
            saved = self._manager.item_metadata(step)[STATE].tree
            self._check_same(step, saved, wanted)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted), position=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=args)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{self.folder / str(step)} cannot be read: {error}. To resume from an earlier step, move it away."
            ) from error
        leaves = [restored[STATE][name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), restored[POSITION]

    def wait(self) -> None:
        """Returns when the last save is whole on the disk."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Waits for the last save and frees the threads."""
        self.wait()
        self._manager.close()

    def _complete(self) -> set[int]:
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and _is_complete(path)}

    def _set_aside_incomplete(self) -> None:
        """Renames folders that Orbax would take for newer checkpoints. It deletes older ones itself, whole or not."""
        latest = max(self._complete(), default=-1)
        for path in list(self.folder.iterdir()):
            if path.name.isdecimal() and int(path.name) > latest:
                aside = next(p for i in count() if not (p := path.with_name(f"{path.name}.incomplete{i}")).exists())
                path.rename(aside)
                logging.warning("%s is no whole checkpoint: ignored, and renamed to %s.", path, aside.name)

    def _check_same(self, step: int, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
        lines = [
            f"  {name}: saved {_describe(saved.get(name))}, wanted {_describe(wanted.get(name))}"
            for name in wanted | saved
            if _describe(saved.get(name)) != _describe(wanted.get(name))
        ]
        if lines:
            raise CheckpointError(
                f"{self.folder / str(step)} does not fit this run; {len(lines)} leaves differ:\n"
                + "\n".join(lines[:SHOWN])
                + "\nUse the config that the checkpoint was made with, or a fresh workdir."
            )

    def _failed(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"A checkpoint could not be saved in {self.folder}: {error}. The earlier ones are whole: mend the cause "
            f"(is the disk full?) and start again to resume from step {max(self._complete(), default=0)}."
        )


def _is_complete(path: Path) -> bool:
    return all((path / name).is_file() for name in FILES)


def _describe(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
