"""Which class does the name of a tower, or of a part of one, stand for?

The table of what towers and stacks are made of. A new part is its file, its test, and one row here. Every function
reads one room of the config and hands the parts that it makes to the parts that need them.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from input_pipeline.names import require_known
from mmfuse.fusion.gated_cross_attention import GatedCrossBlock
from mmfuse.nn.attention import Attention
from mmfuse.nn.mlp import ACTIVATIONS, Mlp
from mmfuse.nn.norms import InstanceNorm, LayerNorm, RMSNorm
from mmfuse.nn.positions import LearnedPosition, ResizedPosition, SinCosPosition
from mmfuse.routing.blocks import BlockSparseAttention, plan_budget
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
    form = Attention
    if fuses and "pairs" in config:  # a word chooses for itself: others of its block would tell it what comes later
        plan = plan_budget(config.length, budget=config.pairs, query_block=1)
        form = functools.partial(BlockSparseAttention, plan=plan)
    attention = form(
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


def make_stack(config, dtype, rngs, cross_every=0):
    """Self-attention blocks, with a gated cross-attention block after every `cross_every` of them, then a norm."""
    if not config.depth:
        return Stack([], _norm(config))

    def unit(rngs):
        blocks = {f"self{i}": _block(config, SelfBlock, dtype, rngs) for i in range(cross_every or 1)}
        return blocks | ({"cross": _block(config, GatedCrossBlock, dtype, rngs)} if cross_every else {})

    segment = Segment(unit, config.depth // (cross_every or 1), remat=config.remat, unroll=config.unroll, rngs=rngs)
    return Stack([segment], _norm(config))


def make_position(config, extent, rngs):
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
        make_stack(config, dtype, rngs),
        _pool(config, math.prod(grid) + config.class_token, dtype, rngs),
        patch=config.patch,
        position=make_position(config, grid, rngs),
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
        make_stack(config, dtype, rngs),
        _pool(config, config.length, dtype, rngs),
        vocabulary=vocabulary,
        causal=config.causal,
        packed=config.packed,
        position=make_position(config, (config.length,), rngs),
        dtype=dtype,
        rngs=rngs,
    )


def _convnet(config, vocabulary, dtype, rngs):
    norm = lookup(NORMS | {"instance": InstanceNorm}, config.norm, "norm")
    grid = tuple(size // step for size, step in zip(config.image, reach(config.patch, config.blocks)))
    pool, position = _pool(config, math.prod(grid), dtype, rngs), make_position(config, grid, rngs)
    shared = {"patch": config.patch, "position": position, "dtype": dtype, "rngs": rngs}
    return ConvNet(config.width, config.blocks, norm, pool, **shared)


TOWERS = {"vit": _image_tower, "convnet": _convnet, "audio": _audio_tower, "text": _text_tower}
