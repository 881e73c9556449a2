"""What configs of a released model have in common: everything that its folder says.

A folder is as transformers or open_clip writes it; docs/weights.md says which there are. It is read when the config is,
so that the config holds it: the model, how pictures are resized, how long texts are.
"""

from ml_collections import ConfigDict

from configs import parts
from mmfuse.types import CheckpointError
from mmfuse.weights.pixels import Preprocessor
from mmfuse.weights.preprocessing import load_preprocessor
from mmfuse.weights.pretrained import load_config
from mmfuse.weights.tokenizer import ReleasedTokenizer


def read_folder(folder: str) -> tuple[ConfigDict, dict]:
    """What such configs have in common, with the folder's model and tokenizer; and how the model is given its inputs.

    Raises:
      CheckpointError: the folder is not that of such a model; what is missing, or differs.
    """
    config, prepare = load_config(folder), load_preprocessor(folder)
    if not isinstance(prepare, Preprocessor):
        raise CheckpointError(f"{folder} reads pictures of any shape, and a stream has one shape: take another model.")
    tower = config.model.towers.image
    if prepare.resizing.extent != tower.image:
        made = prepare.resizing.extent
        raise CheckpointError(f"{folder} makes pictures of {made}, and its model reads {tower.image}.")
    ReleasedTokenizer(folder, most=config.tokenizer.vocabulary)
    config.seed = 0
    config.weights = {"folder": folder}
    config.tokenizer.folder = folder  # not learned
    config.sharding = parts.sharding()
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.log_every = 10
    config.loader = parts.loader()
    config.eval = parts.evaluation()
    # see `Resizing`
    inputs = {"image": tower.image, "length": config.model.towers.text.length, "resize": prepare.resizing._asdict()}
    return config, inputs
