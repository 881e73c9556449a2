"""What is a CLIP of transformers (`CLIPModel`), in our parts?

Image: patches without a bias, a class token with a position, a norm before the first block, the class token of the last
norm. Text: causal, the token at the text's end. Both projected without a bias; the logits have a scale alone.
Reference: Radford et al. 2021, arXiv 2103.00020.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmfuse.types import CheckpointError
from mmfuse.weights.preprocessing import OPENAI_PIXELS
from mmfuse.weights.table import LINEAR, SAME, Layout, Row, Table, convolution
from mmfuse.weights.transformers import (
    CONFIG,
    IMAGE,
    MAX_SCALE,
    VISION,
    WEIGHTS,
    WORDS,
    Family,
    encoder,
    norm,
    section,
    text_rows,
    their_section,
    tower,
)

_SHARED = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
VISION_DEFAULTS = _SHARED | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
TEXT_DEFAULTS = _SHARED | {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
# The first files said 2 where they meant 49407; since then 2 stands for "the highest id".
HIGHEST = 2
IGNORED = {r"\.position_ids$": "0, 1, 2, …, which old files kept"}


def to_ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our config of their config.json."""
    vision = section(config, "vision_config", VISION_DEFAULTS)
    text = section(config, "text_config", TEXT_DEFAULTS)
    if not isinstance(text["eos_token_id"], int):
        raise CheckpointError(f"text_config.eos_token_id is {text['eos_token_id']!r}: it has to be one id.")
    image = {"kind": "vit", "class_token": True, "class_position": True, "pre_norm": True, "patch_bias": False}
    words = {"kind": "text", "causal": True, "packed": False, "pool": "end"}
    towers = {"image": tower(vision, VISION, pool="first", **image), "text": tower(text, WORDS, **words)}
    if towers["text"]["eos"] == HIGHEST:
        towers["text"]["eos"] = None
    if towers["image"]["channels"] == 3:
        towers["image"] |= OPENAI_PIXELS
    dual = {"embedding": config.get("projection_dim", 512), "temperature": 0.07, "bias": None, "max_scale": MAX_SCALE}
    model = {"dtype": "float32", "towers": towers, "dual": dual | {"projection": {"image": "linear", "text": "linear"}}}
    return {"model": model, "tokenizer": {"vocabulary": text["vocab_size"]}}


def to_theirs(config: ConfigDict) -> dict[str, Any]:
    """Their config.json of our config."""
    towers, embedding = config.model.towers, config.model.dual.embedding
    text = their_section(towers.text, WORDS) | {"vocab_size": config.tokenizer.vocabulary}
    text["eos_token_id"] = HIGHEST if towers.text.eos is None else towers.text.eos
    sections = {"vision_config": their_section(towers.image, VISION), "text_config": text}
    kinds = {"vision_config": "clip_vision_model", "text_config": "clip_text_model"}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": embedding,
        **{name: {"model_type": kinds[name], "projection_dim": embedding, **part} for name, part in sections.items()},
    }


def table(model: ConfigDict) -> Table:
    """The tensors of a `CLIPModel`."""
    image = model.towers.image
    vision = "vision_model.embeddings"
    patches = convolution(image.patch, image.channels, image.width)
    return Table(
        (
            *text_rows(),
            Row(f"{vision}.class_embedding", (f"{IMAGE}/class_token",), Layout(shape=(image.width,))),
            Row(f"{vision}.patch_embedding.weight", (f"{IMAGE}/embed/kernel",), patches),
            Row(f"{vision}.position_embedding.weight", (f"{IMAGE}/class_position", f"{IMAGE}/position/table"), SAME),
            *norm("vision_model.pre_layrnorm", f"{IMAGE}/pre_norm"),
            *encoder("vision_model", IMAGE),
            *norm("vision_model.post_layernorm", f"{IMAGE}/stack/norm"),
            Row("visual_projection.weight", ("dual/projections/image/kernel",), LINEAR),
            Row("text_projection.weight", ("dual/projections/text/kernel",), LINEAR),
            Row("logit_scale", ("dual/log_scale",)),
        ),
        IGNORED,
    )


CLIP = Family(CONFIG, WEIGHTS, to_ours, to_theirs, table)
