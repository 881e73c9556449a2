"""Trains, evaluates or describes what a config says.

python main.py --config=configs/tiny.py --workdir=runs/tiny
"""

from absl import app, flags
from ml_collections import config_flags

from mmfuse.experiment import Experiment

CONFIG = config_flags.DEFINE_config_file("config", None, "what to run", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "dry_run"], "what to do")


def main(_):
    e = Experiment(CONFIG.value, WORKDIR.value)
    {"train": e.train, "evaluate": e.evaluate_run}[MODE.value]()


if __name__ == "__main__":
    app.run(main)
