"""Which class does a name in a config stand for?

What a model is made of; its towers have their table in `build_towers.py`, objectives and evaluators in
`build_goals.py`, sources in `build_data.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mmfuse.build_towers import DTYPES, TOWERS, lookup, make_position, make_stack
from mmfuse.fusion.prefix import ModalityPrefix
from mmfuse.models.dual_tower import DualTower
from mmfuse.models.multimodal import PREFIX, TEXT_TOWER, Multimodal
from mmfuse.models.single_tower import SingleTower
from mmfuse.objectives.cost import count_flops
from mmfuse.routing.answers import AnswerConsensus
from mmfuse.routing.consensus import Consensus
from mmfuse.routing.evidence import PROBES
from mmfuse.routing.gates import BinaryConcrete, Dimmed, HardConcrete, Random, Threshold, TopK
from mmfuse.routing.router import Router
from mmfuse.routing.tokens import TokenSelection
from mmfuse.types import ENCODED_ROLES


def reader(name: str) -> str:
    """The tower that reads a modality: descriptions and captions are texts."""
    return TEXT_TOWER if name in ENCODED_ROLES else name


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
    consensus = _consensus(model.consensus, widths, dtype, rngs) if "consensus" in model else None
    keep = {
        name: TokenSelection(widths[reader(name)], number, text=name in ENCODED_ROLES, rngs=rngs)
        for name, number in model.get("keep", {}).items()
    }
    return Multimodal(towers, dual, single, router, prefix, consensus, keep)


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
    settings = {key: value for key, value in config.to_dict().items() if key not in ("gate", "dense_steps", "falling")}
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
    stack = make_stack(config, dtype, rngs, cross_every=config.cross_every)
    position = make_position(config, (config.length,), rngs)
    return SingleTower(config.width, stack, memories, vocabulary=vocabulary, position=position, dtype=dtype, rngs=rngs)


def _prefix(model, dtype, rngs):
    modalities = [name for name in model.single.memories if name != PREFIX]
    return ModalityPrefix(modalities, model.single.width, **model.prefix.to_dict(), dtype=dtype, rngs=rngs)


def _consensus(config, widths, dtype, rngs):
    if "questions" in config:
        return AnswerConsensus(**config.to_dict())
    compared = {name: widths[reader(name)] for name in config.between}
    settings = {key: value for key, value in config.items() if key != "between"}
    return Consensus(compared, **settings, dtype=dtype, rngs=rngs)
