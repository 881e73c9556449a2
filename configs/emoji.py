"""Real pictures with real words in eight languages, in half an hour on two cores.

    python -m input_pipeline.prepare emoji --out=data/emoji
    python -m input_pipeline.prepare emoji --out=data/emojione --artist=emojione
    python main.py --config=configs/emoji.py --workdir=runs/emoji

A dual tower learns the names of 1,911 emoji from one artist's drawings, and is asked for them in another artist's.
There is one picture of each concept, so the rest has to come from what the towers take for granted, and from
augmentation. Emoji are framed alike: the picture tower, a residual network, keeps what is where (pool "flat"); with
the mean of its positions it was three times worse. A name is the mean of its tokens, of a vocabulary that holds most
words whole; it learns faster than a transformer, at a tenth of the cost. Each drawing meets its name in all eight
languages at once. The names follow the pictures: the picture tower, whose random features already tell much apart,
learns slowly.
"""

from ml_collections import ConfigDict

from configs import parts

IMAGE, LENGTH = (48, 48), 16
LANGUAGES = ("de", "en", "es", "fr", "hi", "ja", "ru", "zh")
# What sets artists apart: where and how large they draw, their colours, light and lines. Nothing is mirrored, since
# flags and arrows have sides.
AUGMENT = {
    "affine": {"degrees": 10.0, "translate": 0.06, "scale": (0.75, 1.1), "stretch": 0.15, "shear": 6.0},
    "warp": {"share": 0.5, "strength": 0.02, "cells": 4},
    "jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.4, "hue": 0.06},
    "shade": {"strength": 0.3},
    "outline": {"share": 0.3, "width": 1},
    "erase": {"share": 0.3, "area": (0.02, 0.1)},
}


def get_config() -> ConfigDict:
    """The experiment."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"train": "data/emoji/*.tar", "test": "data/emojione/*.tar"}
    config.tokenizer = {"vocabulary": 16_000, "examples": 2000}
    config.sources = {"emoji": {"kind": "webdataset", "shards": config.data.get_ref("train")}}
    names = {"take": "first_captions", "number": len(LANGUAGES), "length": LENGTH, "languages": LANGUAGES}
    signals = {"image": IMAGE}
    config.streams = {
        "pairs": {
            "rows": 128,
            "mixture": {"emoji": 1.0},
            "signals": signals,
            "augment": {"image": AUGMENT},
            "text": {"caption": names},
            "objectives": {"contrastive": 1.0},
            "accumulate": 1,
        }
    }
    pairs = (("image", "caption"),)
    config.objectives = {"contrastive": {"kind": "contrastive", "loss": "info_nce", "between": pairs}}
    config.model = {
        "dtype": "float32",
        "towers": {
            "image": parts.convnet(384, (1, 1, 1), image=IMAGE, patch=(4, 4), pool="flat"),
            "text": parts.text(256, 0, 4, length=LENGTH),
        },
        "dual": {"embedding": 256, "temperature": 0.07, "bias": -10.0},
    }
    config.optimizer = parts.optimizer(
        1e-2,
        warmup=50,
        weight_decay=((r"(bias|scale|log_scale|logit_bias)$", 0.0), (".*", 0.1)),
        learning_rate_scale=((r"image", 0.1), (".*", 1.0)),
    )
    config.sharding = ((r"embedding$", ("tensor", "fsdp")), (r"kernel$", ("fsdp", None)), (".*", ()))
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    # the minutes become steps once; both are limits, and 0 minutes are none
    config.train = {"minutes": 30.0, "steps": 100_000, "evaluate_every": 100_000}
    config.checkpoint = {"every": 200, "keep": 2}
    config.log_every = 10
    config.loader = parts.loader()
    test = {"kind": "webdataset", "shards": config.data.get_ref("test")}
    config.evaluators = {
        "retrieval": parts.retrieval(test, signals=signals, caption=names, between=pairs, examples=10_000)
    }
    config.eval = parts.evaluation()
    return config.lock()
