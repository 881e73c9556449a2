"""What does open_clip's config say of a model, in our words and in theirs?

Towers of its own: CLIP's, whose pictures need not be square, and whose texts end at the highest id, at one that is
named, or in the last place. Picture towers of timm: those of SigLIP. What a config says beyond this (other poolings,
layer scale, …) is refused by its name.
"""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmfuse.types import CheckpointError
from mmfuse.weights import timm
from mmfuse.weights.preprocessing import as_pair, as_shares, each, open_clip_pixels
from mmfuse.weights.transformers import MAX_SCALE, PLAIN, projection

EPSILON = 1e-5
# What we have parts for, with open_clip's defaults.
MODEL = {
    "embed_dim": None,
    "vision_cfg": None,
    "text_cfg": None,
    "quick_gelu": False,
    "init_logit_bias": None,
    "custom_text": False,
}
SHARED = {"layers": 12, "mlp_ratio": 4.0, "norm_kwargs": None, "act_kwargs": None}
VISION = SHARED | {"image_size": 224, "patch_size": 16, "width": 768, "head_width": 64, "no_ln_pre": False}
TIMM = {
    "timm_model_name": None,
    "image_size": 224,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "timm_proj_bias": False,
}
WORDS = SHARED | {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "pool_type": "argmax",
    "eos_id": 2,
    "no_causal_mask": False,
    "proj_type": "linear",
    "proj_bias": False,
}
# Every other setting has to have its default, or to be left out.
OTHER = {
    "block_type": "default",
    "pool_type": "tok",
    "pos_embed_type": "learnable",
    "attn_pooler_queries": 256,
    "attn_pooler_heads": 8,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "hf_proj_type": "mlp",
    "hf_pooler_type": "mean_pooler",
    "hf_model_pretrained": True,
}
FREE = (  # changes nothing of what a trained model says
    *("init_logit_scale", "cast_dtype", "output_dict", "output_tokens", "patch_dropout"),
    *("timm_model_pretrained", "timm_drop", "timm_drop_path"),
    *("pad_id", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
)
ACTIVATIONS = {"none": "gelu", "tanh": "gelu_tanh"}  # by what torch's GELU is approximated by
TEXT_POOLS = {"argmax": "end", "eos": "end", "last": "final", "first": "first"}


def to_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our config of their open_clip_config.json."""
    model = _known("model_cfg", config["model_cfg"], MODEL)
    read_image = _timm_tower if model["vision_cfg"].get("timm_model_name") else _own_tower
    image, of_image = read_image(model["vision_cfg"], quick=model["quick_gelu"])
    text, of_text, vocabulary = _text_tower(model["text_cfg"], quick=model["quick_gelu"])
    image |= open_clip_pixels(config.get("preprocess_cfg") or {})
    image["crop"] = any(extent % side for extent, side in zip(image["image"], image["patch"]))
    bias = None if model["init_logit_bias"] is None else float(model["init_logit_bias"])
    dual = {"embedding": model["embed_dim"], "temperature": 0.07, "bias": bias}
    dual |= {"max_scale": MAX_SCALE, "projection": {"image": of_image, "text": of_text}}
    return {
        "model": {"dtype": "float32", "towers": {"image": image, "text": text}, "dual": dual},
        "tokenizer": {"vocabulary": vocabulary},
    }


def to_theirs(config: ConfigDict) -> dict[str, Any]:
    """The open_clip_config.json of a `CLIP`, whose picture tower is open_clip's own."""
    image = config.model.towers.image
    vision = {"image_size": list(image.image), "patch_size": list(image.patch), "no_ln_pre": not image.pre_norm}
    vision |= _shared(image) | {"head_width": image.width // image.heads}
    return _config(config, vision, quick=image.activation == "quick_gelu")


def to_theirs_custom(config: ConfigDict) -> dict[str, Any]:
    """That of a `CustomTextCLIP`, whose picture tower is one of timm."""
    image, kind = config.model.towers.image, projection(config.model, "image")
    name = timm.nearest(image)
    vision = {"timm_model_name": name, "timm_pool": "map", "image_size": timm.TOWERS[name]["image"][0]}
    vision |= {"timm_proj": "none" if kind == "none" else "linear", "timm_proj_bias": kind == "affine"}
    theirs = _config(config, vision, quick=config.model.towers.text.activation == "quick_gelu")
    theirs["model_cfg"]["custom_text"] = True
    return theirs


def _own_tower(given, *, quick):
    """Our config of a tower, and of its projection."""
    vision = _known("vision_cfg", given, VISION)
    image, patch = as_pair(vision["image_size"]), as_pair(vision["patch_size"])
    tower = _encoder("vision_cfg", vision, vision["width"] // vision["head_width"], quick=quick)
    own = {"pool": "first", "class_token": True, "class_position": True, "patch_bias": False}
    pixels = {"kind": "vit", "image": image, "patch": patch, "channels": 3, "pre_norm": not vision["no_ln_pre"]}
    return tower | own | pixels, "linear"


def _timm_tower(given, *, quick):
    del quick  # of which timm does not hear
    vision = _known("vision_cfg", given, TIMM)
    tower = timm.tower(vision["timm_model_name"])
    _require_one_of("vision_cfg", vision, timm_pool=("map",), timm_proj=("none", "linear"))
    if as_pair(vision["image_size"]) != tower["image"]:
        raise CheckpointError(f"vision_cfg.image_size is {vision['image_size']}, and its tower reads {tower['image']}.")
    kinds = {"none": "none", "linear": "affine" if vision["timm_proj_bias"] else "linear"}
    return tower, kinds[vision["timm_proj"]]


def _text_tower(given, *, quick):
    """Our config of a tower, and of its projection; and the number of ids."""
    text = _known("text_cfg", given, WORDS)
    _require_one_of("text_cfg", text, pool_type=tuple(TEXT_POOLS), proj_type=("none", "linear"))
    tower = _encoder("text_cfg", text, text["heads"], quick=quick)
    own = {"length": text["context_length"], "causal": not text["no_causal_mask"], "packed": False}
    ends = {"pool": TEXT_POOLS[text["pool_type"]], "eos": None if text["pool_type"] == "argmax" else text["eos_id"]}
    kinds = {"none": "none", "linear": "affine" if text["proj_bias"] else "linear"}
    return tower | {"kind": "text"} | own | ends, kinds[text["proj_type"]], text["vocab_size"]


def _encoder(name, settings, heads, *, quick):
    keywords = settings["act_kwargs"] or {}
    if (quick and keywords) or set(keywords) - {"approximate"}:
        raise CheckpointError(f"{name}.act_kwargs is {keywords}, for which mmfuse has no part.")
    width = settings["width"]
    return PLAIN | {
        "width": width,
        "depth": settings["layers"],
        "heads": heads,
        "key_heads": heads,
        "mlp": int(width * settings["mlp_ratio"]),
        "activation": "quick_gelu" if quick else ACTIVATIONS[keywords.get("approximate", "none")],
        "epsilon": (settings["norm_kwargs"] or {}).get("eps", EPSILON),
    }


def _known(name, given, defaults):
    """The settings with their defaults; what we have no part for is refused."""
    for key, value in given.items():
        resnet = key == "layers" and not isinstance(value, int)
        if resnet or (key not in defaults and key not in FREE and value and value != OTHER.get(key)):
            raise CheckpointError(f"{name}.{key} is {value!r}, for which mmfuse has no part.")
    return defaults | {key: value for key, value in given.items() if key in defaults}


def _require_one_of(name, settings, **wanted):
    for key, values in wanted.items():
        if settings[key] not in values:
            raise CheckpointError(f"{name}.{key} is {settings[key]!r}; there are: {', '.join(values)}.")


def _config(config, vision, *, quick):
    """Theirs, given that of the picture tower."""
    image, text, dual = config.model.towers.image, config.model.towers.text, config.model.dual
    kind, pools = projection(config.model, "text"), {"end": "eos", "final": "last", "first": "first"}
    ended = text.eos is not None and text.pool in pools
    pool = {"pool_type": pools[text.pool], "eos_id": text.eos} if ended else {"pool_type": "argmax"}
    ends = {"proj_type": "none" if kind == "none" else "linear", "proj_bias": kind == "affine"}
    words = {"context_length": text.length, "vocab_size": config.tokenizer.vocabulary, "heads": text.heads}
    bias = {} if dual.bias is None else {"init_logit_bias": dual.bias}
    model = {
        "embed_dim": dual.embedding,
        "quick_gelu": quick,
        "vision_cfg": vision,
        "text_cfg": _shared(text) | words | pool | ends | {"no_causal_mask": not text.causal},
        **bias,
    }
    numbers = {"mean": image.center, "std": image.scale}
    pixels = {key: as_shares(each(key, number, image.channels)) for key, number in numbers.items()}
    return {"model_cfg": model, "preprocess_cfg": pixels}


def _shared(tower):
    ratio = tower.mlp / tower.width
    return {
        "width": tower.width,
        "layers": tower.depth,
        "mlp_ratio": ratio if int(ratio * tower.width) == tower.mlp else math.nextafter(ratio, math.inf),
        **({} if tower.epsilon == EPSILON else {"norm_kwargs": {"eps": tower.epsilon}}),
        **({"act_kwargs": {"approximate": "tanh"}} if tower.activation == "gelu_tanh" else {}),
    }
