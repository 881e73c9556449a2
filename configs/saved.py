"""The config of a run, as its folder has it: what a command takes that names a folder and no config.

python main.py --workdir=runs/tiny --mode=evaluate --config.eval.name=again
"""

from ml_collections import ConfigDict

from mmfuse.training.workdir import asked_config


def get_config(workdir: str) -> ConfigDict:
    """The config that the run in this folder was begun with."""
    return asked_config(workdir)
