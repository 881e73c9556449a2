"""What does a released model know as it is? `configs/zero_shot.py:FOLDER`, a CLIP or SigLIP as it was downloaded.

    python main.py --mode=evaluate --config=configs/zero_shot.py:clip-vit-base-patch32 --workdir=runs/zero_shot

Handwritten digits, each class described by several sentences. With `--config.data.test='shards/test-*.tar'` captions
and pictures are found for one another, too. Nothing is trained. docs/weights.md says which folders there are.
"""

from ml_collections import ConfigDict

from configs import parts
from configs.released import read_folder


def get_config(folder: str) -> ConfigDict:
    """The evaluation of the model in a folder."""
    config, inputs = read_folder(folder)
    config.data = {"test": ""}  # a pattern of tars
    config.sources, config.streams, config.objectives, config.train = {}, {}, {}, {}
    config.optimizer = {"frozen": ((".*", True),)}
    config.checkpoint = {}
    test = {"kind": "webdataset", "shards": config.data.get_ref("test")}
    caption = {"take": "captions", "number": 5, "length": inputs["length"]}
    config.evaluators = {
        "digits": parts.digits("test", image=inputs["image"], length=inputs["length"]),
        "retrieval": parts.retrieval(
            test,
            signals={"image": inputs["image"]},
            caption=caption,
            between=(("image", "caption"),),
            examples=10_000,
            optional=True,
        ),
    }
    for evaluator in config.evaluators.values():
        evaluator.stream.resize = inputs["resize"]
    return config.lock()
