"""What is a CLIP of open_clip, in our parts?

The same as that of transformers, under other names: queries, keys and values lie in one tensor, projections are not
transposed, the end of a text is the highest id (or one that is named), and pictures need not be square. What a config
says beyond this (other poolings, layer scale, towers of timm, …) is refused.
"""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmfuse.types import CheckpointError
from mmfuse.weights.preprocessing import OPEN_CLIP as CONFIG
from mmfuse.weights.preprocessing import as_pair, as_shares, each, open_clip_pixels
from mmfuse.weights.table import LINEAR, Layout, Row, Table, convolution
from mmfuse.weights.transformers import IMAGE, MAX_SCALE, TEXT, Family, linear, norm

EPSILON = 1e-5
# What we have parts for; every other setting has to have the value that is said for it in OTHER, or to be left out.
MODEL = {"embed_dim": None, "vision_cfg": None, "text_cfg": None, "quick_gelu": False, "init_logit_bias": None}
VISION = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "head_width": 64, "mlp_ratio": 4.0}
WORDS = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
CHOICES = {"pool_type": "argmax", "eos_id": 2, "no_causal_mask": False, "norm_kwargs": None, "no_ln_pre": False}
OTHER = {
    "block_type": "default",
    "pool_type": "tok",
    "pos_embed_type": "learnable",
    "proj_type": "linear",
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
    *("pad_id", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
)
IGNORED = {r"^attn_mask$": "the causal mask, which old files kept"}


def to_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our config of their open_clip_config.json."""
    given, pixels = config["model_cfg"], config.get("preprocess_cfg") or {}
    model = _known("model_cfg", given, MODEL, ())
    vision = _known("vision_cfg", given["vision_cfg"], VISION, ("norm_kwargs", "no_ln_pre"))
    text = _known("text_cfg", given["text_cfg"], WORDS, ("norm_kwargs", "pool_type", "eos_id", "no_causal_mask"))
    if text["pool_type"] not in ("argmax", "eos"):
        raise CheckpointError(f"text_cfg.pool_type is {text['pool_type']!r}; there are: argmax, eos.")
    shared = {"activation": "quick_gelu" if model["quick_gelu"] else "gelu"}
    image, patch = as_pair(vision["image_size"]), as_pair(vision["patch_size"])
    towers = {
        "image": _encoder(vision, vision["width"] // vision["head_width"])
        | shared
        | {"kind": "vit", "image": image, "patch": patch, "pool": "first", "class_token": True, "class_position": True}
        | {"channels": 3, "patch_bias": False, "pre_norm": not vision["no_ln_pre"], **open_clip_pixels(pixels)}
        | {"crop": any(extent % side for extent, side in zip(image, patch))},
        "text": _encoder(text, text["heads"])
        | shared
        | {"kind": "text", "length": text["context_length"], "causal": not text["no_causal_mask"], "packed": False}
        | {"pool": "end", "eos": text["eos_id"] if text["pool_type"] == "eos" else None},
    }
    dual = {"embedding": model["embed_dim"], "temperature": 0.07, "bias": model["init_logit_bias"]}
    dual |= {"max_scale": MAX_SCALE, "projection": {"image": "linear", "text": "linear"}}
    return {
        "model": {"dtype": "float32", "towers": towers, "dual": dual},
        "tokenizer": {"vocabulary": text["vocab_size"]},
    }


def to_theirs(config: ConfigDict) -> dict[str, Any]:
    """Their open_clip_config.json of our config."""
    image, text, dual = config.model.towers.image, config.model.towers.text, config.model.dual
    pool = {"pool_type": "argmax"} if text.eos is None else {"pool_type": "eos", "eos_id": text.eos}
    vision = {"image_size": list(image.image), "patch_size": list(image.patch), "no_ln_pre": not image.pre_norm}
    words = {"context_length": text.length, "vocab_size": config.tokenizer.vocabulary, "heads": text.heads}
    bias = {} if dual.bias is None else {"init_logit_bias": dual.bias}
    model = {
        "embed_dim": dual.embedding,
        "quick_gelu": image.activation == "quick_gelu",
        "vision_cfg": _shared(image) | vision | {"head_width": image.width // image.heads},
        "text_cfg": _shared(text) | words | pool | {"no_causal_mask": not text.causal},
        **bias,
    }
    numbers = {"mean": image.center, "std": image.scale}
    pixels = {key: as_shares(each(key, number, image.channels)) for key, number in numbers.items()}
    return {"model_cfg": model, "preprocess_cfg": pixels}


def table(model: ConfigDict) -> Table:
    """The tensors of an open_clip `CLIP`."""
    image, dual = model.towers.image, model.dual
    patches = convolution(image.patch, 3, image.width)
    return Table(
        (
            Row("token_embedding.weight", (f"{TEXT}/embed/embedding",)),
            Row("positional_embedding", (f"{TEXT}/position/table",)),
            *_layers("transformer.resblocks.{}", TEXT),
            *norm("ln_final", f"{TEXT}/stack/norm"),
            Row("text_projection", ("dual/projections/text/kernel",)),
            Row("visual.class_embedding", (f"{IMAGE}/class_token",), Layout(shape=(image.width,))),
            Row("visual.positional_embedding", (f"{IMAGE}/class_position", f"{IMAGE}/position/table")),
            Row("visual.conv1.weight", (f"{IMAGE}/embed/kernel",), patches),
            *(norm("visual.ln_pre", f"{IMAGE}/pre_norm") if image.pre_norm else ()),
            *_layers("visual.transformer.resblocks.{}", IMAGE),
            *norm("visual.ln_post", f"{IMAGE}/stack/norm"),
            Row("visual.proj", ("dual/projections/image/kernel",)),
            Row("logit_scale", ("dual/log_scale",)),
            *(() if dual.bias is None else (Row("logit_bias", ("dual/logit_bias",)),)),
        ),
        IGNORED,
    )


def _layers(layer, ours):
    block = f"{ours}/stack/segments/0/unit/self0"
    parts = [f"{block}/attention/{part}" for part in ("query", "key", "value")]
    return (
        *norm(f"{layer}.ln_1", f"{block}/attention_norm"),
        Row(f"{layer}.attn.in_proj_weight", tuple(f"{part}/kernel" for part in parts), LINEAR),
        Row(f"{layer}.attn.in_proj_bias", tuple(f"{part}/bias" for part in parts)),
        *linear(f"{layer}.attn.out_proj", f"{block}/attention/out"),
        *norm(f"{layer}.ln_2", f"{block}/mlp_norm"),
        *linear(f"{layer}.mlp.c_fc", f"{block}/mlp/up"),
        *linear(f"{layer}.mlp.c_proj", f"{block}/mlp/down"),
    )


def _known(name, given, defaults, choices):
    """The settings with their defaults; what we have no part for is refused."""
    defaults = defaults | {key: CHOICES[key] for key in choices}
    for key, value in given.items():
        resnet = key == "layers" and not isinstance(value, int)
        if resnet or (key not in defaults and key not in FREE and value and value != OTHER.get(key)):
            raise CheckpointError(f"{name}.{key} is {value!r}, for which mmfuse has no part.")
    return defaults | {key: value for key, value in given.items() if key in defaults}


def _encoder(settings, heads):
    width = settings["width"]
    return {
        "width": width,
        "depth": settings["layers"],
        "heads": heads,
        "key_heads": heads,
        "mlp": int(width * settings["mlp_ratio"]),
        "norm": "layer",
        "epsilon": (settings["norm_kwargs"] or {}).get("eps", EPSILON),
        "position": "learned",
        "remat": False,
        "unroll": False,
    }


def _shared(tower):
    ratio = tower.mlp / tower.width
    return {
        "width": tower.width,
        "layers": tower.depth,
        "mlp_ratio": ratio if int(ratio * tower.width) == tower.mlp else math.nextafter(ratio, math.inf),
        **({} if tower.epsilon == EPSILON else {"norm_kwargs": {"eps": tower.epsilon}}),
    }


OPEN_CLIP = Family(CONFIG, "open_clip_model.safetensors", to_ours, to_theirs, table)
