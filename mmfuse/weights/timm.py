"""What is a vision transformer of timm, where it is a SigLIP's picture tower, in our parts?

open_clip says its name, and the name says its sizes: no config can change them. Which of them have GELU, and which its
approximation by tanh, is timm's choice, whatever a model was trained with.
Reference: `timm/models/vision_transformer.py` of timm 1.0.31.
"""

import math
from typing import Any

from ml_collections import ConfigDict

from mmfuse.types import CheckpointError
from mmfuse.weights.table import Layout, Row, convolution
from mmfuse.weights.transformers import IMAGE, PLAIN, joined, linear, norm, projection

_SIZES = {
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096},
    "so400m": {"width": 1152, "depth": 27, "heads": 16, "mlp": 4304},
    "giantopt": {"width": 1536, "depth": 40, "heads": 16, "mlp": 6144},
}
TOWERS: dict[str, dict[str, Any]] = {
    f"vit_{size}_patch{patch}_siglip_{image}": {
        **_SIZES[size],
        "patch": (patch, patch),
        "image": (image, image),
        "activation": activation,
    }
    for size, patch, images, activation in (
        ("base", 16, (224, 256, 384, 512), "gelu"),
        ("base", 32, (256,), "gelu_tanh"),
        ("large", 16, (256, 384), "gelu"),
        ("large", 16, (512,), "gelu_tanh"),
        ("so400m", 14, (224, 378, 384), "gelu"),
        ("so400m", 16, (256, 384, 512), "gelu_tanh"),
        ("giantopt", 16, (256, 384), "gelu_tanh"),
    )
    for image in images
}
# What all of them are, and no other tower of open_clip is.
OWN = {"pool": "attention", "class_token": False, "class_position": False, "patch_bias": True, "pre_norm": False}


def tower(name: str) -> dict[str, Any]:
    """Our config of the tower that has this name. Raises CheckpointError where it is not a SigLIP's."""
    if name not in TOWERS:
        raise CheckpointError(
            f"vision_cfg.timm_model_name is {name!r}; of timm there are SigLIP's towers, such as {next(iter(TOWERS))}."
        )
    sizes = TOWERS[name]
    return PLAIN | OWN | sizes | {"kind": "vit", "channels": 3, "epsilon": 1e-6, "key_heads": sizes["heads"]}


def nearest(image: ConfigDict) -> str:
    """The name of the tower that differs from ours in the fewest sizes."""
    return min(TOWERS, key=lambda name: sum(image.get(key) != size for key, size in TOWERS[name].items()))


def rows(model: ConfigDict) -> tuple[Row, ...]:
    """The tensors of the tower and of its projection."""
    image, trunk, pool = model.towers.image, "visual.trunk", f"{IMAGE}/pool"
    layer, block = f"{trunk}.blocks.{{}}", f"{IMAGE}/stack/segments/0/unit/self0"
    places = math.prod(extent // side for extent, side in zip(image.image, image.patch))
    head = linear("visual.head.proj", "dual/projections/image")
    return (
        Row(f"{trunk}.pos_embed", (f"{IMAGE}/position/table",), Layout(shape=(1, places, image.width))),
        Row(
            f"{trunk}.patch_embed.proj.weight",
            (f"{IMAGE}/embed/kernel",),
            convolution(image.patch, image.channels, image.width),
        ),
        Row(f"{trunk}.patch_embed.proj.bias", (f"{IMAGE}/embed/bias",)),
        *norm(f"{layer}.norm1", f"{block}/attention_norm"),
        *joined(f"{layer}.attn.qkv.", f"{block}/attention", "query", "key", "value"),
        *linear(f"{layer}.attn.proj", f"{block}/attention/out"),
        *norm(f"{layer}.norm2", f"{block}/mlp_norm"),
        *linear(f"{layer}.mlp.fc1", f"{block}/mlp/up"),
        *linear(f"{layer}.mlp.fc2", f"{block}/mlp/down"),
        *norm(f"{trunk}.norm", f"{IMAGE}/stack/norm"),
        Row(f"{trunk}.attn_pool.latent", (f"{pool}/query",), Layout(shape=(1, 1, image.width))),
        *linear(f"{trunk}.attn_pool.q", f"{pool}/attention/query"),
        *joined(f"{trunk}.attn_pool.kv.", f"{pool}/attention", "key", "value"),
        *linear(f"{trunk}.attn_pool.proj", f"{pool}/attention/out"),
        *norm(f"{trunk}.attn_pool.norm", f"{pool}/norm"),
        *linear(f"{trunk}.attn_pool.mlp.fc1", f"{pool}/mlp/up"),
        *linear(f"{trunk}.attn_pool.mlp.fc2", f"{pool}/mlp/down"),
        *{"none": (), "linear": head[:1], "affine": head}[projection(model, "image")],
    )
