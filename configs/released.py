"""What configs of a released model have in common: everything that its folder says.

A folder is as transformers or open_clip writes it; docs/weights.md says which there are. It is read when the config is,
so that the config holds it: the model, how pictures are resized, how long texts are.
"""

import math

from ml_collections import ConfigDict

from configs import parts
from input_pipeline.transforms.resizing import GridResizing
from mmfuse.types import CheckpointError
from mmfuse.weights.preprocessing import load_preprocessor
from mmfuse.weights.pretrained import load_config
from mmfuse.weights.tokenizer import ReleasedTokenizer

# Where pictures keep their shape, a stream has room for one that is twice as long as the square of as many patches: for
# four times as long as wide. Longer ones are refused, and counted.
LONGEST = 2


def read_folder(folder: str) -> tuple[ConfigDict, dict]:
    """What such configs have in common, with the folder's model and tokenizer; and how the model is given its inputs.

    Raises:
      CheckpointError: the folder is not that of such a model; what is missing, or differs.
    """
    config, prepare = load_config(folder), load_preprocessor(folder)
    tower, resizing = config.model.towers.image, prepare.resizing
    if isinstance(resizing, GridResizing):
        # in whatever shape, there are at most so many patches
        tower.places = resizing.places
        image = (LONGEST * math.isqrt(resizing.places) * resizing.patch,) * 2
    else:
        image = tower.image
        if resizing.extent != image:
            raise CheckpointError(f"{folder} makes pictures of {resizing.extent}, and its model reads {image}.")
    ReleasedTokenizer(folder, most=config.tokenizer.vocabulary)
    config.seed = 0
    config.weights = {"folder": folder}
    config.tokenizer.folder = folder  # not learned
    config.sharding = parts.sharding(parts.PATCHES)
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.log_every = 10
    config.loader = parts.loader()
    config.eval = parts.evaluation()
    # see `Resizing` and `GridResizing`
    inputs = {"image": image, "length": config.model.towers.text.length, "resize": resizing._asdict()}
    return config, inputs
