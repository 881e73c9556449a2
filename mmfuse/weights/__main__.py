"""Writes a run's model as a folder that other libraries load, with the SHA-256 of each file beside it.

    python -m mmfuse.weights export --workdir=runs/clip --format=hf exported

Formats: hf for transformers (CLIPModel, SiglipModel), open_clip for open_clip. A model that has no counterpart there is
refused, with what differs.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.transforms.resizing import Resizing
from mmfuse import build_data
from mmfuse.experiment import Experiment
from mmfuse.training.workdir import saved_config
from mmfuse.types import CheckpointError, MmfuseError
from mmfuse.weights.pretrained import FORMATS, counterpart, save_pretrained


def export(workdir: Path, folder: Path, form: str) -> str:
    """Exports the newest checkpoint of a run.

    Returns:
      What was done, in a sentence.

    Raises:
      CheckpointError: there is no run, it has saved nothing, or its model has no counterpart in this format.
    """
    saved = saved_config(workdir)
    if not saved:
        raise CheckpointError(f"there is no run in {workdir}: train first, or name its folder with --workdir.")
    config = ConfigDict(_with_tuples(saved))
    counterpart(config, form=form)  # before anything is read
    experiment = Experiment(config, workdir)
    state = experiment.restore()
    parts = {"tokenizer": experiment.tokenizer, "resizing": _resizing(config)}
    save_pretrained(folder, experiment.maker.merge(state), config, form=form, **parts)
    return f"step {int(state.step)} of {workdir} is in {folder}"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error that a person can mend is one sentence on stderr and exit code 2."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m mmfuse.weights")
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "export", description=__doc__, formatter_class=layout
    )
    command.add_argument("--workdir", type=Path, required=True, help="the folder of the run")
    command.add_argument("--format", choices=FORMATS, default="hf", help="whose folder it is to be")
    command.add_argument("folder", type=Path, help="is made")
    options = parser.parse_args(arguments)
    try:
        print(export(options.workdir, options.folder, options.format))
    except MmfuseError as error:
        print(f"weights export: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _resizing(config):
    """How the pictures of the run were resized; of our own way it is said what is nearest to it."""
    streams = [stream for stream in config.streams.values() if "image" in stream.signals]
    if not streams:
        return None
    return build_data.make_resizing(streams[0]) or Resizing(tuple(streams[0].signals.image))


def _with_tuples(value: Any) -> Any:
    """What JSON made lists of, as a config has it."""
    if isinstance(value, dict):
        return {key: _with_tuples(part) for key, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
