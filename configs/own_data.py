"""A person's own pictures, sounds and words: towers for every modality that is there, matched and captioned.

    python main.py --config=configs/own_data.py --config.data.train='shards/train-*.tar' \\
        --config.data.test='shards/test-*.tar' --config.train.minutes=10 --workdir=runs/mine

Sizes fit the machine; `configs/own_data.py:small` or `:base` says them. What no record has is left out.
docs/own_data.md tells the whole story, `configs/parts.py` says what each key means.
"""

from pathlib import Path

from ml_collections import ConfigDict

from configs import parts

SIZES = {
    "small": {"image": 64, "patch": 8, "width": 128, "depth": 4, "heads": 4, "rows": 64, "dtype": "float32"},
    "base": {"image": 224, "patch": 16, "width": 512, "depth": 12, "heads": 8, "rows": 1024, "dtype": "bfloat16"},
}
SAMPLES = 128_000  # at most 8 s at 16 kHz: of longer sounds the beginning is heard
LENGTH = 48  # tokens of a caption
# Little, since nothing is known of the data: no mirror, no other colours.
AUGMENT = {
    "image": {"crop": {"scale": (0.6, 1.0)}, "jitter": {"brightness": 0.2, "contrast": 0.2}},
    "audio": {"shift_seconds": 0.1, "gain_db": 6.0},
}
PROMPT = 24  # tokens of a prompt: the code of a language
REFERENCES = 20  # captions of a record that a generated one is compared with, at most


def get_config(size: str = "") -> ConfigDict:
    """The experiment; `size` is a key of `SIZES`, or empty for what fits the machine."""
    sizes = ConfigDict(SIZES[size or _fitting_size()])
    config = ConfigDict()
    config.seed = 0
    config.data = {"train": "", "test": ""}  # patterns of tars
    # so many records are looked at for what is there, and for the longest sound
    config.survey = {"records": 256, "found": (), "longest": 0}
    config.tokenizer = {"vocabulary": 4096, "examples": 20_000}
    config.sources = {"train": {"kind": "webdataset", "shards": config.data.get_ref("train")}}

    signals = {"image": (sizes.image, sizes.image), "audio": (SAMPLES,)}
    caption = {"take": "captions", "number": 1, "length": LENGTH}
    config.streams = {
        "pairs": {
            "rows": sizes.rows,
            "mixture": {"train": 1.0},
            "signals": signals,
            "augment": AUGMENT,
            "text": {"caption": caption, "target": caption},
            "objectives": {"contrastive": 1.0, "captioning": 1.0},
            "accumulate": 1,
        }
    }
    pairs = (("image", "caption"), ("audio", "caption"), ("image", "audio"))
    config.objectives = {
        "contrastive": {"kind": "contrastive", "loss": "info_nce", "between": pairs},
        "captioning": {"kind": "generation", "chunk": 16},
    }
    config.model = _model(sizes)
    config.optimizer = parts.optimizer(1e-3, warmup=100, weight_decay=((r"(bias|scale|gate)$", 0.0), (".*", 0.2)))
    config.sharding = parts.sharding()
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    # the minutes become steps once; both are limits, and 0 minutes are none
    config.train = {"minutes": 0.0, "steps": 100_000, "evaluate_every": 100_000}
    config.checkpoint = {"every": 100, "keep": 2}
    config.log_every = 10
    config.loader = parts.loader()
    config.evaluators = _evaluators({"kind": "webdataset", "shards": config.data.get_ref("test")}, signals, pairs)
    config.eval = parts.evaluation()
    return config.lock()


def _evaluators(test, signals, pairs):
    return {
        "retrieval": parts.retrieval(
            test,
            signals=signals,
            caption={"take": "captions", "number": 5, "length": LENGTH},
            between=pairs,
            examples=1_000_000,
        ),
        "caption": parts.captioning(
            test,
            signals=signals,
            prompt={"take": "captions", "number": 1, "length": PROMPT},
            target={"take": "captions", "number": REFERENCES, "length": LENGTH},
            examples=1000,  # writing is slow
            tokens=LENGTH - PROMPT,
        ),
    }


def _model(sizes):
    common = sizes.width, sizes.depth, sizes.heads
    return {
        "dtype": sizes.dtype,
        "towers": {
            "image": parts.vit(*common, image=(sizes.image,) * 2, patch=(sizes.patch,) * 2),
            "audio": parts.audio(*common, samples=SAMPLES, patch=(20, 16)),
            "text": parts.text(*common, length=LENGTH),
        },
        "dual": {"embedding": sizes.width, "temperature": 0.07, "bias": -10.0},
        "single": parts.decoder(sizes.width, 2, sizes.heads, length=LENGTH, memories=("image", "audio")),
    }


def _fitting_size():
    """Looks for the files of accelerators: a config is read before JAX may start."""
    accelerators = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("accel[0-9]*")]
    return "base" if accelerators else "small"
