"""A released model learns from a person's tars: `configs/finetune.py:FOLDER`, a CLIP or SigLIP as it was downloaded.

    python main.py --config=configs/finetune.py:clip-vit-base-patch32 --config.data.train='shards/train-*.tar' \\
        --config.data.test='shards/test-*.tar' --config.train.minutes=30 --workdir=runs/finetune

Its tokenizer and its preprocessing are used. The picture tower is locked, and texts learn to say what it sees: LiT,
Zhai et al. 2022, arXiv 2111.07991. `--config.optimizer.frozen='((".*", False),)'` trains everything.
"""

from ml_collections import ConfigDict

from configs import parts
from configs.released import read_folder


def get_config(folder: str) -> ConfigDict:
    """The experiment that starts from the model in a folder."""
    released, inputs = read_folder(folder)
    sigmoid = released.model.dual.bias is not None
    config = parts.matching(
        image=inputs["image"],
        length=inputs["length"],
        loss="sigmoid" if sigmoid else "info_nce",
        augment={"crop": {"scale": (0.9, 1.0)}},
    )
    config.update(released)
    config.streams.pairs.rows = config.evaluators.retrieval.stream.rows = 256
    config.streams.pairs.resize = config.evaluators.retrieval.stream.resize = inputs["resize"]
    config.optimizer = parts.optimizer(
        1e-5,
        warmup=100,
        weight_decay=((r"(bias|scale|log_scale|logit_bias)$", 0.0), (".*", 0.1)),
        frozen=((r"towers/image/|projections/image/", True), (".*", False)),
    )
    # the minutes become steps once; both are limits, and 0 minutes are none
    config.train = {"minutes": 0.0, "steps": 10_000, "evaluate_every": 1000}
    return config.lock()
