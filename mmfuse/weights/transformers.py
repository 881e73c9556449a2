"""What do the folders of Hugging Face transformers share, whichever family they hold?

The words of their `config.json` in ours, both ways, and the rows of an encoder's layers. Defaults are those of
transformers 5.23.0, which leaves out of the file what equals them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mmfuse.training.workdir import flatten
from mmfuse.types import CheckpointError
from mmfuse.weights.table import LINEAR, Row, Table

IMAGE, TEXT = "towers/image", "towers/text"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_SCALE = 1e6  # released models are not clipped when they are used

# Their words for activations. Where two are the same function, the first is written.
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
ENCODER = {
    "hidden_size": "width",
    "intermediate_size": "mlp",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "hidden_act": "activation",
    "layer_norm_eps": "epsilon",
}
VISION = ENCODER | {"patch_size": "patch", "image_size": "image", "num_channels": "channels"}
WORDS = ENCODER | {"max_position_embeddings": "length", "eos_token_id": "eos"}
# What the towers of all families are.
PLAIN = {"norm": "layer", "position": "learned", "remat": False, "unroll": False}
# What a tower has that no family says anything of.
FREE = ("remat", "unroll", "crop", "center", "scale", "places")


class Family(NamedTuple):
    """One kind of model, in both directions.

    Attributes:
      config, weights: the files of a folder.
      to_ours: their config.json → our config, with the parts `model` and `tokenizer`.
      to_theirs: the other way; what has no counterpart there comes back otherwise by `to_ours`.
      table: of the tensors, given `config.model`.
    """

    config: str
    weights: str
    to_ours: Callable[[Mapping[str, Any]], dict[str, Any]]
    to_theirs: Callable[[ConfigDict], dict[str, Any]]
    table: Callable[[ConfigDict], Table]


def section(config: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """One part of a config, with the defaults for what is left out. Old files have it under `{name}_dict` as well."""
    return {**defaults, **(config.get(f"{name}_dict") or config.get(name) or {})}


def tower(theirs: Mapping[str, Any], words: Mapping[str, str], **fixed: Any) -> dict[str, Any]:
    """Our config of a tower."""
    ours = {our: theirs[their] for their, our in words.items()}
    if ours["activation"] not in ACTIVATIONS:
        raise CheckpointError(f"hidden_act is {ours['activation']!r}; there are: {', '.join(ACTIVATIONS)}.")
    ours["activation"] = ACTIVATIONS[ours["activation"]]
    for their, our in words.items():
        if our not in ("activation", "eos") and not (isinstance(theirs[their], int | float) and theirs[their] > 0):
            raise CheckpointError(f"{their} is {theirs[their]!r}: it has to be one number above 0.")
    ours |= {side: (ours[side], ours[side]) for side in ("patch", "image") if side in ours}
    if "image" in ours:
        crop = any(extent % patch for extent, patch in zip(ours["image"], ours["patch"]))
        ours |= {"crop": crop, **dict.fromkeys(("center", "scale"), (127.5,) * ours["channels"])}
    return ours | {"key_heads": ours["heads"]} | PLAIN | fixed


def their_section(tower: ConfigDict, words: Mapping[str, str]) -> dict[str, Any]:
    """Their config of a tower of ours."""
    theirs = {their: tower[our] for their, our in words.items()}
    names = {our: their for their, our in reversed(ACTIVATIONS.items())}
    theirs["hidden_act"] = names.get(theirs["hidden_act"])
    for side in {"image_size", "patch_size"} & theirs.keys():
        theirs[side] = theirs[side][0]  # they have squares alone
    return theirs


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """In what a model of ours differs from what it would come back as, a line for each setting."""
    flat = [flatten(config) for config in (ours, theirs)]
    keys = [key for key in sorted(flat[0] | flat[1]) if key.split(".")[-1] not in FREE]
    return [
        f"  model.{key} is {flat[0].get(key, 'not set')!r}, and has to be {flat[1].get(key, 'not set')!r}"
        for key in keys
        if flat[0].get(key, "not set") != flat[1].get(key, "not set")
    ]


def projection(model: ConfigDict, tower: str) -> str:
    """How the pooled vector of a tower enters the shared space, see `DualTower`."""
    return model.dual.get("projection", {}).get(tower, "linear")


# --- rows -------------------------------------------------------------------------------------------------------------


def linear(theirs: str, ours: str) -> tuple[Row, Row]:
    """A projection with a bias."""
    return Row(f"{theirs}.weight", (f"{ours}/kernel",), LINEAR), Row(f"{theirs}.bias", (f"{ours}/bias",))


def joined(theirs: str, ours: str, *parts: str) -> tuple[Row, Row]:
    """Several projections with a bias in one tensor; `theirs` is what stands before "weight" and "bias"."""
    weights, biases = (tuple(f"{ours}/{part}/{leaf}" for part in parts) for leaf in ("kernel", "bias"))
    return Row(f"{theirs}weight", weights, LINEAR), Row(f"{theirs}bias", biases)


def norm(theirs: str, ours: str) -> tuple[Row, Row]:
    """A layer norm."""
    return Row(f"{theirs}.weight", (f"{ours}/scale",)), Row(f"{theirs}.bias", (f"{ours}/bias",))


def encoder(theirs: str, ours: str) -> tuple[Row, ...]:
    """All layers of an encoder."""
    layer, block = f"{theirs}.encoder.layers.{{}}", f"{ours}/stack/segments/0/unit/self0"
    return (
        *norm(f"{layer}.layer_norm1", f"{block}/attention_norm"),
        *linear(f"{layer}.self_attn.q_proj", f"{block}/attention/query"),
        *linear(f"{layer}.self_attn.k_proj", f"{block}/attention/key"),
        *linear(f"{layer}.self_attn.v_proj", f"{block}/attention/value"),
        *linear(f"{layer}.self_attn.out_proj", f"{block}/attention/out"),
        *norm(f"{layer}.layer_norm2", f"{block}/mlp_norm"),
        *linear(f"{layer}.mlp.fc1", f"{block}/mlp/up"),
        *linear(f"{layer}.mlp.fc2", f"{block}/mlp/down"),
    )


def text_rows() -> tuple[Row, ...]:
    """A text tower, with its last norm."""
    return (
        Row("text_model.embeddings.token_embedding.weight", (f"{TEXT}/embed/embedding",)),
        Row("text_model.embeddings.position_embedding.weight", (f"{TEXT}/position/table",)),
        *encoder("text_model", TEXT),
        *norm("text_model.final_layer_norm", f"{TEXT}/stack/norm"),
    )
