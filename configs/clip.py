"""CLIP as published: `configs/clip.py:b32`, `:b16` or `:l14`, on tars of pictures with captions.

    python main.py --config=configs/clip.py:b32 --config.data.train='shards/train-{00000..41455}.tar' \\
        --config.data.test='shards/test-*.tar' --config.mesh.fsdp=8 --workdir=runs/clip_b32

Radford et al. 2021, arXiv 2103.00020: 32 epochs of 400 million pairs, 32,768 in a batch. Parameters as released:
151,277,313, 149,620,737 and 427,616,513. Not as published: the data; the tokenizer, learned from their captions with as
many ids; crops, which are those of open_clip; gradients, clipped to a norm of 1. No run of it has been made here. What
is trained is a `CLIP` of open_clip: `python -m mmfuse.weights export --format=open_clip`.
"""

from ml_collections import ConfigDict

from configs import parts
from mmfuse.weights.preprocessing import OPENAI_PIXELS

# picture: patch, width, depth; text: width; both have heads of 64 numbers
SIZES = {
    "b32": {"patch": 32, "width": 768, "depth": 12, "text": 512, "learning_rate": 5e-4},
    "b16": {"patch": 16, "width": 768, "depth": 12, "text": 512, "learning_rate": 5e-4},
    "l14": {"patch": 14, "width": 1024, "depth": 24, "text": 768, "learning_rate": 4e-4},
}
IMAGE, LENGTH = (224, 224), 77


def get_config(size: str = "b32") -> ConfigDict:
    """The experiment; `size` is a key of `SIZES`."""
    sizes = ConfigDict(SIZES[size])
    config = parts.matching(image=IMAGE, length=LENGTH, loss="info_nce", augment={"crop": {"scale": (0.9, 1.0)}})
    config.tokenizer = {"vocabulary": 49_408, "examples": 1_000_000}
    common = {"activation": "quick_gelu", "epsilon": 1e-5, "remat": True}
    released = {"class_token": True, "class_position": True, "pre_norm": True, "patch_bias": False, "pool": "first"}
    image = sizes.width, sizes.depth, sizes.width // 64
    config.model = {
        "dtype": "bfloat16",
        "towers": {
            "image": parts.vit(*image, image=IMAGE, patch=(sizes.patch,) * 2, **released, **OPENAI_PIXELS, **common),
            "text": parts.text(
                sizes.text, 12, sizes.text // 64, length=LENGTH, causal=True, packed=False, pool="end", **common
            ),
        },
        "dual": {"embedding": sizes.text, "temperature": 0.07, "bias": None},
    }
    decay = ((r"(bias|scale|log_scale)$", 0.0), (".*", 0.2))
    config.optimizer = parts.optimizer(sizes.learning_rate, warmup=2000, b2=0.98, eps=1e-6, weight_decay=decay)
    config.train = {"steps": 390_625, "evaluate_every": 10_000}
    return config.lock()
