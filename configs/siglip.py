"""SigLIP as published: `configs/siglip.py:b16`, `:l16` or `:so400m`, on tars of pictures with captions.

    python main.py --config=configs/siglip.py:b16 --config.data.train='shards/train-{00000..41455}.tar' \\
        --config.data.test='shards/test-*.tar' --config.mesh.fsdp=8 --workdir=runs/siglip_b16

Zhai et al. 2023, arXiv 2303.15343: the sigmoid loss, 32,768 pairs in a batch. Parameters as released: 203,155,970,
652,150,786 (at 256 pixels) and 877,360,306 (patches of 14 at 224 pixels, texts of 16). Rate, decay, warm-up and the 40
billion pairs are those of SigLIP 2, arXiv 2502.14786. Not as published: the data; the tokenizer, learned from their
captions with as many ids; padding, which no token sees, so that the exported model has to be given the mask. No run of
it has been made here. What is trained is a SiglipModel: `python -m mmfuse.weights export --format=hf`.
"""

from ml_collections import ConfigDict

from configs import parts

SIZES = {
    "b16": {"image": 224, "patch": 16, "width": 768, "depth": 12, "heads": 12, "mlp": 3072, "length": 64},
    "l16": {"image": 256, "patch": 16, "width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "length": 64},
    "so400m": {"image": 224, "patch": 14, "width": 1152, "depth": 27, "heads": 16, "mlp": 4304, "length": 16},
}


def get_config(size: str = "b16") -> ConfigDict:
    """The experiment; `size` is a key of `SIZES`."""
    sizes = ConfigDict(SIZES[size])
    image = (sizes.image, sizes.image)
    config = parts.matching(image=image, length=sizes.length, loss="sigmoid", augment={})
    config.tokenizer = {"vocabulary": 32_000, "examples": 1_000_000}
    common = sizes.width, sizes.depth, sizes.heads
    changes = {"mlp": sizes.mlp, "remat": True}
    config.model = {
        "dtype": "bfloat16",
        "towers": {
            "image": parts.vit(*common, image=image, patch=(sizes.patch,) * 2, pool="attention", **changes),
            "text": parts.text(*common, length=sizes.length, packed=False, pool="final", **changes),
        },
        "dual": {
            "embedding": sizes.width,
            "temperature": 0.1,
            "bias": -10.0,
            "projection": {"image": "none", "text": "affine"},
        },
    }
    # theirs is 1e-4 of the schedule alone; ours is multiplied by the rate, too
    decay = ((r"kernel$", 1e-4 / 1e-3), (".*", 0.0))
    config.optimizer = parts.optimizer(1e-3, warmup=20_000, b2=0.95, weight_decay=decay)
    config.train = {"steps": 1_220_703, "evaluate_every": 10_000}
    return config.lock()
