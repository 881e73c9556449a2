"""What is a SigLIP of transformers (`SiglipModel`, `Siglip2Model`), in our parts?

Image: patches and positions, one learned query that reads all tokens of the last norm. Text: not causal, the token in
the last place, padding or not, projected with a bias. Logits have a scale and a bias. A `Siglip2Model` reads pictures
of any shape, its table of positions resized to each; checkpoints of SigLIP 2 for one resolution are `SiglipModel`s.
Reference: Zhai et al. 2023, arXiv 2303.15343; Tschannen et al. 2025, arXiv 2502.14786 (SigLIP 2).
"""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmfuse.types import CheckpointError
from mmfuse.weights.table import LINEAR, Layout, Row, Table, convolution
from mmfuse.weights.transformers import (
    CONFIG,
    IMAGE,
    MAX_SCALE,
    VISION,
    WEIGHTS,
    WORDS,
    Family,
    encoder,
    joined,
    linear,
    norm,
    section,
    text_rows,
    their_section,
    tower,
)

_SHARED = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
VISION_DEFAULTS = _SHARED | {"num_channels": 3, "image_size": 224, "patch_size": 16, "vision_use_head": True}
TEXT_DEFAULTS = _SHARED | {
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "eos_token_id": 49407,
    "projection_size": None,
}
IGNORED = {r"\.position_ids$": "0, 1, 2, …, which old files kept"}


def to_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our config of their config.json."""
    vision = section(config, "vision_config", VISION_DEFAULTS)
    text = section(config, "text_config", TEXT_DEFAULTS)
    image = {"kind": "vit", "class_token": False, "class_position": False, "pre_norm": False, "patch_bias": True}
    words = {"kind": "text", "causal": False, "packed": False, "pool": "final"}
    towers = {"image": tower(vision, VISION, pool="attention", **image), "text": tower(text, WORDS, **words)}
    embedding = text["projection_size"] or text["hidden_size"]
    if not vision["vision_use_head"]:
        raise CheckpointError("vision_config.vision_use_head is false: without its head, a tower gives no embedding.")
    if embedding != vision["hidden_size"]:
        raise CheckpointError(
            f"texts are projected to {embedding} numbers and pictures have {vision['hidden_size']}: they never meet."
        )
    dual = {"embedding": embedding, "temperature": 0.1, "bias": -10.0, "max_scale": MAX_SCALE}
    model = {"dtype": "float32", "towers": towers, "dual": dual | {"projection": {"image": "none", "text": "affine"}}}
    return {"model": model, "tokenizer": {"vocabulary": text["vocab_size"]}}


def to_theirs(config: ConfigDict) -> dict[str, Any]:
    """Their config.json of our config."""
    towers = config.model.towers
    text = their_section(towers.text, WORDS) | {"vocab_size": config.tokenizer.vocabulary}
    text["projection_size"] = config.model.dual.embedding
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {"model_type": "siglip_vision_model", **their_section(towers.image, VISION)},
        "text_config": {"model_type": "siglip_text_model", **text},
    }


def table(model: ConfigDict) -> Table:
    """The tensors of a `SiglipModel`."""
    image = model.towers.image
    return _table(image, convolution(image.patch, image.channels, image.width))


def to_ours_flexible(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our config of the config.json of a `Siglip2Model`."""
    vision = section(config, "vision_config", VISION_DEFAULTS | {"num_patches": 256})
    side = math.isqrt(vision["num_patches"])
    if side**2 != vision["num_patches"]:
        raise CheckpointError(f"vision_config.num_patches is {vision['num_patches']}: it has to be a square.")
    ours = to_ours({**config, "vision_config": vision | {"image_size": side * vision["patch_size"]}})
    ours["model"]["towers"]["image"]["position"] = "resized"
    return ours


def to_theirs_flexible(config: ConfigDict) -> dict[str, Any]:
    """The config.json of a `Siglip2Model` of our config."""
    theirs, image = to_theirs(config), config.model.towers.image
    for part in ("vision", "text"):
        theirs[f"{part}_config"]["model_type"] = f"siglip2_{part}_model"
    del theirs["vision_config"]["image_size"]
    places = (image.image[0] // image.patch[0]) ** 2
    return theirs | {
        "architectures": ["Siglip2Model"],
        "model_type": "siglip2",
        "vision_config": theirs["vision_config"] | {"num_patches": places},
    }


def table_flexible(model: ConfigDict) -> Table:
    """The tensors of a `Siglip2Model`, which gets patches that are cut already."""
    return _table(model.towers.image, LINEAR)


def _table(image, patches):
    vision, head, pool = "vision_model.embeddings", "vision_model.head", f"{IMAGE}/pool"
    return Table(
        (
            *text_rows(),
            *linear("text_model.head", "dual/projections/text"),
            Row(f"{vision}.patch_embedding.weight", (f"{IMAGE}/embed/kernel",), patches),
            Row(f"{vision}.patch_embedding.bias", (f"{IMAGE}/embed/bias",)),
            Row(f"{vision}.position_embedding.weight", (f"{IMAGE}/position/table",)),
            *encoder("vision_model", IMAGE),
            *norm("vision_model.post_layernorm", f"{IMAGE}/stack/norm"),
            Row(f"{head}.probe", (f"{pool}/query",), Layout(shape=(1, 1, image.width))),
            *joined(f"{head}.attention.in_proj_", f"{pool}/attention", "query", "key", "value"),
            *linear(f"{head}.attention.out_proj", f"{pool}/attention/out"),
            *norm(f"{head}.layernorm", f"{pool}/norm"),
            *linear(f"{head}.mlp.fc1", f"{pool}/mlp/up"),
            *linear(f"{head}.mlp.fc2", f"{pool}/mlp/down"),
            Row("logit_scale", ("dual/log_scale",), Layout(shape=(1,))),
            Row("logit_bias", ("dual/logit_bias",), Layout(shape=(1,))),
        ),
        IGNORED,
    )


SIGLIP = Family(CONFIG, WEIGHTS, to_ours, to_theirs, table)
SIGLIP2 = Family(CONFIG, WEIGHTS, to_ours_flexible, to_theirs_flexible, table_flexible)
