"""Which tensors has a model of open_clip, and what are they in our parts?

`CLIP`: the same as that of transformers, under other names: queries, keys and values lie in one tensor, and projections
are not transposed. `CustomTextCLIP`: the same, the text tower's under a prefix; it has the SigLIPs, whose picture tower
is one of timm. What their configs say is in `open_clip_config.py`.
"""

from ml_collections import ConfigDict

from mmfuse.weights import timm
from mmfuse.weights.open_clip_config import to_ours, to_theirs, to_theirs_custom
from mmfuse.weights.preprocessing import OPEN_CLIP as CONFIG
from mmfuse.weights.table import Layout, Row, Table, convolution
from mmfuse.weights.transformers import IMAGE, TEXT, Family, joined, linear, norm, projection

IGNORED = {r"^(text\.)?attn_mask$": "the causal mask, which old files kept"}


def table(model: ConfigDict) -> Table:
    """The tensors of a `CLIP`."""
    return _table(model, "")


def table_custom(model: ConfigDict) -> Table:
    """The tensors of a `CustomTextCLIP`."""
    return _table(model, "text.")


def _table(model, prefix):
    image, dual = model.towers.image, model.dual
    return Table(
        (
            *_text_rows(model, prefix),
            *(timm.rows(model) if image.pool == "attention" else _own_rows(image)),
            Row("logit_scale", ("dual/log_scale",)),
            *(() if dual.bias is None else (Row("logit_bias", ("dual/logit_bias",)),)),
        ),
        IGNORED,
    )


def _text_rows(model, prefix):
    kernel = Row(f"{prefix}text_projection", ("dual/projections/text/kernel",))
    affine = linear(f"{prefix}text_projection", "dual/projections/text")
    return (
        Row(f"{prefix}token_embedding.weight", (f"{TEXT}/embed/embedding",)),
        Row(f"{prefix}positional_embedding", (f"{TEXT}/position/table",)),
        *_layers(f"{prefix}transformer.resblocks.{{}}", TEXT),
        *norm(f"{prefix}ln_final", f"{TEXT}/stack/norm"),
        *{"none": (), "linear": (kernel,), "affine": affine}[projection(model, "text")],
    )


def _own_rows(image):
    return (
        Row("visual.class_embedding", (f"{IMAGE}/class_token",), Layout(shape=(image.width,))),
        Row("visual.positional_embedding", (f"{IMAGE}/class_position", f"{IMAGE}/position/table")),
        Row("visual.conv1.weight", (f"{IMAGE}/embed/kernel",), convolution(image.patch, 3, image.width)),
        *(norm("visual.ln_pre", f"{IMAGE}/pre_norm") if image.pre_norm else ()),
        *_layers("visual.transformer.resblocks.{}", IMAGE),
        *norm("visual.ln_post", f"{IMAGE}/stack/norm"),
        Row("visual.proj", ("dual/projections/image/kernel",)),
    )


def _layers(layer, ours):
    block = f"{ours}/stack/segments/0/unit/self0"
    return (
        *norm(f"{layer}.ln_1", f"{block}/attention_norm"),
        *joined(f"{layer}.attn.in_proj_", f"{block}/attention", "query", "key", "value"),
        *linear(f"{layer}.attn.out_proj", f"{block}/attention/out"),
        *norm(f"{layer}.ln_2", f"{block}/mlp_norm"),
        *linear(f"{layer}.mlp.c_fc", f"{block}/mlp/up"),
        *linear(f"{layer}.mlp.c_proj", f"{block}/mlp/down"),
    )


OPEN_CLIP = Family(CONFIG, "open_clip_model.safetensors", to_ours, to_theirs, table)
CUSTOM_TEXT = OPEN_CLIP._replace(to_theirs=to_theirs_custom, table=table_custom)
