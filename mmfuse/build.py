"""Which class does a name in a config stand for?

The table of what a model is made of; objectives and evaluators have theirs in `build_goals.py`, sources in
`build_data.py`. A new part is its file, its test, and one row here. Every function reads one room of the config and
hands the parts that it makes to the parts that need them.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from input_pipeline.names import require_known
from mmfuse.fusion.gated_cross_attention import GatedCrossBlock
from mmfuse.fusion.prefix import ModalityPrefix
from mmfuse.models.dual_tower import DualTower
from mmfuse.models.multimodal import PREFIX, TEXT_TOWER, Multimodal
from mmfuse.models.single_tower import SingleTower
from mmfuse.nn.attention import Attention
from mmfuse.nn.mlp import ACTIVATIONS, Mlp
from mmfuse.nn.norms import InstanceNorm, LayerNorm, RMSNorm
from mmfuse.nn.positions import LearnedPosition, ResizedPosition, SinCosPosition
from mmfuse.objectives.cost import count_flops
from mmfuse.routing.evidence import PROBES
from mmfuse.routing.gates import BinaryConcrete, Dimmed, HardConcrete, Random, Threshold, TopK
from mmfuse.routing.router import Router
from mmfuse.stack.block import SelfBlock
from mmfuse.stack.stack import Segment, Stack
from mmfuse.towers.audio import AudioTower
from mmfuse.towers.convnet import ConvNet, reach
from mmfuse.towers.pooling import (
    AttentionPool,
    EndPool,
    EosPool,
    FinalPool,
    FirstPool,
    FlatPool,
    LastPool,
    MaxPool,
    MeanPool,
)
from mmfuse.towers.text import TextTower
from mmfuse.towers.vit import ViT
from mmfuse.types import ConfigError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def lookup(table: Mapping[str, Any] | ConfigDict, name: str, what: str) -> Any:
    """The entry of a table, or a ConfigError that names the nearest one."""
    require_known(what, name, tuple(table))
    return table[name]


# --- stacks -----------------------------------------------------------------------------------------------------------


def _block(config, kind, dtype, rngs):
    fuses = kind is GatedCrossBlock
    attention = Attention(
        config.width,
        config.heads,
        key_heads=config.key_heads,
        rotary_base=1e4 if config.position == "rotary" and not fuses else None,
        out_bias=not fuses,  # what is read of an empty memory is nothing
        dtype=dtype,
        rngs=rngs,
    )
    return kind(attention, _mlp(config, dtype, rngs), _norm(config), _norm(config))


def _mlp(config, dtype, rngs):
    activation = lookup(ACTIVATIONS, config.activation, "activation")
    return Mlp(config.width, config.mlp, activation=activation, dtype=dtype, rngs=rngs)


def _norm(config):
    return lookup(NORMS, config.norm, "norm")(config.width, epsilon=config.epsilon)


def _stack(config, dtype, rngs, cross_every=0):
    """Self-attention blocks, with a gated cross-attention block after every `cross_every` of them, then a norm."""
    if not config.depth:
        return Stack([], _norm(config))

    def unit(rngs):
        blocks = {f"self{i}": _block(config, SelfBlock, dtype, rngs) for i in range(cross_every or 1)}
        return blocks | ({"cross": _block(config, GatedCrossBlock, dtype, rngs)} if cross_every else {})

    segment = Segment(unit, config.depth // (cross_every or 1), remat=config.remat, unroll=config.unroll, rngs=rngs)
    return Stack([segment], _norm(config))


def _position(config, extent, rngs):
    table = {
        "learned": lambda: LearnedPosition(extent, config.width, rngs=rngs),
        "resized": lambda: ResizedPosition(extent, config.width, rngs=rngs),
        "sincos": lambda: SinCosPosition(config.width, axes=len(extent)),
        "rotary": lambda: None,
        "none": lambda: None,
    }
    return lookup(table, config.position, "position")()


def _pool(config, positions, dtype, rngs):
    def attention_pool():
        attention = Attention(config.width, config.heads, dtype=dtype, rngs=rngs)
        norm = LayerNorm(config.width, epsilon=config.epsilon)
        return AttentionPool(config.width, attention, _mlp(config, dtype, rngs), norm, rngs=rngs)

    table = {
        "first": FirstPool,
        "last": LastPool,
        "mean": MeanPool,
        "max": MaxPool,
        "eos": lambda: EosPool(config.eos),
        "end": lambda: EndPool(config.eos),
        "final": FinalPool,
        "flat": lambda: FlatPool(positions, config.width, dtype=dtype, rngs=rngs),
        "attention": attention_pool,
    }
    return lookup(table, config.pool, "pool")()


# --- towers -----------------------------------------------------------------------------------------------------------


def _vit(config, extent, dtype, rngs, **changes):
    if config.class_token is False and config.pool == "first":
        raise ConfigError("pool 'first' takes the class token: set class_token to True, or take another pool.")
    grid = tuple(size // patch for size, patch in zip(extent, config.patch))
    return ViT(
        config.width,
        _stack(config, dtype, rngs),
        _pool(config, math.prod(grid) + config.class_token, dtype, rngs),
        patch=config.patch,
        position=_position(config, grid, rngs),
        class_token=config.class_token,
        dtype=dtype,
        rngs=rngs,
        **changes,
    )


def _image_tower(config, vocabulary, dtype, rngs):
    own = ("channels", "center", "scale", "patch_bias", "class_position", "crop")
    changes = {name: config[name] for name in own} | {"places": config.get("places")}
    pre_norm = _norm(config) if config.pre_norm else None
    return _vit(config, config.image, dtype, rngs, pre_norm=pre_norm, **changes)


def _audio_tower(config, vocabulary, dtype, rngs):
    # log₁₀ energies of speech and music lie about −2 ± 4
    spectrum = {"channels": 1, "center": -2.0, "scale": 4.0, "modality": "audio"}
    vit = _vit(config, (config.samples // config.hop, config.bands), dtype, rngs, **spectrum)
    return AudioTower(vit, bands=config.bands, window=config.window, hop=config.hop)


def _text_tower(config, vocabulary, dtype, rngs):
    return TextTower(
        config.width,
        _stack(config, dtype, rngs),
        _pool(config, config.length, dtype, rngs),
        vocabulary=vocabulary,
        causal=config.causal,
        packed=config.packed,
        position=_position(config, (config.length,), rngs),
        dtype=dtype,
        rngs=rngs,
    )


def _convnet(config, vocabulary, dtype, rngs):
    norm = lookup(NORMS | {"instance": InstanceNorm}, config.norm, "norm")
    grid = tuple(size // step for size, step in zip(config.image, reach(config.patch, config.blocks)))
    pool, position = _pool(config, math.prod(grid), dtype, rngs), _position(config, grid, rngs)
    shared = {"patch": config.patch, "position": position, "dtype": dtype, "rngs": rngs}
    return ConvNet(config.width, config.blocks, norm, pool, **shared)


def reader(name: str) -> str:
    """The tower that reads a modality: descriptions are texts."""
    return TEXT_TOWER if name == "source" else name


TOWERS = {"vit": _image_tower, "convnet": _convnet, "audio": _audio_tower, "text": _text_tower}


# --- models -----------------------------------------------------------------------------------------------------------


def make_model(config: ConfigDict, rngs: nnx.Rngs) -> Multimodal:
    """The towers of `config.model`, with a dual head, a single-tower decoder, or both."""
    model, vocabulary = config.model, config.tokenizer.vocabulary
    dtype = lookup(DTYPES, model.dtype, "dtype")
    towers = {
        name: lookup(TOWERS, tower.kind, "tower")(tower, vocabulary, dtype, rngs)
        for name, tower in model.towers.items()
    }
    widths = {name: tower.width for name, tower in model.towers.items()}
    dual = DualTower(widths, **model.dual.to_dict(), dtype=dtype, rngs=rngs) if "dual" in model else None
    single = _single(model.single, widths, vocabulary, dtype, rngs) if "single" in model else None
    router = _router(model, vocabulary, dtype, rngs) if "router" in model else None
    prefix = _prefix(model, dtype, rngs) if "prefix" in model else None
    return Multimodal(towers, dual, single, router, prefix)


# The form of the gates, given the capacities of the modalities.
GATES = {
    "threshold": lambda _: Threshold(),
    "binary_concrete": lambda _: BinaryConcrete(),
    "hard_concrete": lambda _: HardConcrete(),
    "top_1": lambda _: TopK(1),
    "top_2": lambda _: TopK(2),
    "dimmed": lambda _: Dimmed(),
    "random": Random,
}


def _router(model, vocabulary, dtype, rngs):
    config = model.router
    probes = {name: lookup(PROBES, name, "modality with a probe")() for name in config.capacity}
    settings = {key: value for key, value in config.to_dict().items() if key not in ("gate", "dense_steps")}
    towers = {name: model.towers[reader(name)] for name in probes}
    costs = {name: _tower_flops(tower, vocabulary, dtype) for name, tower in towers.items()}
    gate = lookup(GATES, config.gate, "gate")(tuple(config.capacity.values()))
    return Router(probes, gate, costs=costs, **settings, rngs=rngs)


def _tower_flops(config, vocabulary, dtype):
    """Of one example."""
    graph, state = nnx.split(
        nnx.eval_shape(lambda: lookup(TOWERS, config.kind, "tower")(config, vocabulary, dtype, nnx.Rngs(0)))
    )
    if config.kind == "text":
        arrays = [jax.ShapeDtypeStruct((1, config.length), jnp.int32)] * 2
    else:
        extent = (*config.image, 3) if "image" in config else (config.samples,)
        arrays = [
            jax.ShapeDtypeStruct((1, *extent), jnp.float32),
            jax.ShapeDtypeStruct((1, len(extent[:2])), jnp.int32),
        ]
    return count_flops(jax.make_jaxpr(lambda state, *arrays: nnx.merge(graph, state)(*arrays).pooled)(state, *arrays))


def _single(config, widths, vocabulary, dtype, rngs):
    widths = widths | {PREFIX: config.width}
    memories = {name: widths[reader(name)] for name in config.memories}
    stack = _stack(config, dtype, rngs, cross_every=config.cross_every)
    position = _position(config, (config.length,), rngs)
    return SingleTower(config.width, stack, memories, vocabulary=vocabulary, position=position, dtype=dtype, rngs=rngs)


def _prefix(model, dtype, rngs):
    modalities = [name for name in model.single.memories if name != PREFIX]
    return ModalityPrefix(modalities, model.single.width, **model.prefix.to_dict(), dtype=dtype, rngs=rngs)
