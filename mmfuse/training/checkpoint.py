"""How does a run come back exactly where it was?

A checkpoint of step n is a folder `n/` that holds the state, leaf by leaf under the names of `rules.named_leaves`, and
the position in the data as JSON. Orbax writes it in the background into a temporary folder, which is renamed when it is
whole, so that a kill at any moment leaves the earlier checkpoints untouched. The names and not the tree's types are
saved: a state may be restored onto another sharding, and into another kind of container with the same names. With the
position stand checksums: what the disk gives back is what was saved, or the checkpoint is set aside for an earlier one.

Orbax is imported here and nowhere else. When to save, and what the position means, is decided by the loop.
"""

import json
import zlib
from itertools import count
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from mmfuse.training.checksums import checksums
from mmfuse.training.rules import named_leaves
from mmfuse.types import CheckpointError

STATE, POSITION = "state", "position"
# What a whole checkpoint has. Orbax takes any folder with a number for a name as one.
FILES = ("_CHECKPOINT_METADATA", f"{STATE}/_METADATA", f"{STATE}/manifest.ocdbt", f"{POSITION}/metadata")
CONTENT = {"position", "checksums", "crc32"}  # of the item POSITION
ASIDE = ("incomplete", "damaged")  # how folders end that were checkpoints
SHOWN = 5  # leaves in an error message


class _Damaged(CheckpointError):
    """What is on the disk is not what was saved."""


class Checkpointer:
    """Saves states in the background, and restores them.

    A save in the background that fails is told by the next call of any method, and by `close` at the latest. The next
    save is tried all the same, and raises if it fails, too.

    Args:
      folder: of the checkpoints; it is made if need be.
      every: steps from one checkpoint to the next.
      keep: how many of the newest checkpoints stay on the disk.
      read_only: leaves the folder as it is: another process may be saving there.
    """

    def __init__(self, folder: str | Path, *, every: int, keep: int, read_only: bool = False) -> None:
        self.folder = Path(folder).absolute()
        self.every, self.read_only = every, read_only
        self._saving: int | None = None  # the step of a save of which it is not known yet how it ended
        self._failed_before = False
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
        else:
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
        """Returns whether `step` is one of those to be saved, or one before it could not be."""
        return step % self.every == 0 or self._has_failed()

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Starts to save; a step that is saved already is not saved again. `state` may be donated once this returns.

        Args:
          step: number of updates done.
          state: any pytree of arrays, sharded in any way.
          position: JSON of where the data and the counters stand.

        Raises:
          CheckpointError: if this save fails, if two before it failed, or if a later step is on the disk already.
        """
        try:
            self.wait()
        except CheckpointError as error:
            if self._failed_before:
                raise
            self._failed_before = True
            logging.warning("%s Now step %d is saved.", error, step)
        else:
            self._failed_before = False
        latest = self.latest_step()
        if latest == step:
            return
        if latest is not None and latest > step:
            raise CheckpointError(
                f"Step {step} cannot be saved in {self.folder}, which holds the later step {latest}: resume from that "
                "one, take the later ones out of the folder, or use a fresh workdir."
            )
        leaves = named_leaves(state)
        content = {"position": position, "checksums": checksums(leaves)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), position=ocp.args.JsonSave({**content, "crc32": _crc32(content)})
        )
        self._saving = step
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
          step: which one; by default the newest that is not damaged, one that is being saved included. Damaged ones
            are set aside, with a warning.

        Raises:
          CheckpointError: if there is no such checkpoint, if its leaves differ from those that are wanted in name,
            shape or dtype, or if it cannot be read, or is not what was saved.
        """
        self.wait()
        complete = sorted(self._complete(), reverse=True)
        if not complete or step not in (None, *complete):
            raise CheckpointError(f"{self.folder} has no whole checkpoint of step {step}; it has {complete[::-1]}.")
        *newer, last = complete if step is None else [step]
        for number in newer:
            try:
                return self._restore(abstract_state, number)
            except _Damaged as damage:
                logging.warning("%s The checkpoint before it is taken.", damage)
                self._set_aside_damaged(number)
        return self._restore(abstract_state, last)

    def check_none_lost(self, recorded: int) -> None:
        """To be called where there is no whole checkpoint, before a run begins anew.

        Args:
          recorded: steps of which the run has written a record.

        Raises:
          CheckpointError: there has been one.
        """
        aside = sorted(path.name for path in self.folder.iterdir() if path.suffix.rstrip("0123456789")[1:] in ASIDE)
        if aside or recorded >= 2 * self.every:
            raise CheckpointError(
                f"{self.folder} has no whole checkpoint{f' but {aside}' if aside else ''}, and {recorded} steps are on "
                "record: give back what was there, or take a fresh workdir to begin anew."
            )

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

    def _restore(self, abstract_state: Any, step: int) -> tuple[Any, dict[str, Any]]:
        wanted, path = named_leaves(abstract_state), self.folder / str(step)
        try:
            saved = self._manager.item_metadata(step)[STATE].tree
            self._check_same(step, saved, wanted)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted), position=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=args)
        except CheckpointError:
            raise
        except Exception as error:
            # what one process cannot read others may; and memory that is short says nothing of the disk
            elsewhere = jax.process_count() > 1 or isinstance(error, MemoryError | jax.errors.JaxRuntimeError)
            kind = CheckpointError if elsewhere else _Damaged
            raise kind(f"{path} cannot be read: {error}.") from error
        leaves, content = {name: restored[STATE][name] for name in wanted}, restored[POSITION]
        if CONTENT & set(content):  # none of it in those from before there were checksums
            if content.pop("crc32", None) != _crc32(content):
                raise _Damaged(f"{path}/{POSITION} is not what was saved.")
            found = checksums(leaves)
            wrong = [name for name, number in content["checksums"].items() if found.get(name) != number]
            if wrong:
                raise _Damaged(f"{path}/{STATE} is not what was saved: {len(wrong)} leaves differ, {wrong[:SHOWN]}.")
            content = content["position"]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), list(leaves.values())), content

    def _has_failed(self) -> bool:
        """Whether the last save has ended, and failed; of several processes, that is told with the next save."""
        if self._saving is None or jax.process_count() > 1 or self._manager.is_saving_in_progress():
            return False
        failed = self._saving not in self._complete()
        self._saving = None
        return failed

    def _complete(self) -> set[int]:
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and _is_complete(path)}

    def _set_aside_incomplete(self) -> None:
        """Renames folders that Orbax would take for newer checkpoints. It deletes older ones itself, whole or not."""
        latest = max(self._complete(), default=-1)
        for path in list(self.folder.iterdir()):
            if path.name.isdecimal() and int(path.name) > latest:
                name = _set_aside(path, ASIDE[0])
                logging.warning("%s is no whole checkpoint: ignored, and renamed to %s.", path, name)

    def _set_aside_damaged(self, step: int) -> None:
        if self.read_only:
            return
        if jax.process_index() == 0:
            _set_aside(self.folder / str(step), ASIDE[1])
        ocp.multihost.sync_global_processes("damaged checkpoint set aside")
        self._manager.reload()

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


def _set_aside(path: Path, why: str) -> str:
    aside = next(p for i in count() if not (p := path.with_name(f"{path.name}.{why}{i}")).exists())
    path.rename(aside)
    return aside.name


def _crc32(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _is_complete(path: Path) -> bool:
    return all((path / name).is_file() for name in FILES)


def _describe(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
