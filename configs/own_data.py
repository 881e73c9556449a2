"""A person's own pictures, sounds and words: towers for every modality that is there, matched and captioned.

    python main.py --config=configs/own_data.py --config.data.train='shards/train-*.tar' \\
        --config.data.test='shards/test-*.tar' --config.train.minutes=10 --workdir=runs/mine

Sizes fit the machine; `configs/own_data.py:small` or `:base` says them. What no record has is left out.
docs/own_data.md tells the whole story, `configs/parts.py` says what each key means.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from ml_collections import ConfigDict

from configs import parts

SIZES = {
    "small": {"image": 64, "rows": 64, "captions": 4, "workers": 1, "dtype": "float32"},
    "base": {"image": 224, "rows": 1024, "captions": 1, "workers": 8, "dtype": "bfloat16"},
}
SAMPLES = 320_000  # at most 20 s at 16 kHz: of longer sounds the beginning is heard
LENGTH = 32  # tokens of a caption
# Small data are seen many times. Nothing is mirrored or has other hues, since nothing is known of the data.
AUGMENT = {
    "image": {
        "crop": {"scale": (0.4, 1.0)},
        "affine": {"degrees": 8.0, "translate": 0.04, "scale": (0.85, 1.1), "stretch": 0.1},
        "jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3},
        "erase": {"share": 0.25},
    },
    "audio": {
        "shift_seconds": 0.1,
        "gain_db": 6.0,
        "band_masks": 2,
        "band_share": 0.1,
        "time_masks": 2,
        "time_share": 0.1,
    },
}
PROMPT = 12  # tokens of a prompt: the code of a language
FOUND = 16  # captions of a record that are looked for, at most
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
    caption = {"take": "captions", "number": 1, "length": LENGTH, "optional": True}
    config.streams = {
        "pairs": {
            "rows": sizes.rows,
            "mixture": {"train": 1.0},
            "signals": signals,
            "augment": AUGMENT,
            # several captions share one pass of the other towers, each language before any has two
            "text": {"caption": {**caption, "number": sizes.captions, "balance": "languages"}, "target": caption},
            "objectives": {"contrastive": 1.0, "captioning": 1.0},
            "accumulate": 1,
        }
    }
    pairs = (("image", "caption"), ("audio", "caption"), ("image", "audio"))
    config.objectives = {
        "contrastive": {"kind": "contrastive", "loss": "info_nce", "between": pairs},
        "captioning": {"kind": "generation", "chunk": 16},
    }
    config.model, config.optimizer = _base(sizes) if sizes.image > 64 else _small(sizes)
    config.sharding = parts.sharding()
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    # the minutes become steps once; both are limits, and 0 minutes are none
    config.train = {"minutes": 0.0, "steps": 100_000, "evaluate_every": 100_000}
    config.checkpoint = {"every": 100, "keep": 2}
    config.log_every = 10
    config.loader = parts.loader(workers=sizes.workers, memory=3000)
    config.evaluators = _evaluators(
        {"kind": "webdataset", "shards": config.data.get_ref("test")}, signals, pairs, caption
    )
    config.eval = parts.evaluation()
    return config.lock()


def _evaluators(test, signals, pairs, caption):
    return {
        "retrieval": parts.retrieval(
            test,
            signals=signals,
            caption={**caption, "number": FOUND},
            between=pairs,
            examples=10_000,
        ),
        "caption": parts.captioning(
            test,
            signals=signals,
            prompt={**caption, "length": PROMPT},
            target={**caption, "number": REFERENCES},
            examples=1000,  # writing is slow
            tokens=LENGTH,
        ),
    }


def _small(sizes):
    """For minutes on a few cores: what learns soonest, see `configs/emoji.py` and `configs/router.py`."""
    width, heads = 128, 4
    audio = {"samples": SAMPLES, "window": 512, "hop": 160, "patch": (16, 64), "position": "sincos"}
    model = {
        "dtype": sizes.dtype,
        "towers": {
            "image": parts.convnet(
                192, (1, 1, 1), image=(sizes.image,) * 2, patch=(4, 4), position="sincos", pool="flat"
            ),
            "audio": parts.audio(width, 2, heads, **audio),
            "text": parts.text(2 * width, 0, heads, length=LENGTH),
        },
        "dual": {"embedding": 2 * width, "temperature": 0.07, "bias": -10.0},
        "single": parts.decoder(width, 1, heads, length=PROMPT + LENGTH, memories=("image", "audio"), mlp=2 * width),
    }
    # whatever modalities there are, each rule has something to speak of
    rates = (
        (r"(gate|logit_bias)$", 20.0),
        (r"(towers/text/.*|log_scale)$", 10.0),
        (r"kernel$", 2.0),
        (".*", 1.0),
    )
    optimizer = parts.optimizer(
        2e-3, warmup=50, learning_rate_scale=rates, orthogonal=((r"kernel$", True), (".*", False))
    )
    return model, optimizer


def _base(sizes):
    """For hours on accelerators."""
    size = 512, 12, 8
    model = {
        "dtype": sizes.dtype,
        "towers": {
            "image": parts.vit(*size, image=(sizes.image,) * 2, patch=(16, 16), remat=True),
            "audio": parts.audio(*size, samples=SAMPLES, window=512, hop=160, patch=(16, 64), remat=True),
            "text": parts.text(*size, length=LENGTH, remat=True),
        },
        "dual": {"embedding": 512, "temperature": 0.07, "bias": -10.0},
        "single": parts.decoder(512, 2, 8, length=LENGTH + PROMPT, memories=("image", "audio")),
    }
    return model, parts.optimizer(1e-3, warmup=100, weight_decay=((r"(bias|scale|gate)$", 0.0), (".*", 0.2)))


def _fitting_size():
    """Looks for accelerators and for what drives them: a config is read before JAX may start."""
    devices = [path for kind in ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*") for path in Path("/dev").glob(kind)]
    driven = any(map(find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu")))
    return "base" if devices and driven and os.environ.get("JAX_PLATFORMS") != "cpu" else "small"
