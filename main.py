"""Trains, evaluates or describes what a config says, or asks what was trained.

    python main.py --config=configs/tiny.py --workdir=runs/tiny
    python main.py --config=configs/tiny.py --workdir=runs/tiny --mode=evaluate
    python main.py --workdir=runs/tiny --mode=generate --image=my.jpg --prompt='What colour is the circle?'
    python main.py --config=configs/tiny.py --workdir=runs/tiny --mode=dry_run --config.optimizer.learning_rate=3e-4

A run that was stopped goes on when the same command is given again. Exit codes: 0 done, 1 a bug, 2 a config, input or
workdir that a person can mend, 75 stopped and ready to go on.
"""

import gc
import logging
import os
import sys
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from mmfuse.ask import ask, define_flags
from mmfuse.budget import fit_to_minutes
from mmfuse.experiment import Experiment
from mmfuse.survey import fit_to_data
from mmfuse.training import processes
from mmfuse.training.loop import Stopped
from mmfuse.training.workdir import saved_config, with_config
from mmfuse.types import MmfuseError

BAD_INPUT, STOPPED = 2, 75
MODES = {"train": Experiment.train, "evaluate": Experiment.evaluate, "dry_run": Experiment.describe}
MODES["generate"] = lambda experiment: print(ask(experiment, *ASKED()))

CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/ and changes to it")
WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run", required=True)
MODE = flags.DEFINE_enum("mode", "train", list(MODES), "what to do")
BEGIN = processes.define_flags()
ASKED = define_flags(MODE)
flags.mark_flag_as_required("config")


def parse(arguments: list[str]) -> list[str]:
    """Flags, with a sentence where they are wrong."""
    try:
        sys.argv = with_config(arguments)  # ml_collections looks there for the changes to a config
        return flags.FLAGS(sys.argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, MmfuseError) as error:
        print(f"Cannot read the flags: {str(error).strip()}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def main(_: list[str]) -> None:
    """Does what the mode says."""
    gc.freeze()  # what imports made stays; without it, tracing has the collector go over all of it again and again
    processes.keep_memory()
    absl_logging.set_verbosity(absl_logging.WARNING)  # what libraries have to say
    logging.getLogger("mmfuse").setLevel(logging.INFO)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache" / "mmfuse" / "xla")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        BEGIN()
        saved = saved_config(WORKDIR.value)
        config = fit_to_data(CONFIG.value, saved)
        experiment = Experiment(config, WORKDIR.value, asked=CONFIG.value)
        if saved or MODE.value == "train":
            experiment = fit_to_minutes(experiment, saved)
        MODES[MODE.value](experiment)
    except MmfuseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
