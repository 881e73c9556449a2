"""Can this model be built?

Widths that do not divide, parts that do not fit together: one sentence says what to write instead. See `validate.py`.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

from ml_collections import ConfigDict

from mmfuse.build import GATES, reader
from mmfuse.build_towers import TOWERS, lookup
from mmfuse.models.dual_tower import check_projections
from mmfuse.models.multimodal import PREFIX
from mmfuse.routing.evidence import PROBES
from mmfuse.towers.convnet import reach
from mmfuse.types import ENCODED_ROLES, ConfigError

NEEDED = {"eos": "eos", "end": "eos", "attention": "heads"}  # by pools, of their towers


def require(condition: bool, sentence: str) -> None:
    """Raises ConfigError with the sentence where the condition does not hold."""
    if not condition:
        raise ConfigError(sentence)


def check_model(model: ConfigDict) -> None:
    """Raises ConfigError at the first thing that is wrong with `config.model`."""
    require("dual" in model or "single" in model, "model has neither 'dual' nor 'single': give it a head.")
    require(bool(model.towers), "model.towers is empty: give it a tower.")
    for name, tower in model.towers.items():
        lookup(TOWERS, tower.kind, "tower")
        check = _check_convnet if tower.kind == "convnet" else _check_stack
        check(f"model.towers.{name}", tower)
        require(
            NEEDED.get(tower.pool, "kind") in tower,
            f"model.towers.{name}.pool is '{tower.pool}', which needs the setting '{NEEDED.get(tower.pool)}', and a "
            f"'{tower.kind}' has none: take another pool.",
        )
    if "projection" in model.get("dual", {}):
        widths = {name: tower.width for name, tower in model.towers.items()}
        check_projections("model.dual.projection", model.dual.projection.to_dict(), widths, model.dual.embedding)
    if "router" in model:
        _check_router(model.router, model.towers)
    if "consensus" in model:
        _check_consensus(model)
    _check_prefix(model)
    for name, number in model.get("keep", {}).items():
        _check_reader("model.keep", name, model.towers)
        least = 2 if name in ENCODED_ROLES else 1  # a text keeps its first and its last token
        require(number >= least, f"model.keep.{name} is {number}: write how many tokens are read, {least} or more.")
    if "single" in model:
        _check_stack("model.single", model.single)
        for memory in set(model.single.memories) - {PREFIX}:
            require(
                reader(memory) in model.towers,
                f"model.single.memories names '{memory}', which no tower makes: there are {', '.join(model.towers)}.",
            )
        depth, every = model.single.depth, model.single.cross_every
        require(depth % every == 0, f"model.single.depth is {depth}: make it a multiple of cross_every={every}.")
        pairs, length = model.single.get("pairs", model.single.length), model.single.length
        require(
            pairs >= length, f"model.single.pairs is {pairs}: write length={length}, a pair for each word, or more."
        )


def _check_reader(setting, name, towers):
    there = ", ".join(towers)
    require(reader(name) in towers, f"{setting} names '{name}', which no tower reads: there are {there}.")


def _check_router(router, towers):
    lookup(GATES, router.gate, "gate")
    require(bool(router.capacity), "model.router.capacity is empty: name a modality and the share that is read of it.")
    for name, share in router.capacity.items():
        lookup(PROBES, name, "modality with a probe")
        _check_reader("model.router.capacity", name, towers)
        require(0 < share <= 1, f"model.router.capacity.{name} is {share}: write a share above 0, 1 at most.")
    at_most = router.get("at_most", 1)  # runs from before there was one have none
    require(at_most >= 1, f"model.router.at_most is {at_most}: write 1 or more.")
    require(
        router.get("learns", True) or router.dense_steps > 0,
        "model.router.learns is False and model.router.dense_steps 0: its gates would never learn anything.",
    )
    falling = (router.dense_steps, 1.0), *router.get("falling", ())
    require(
        all(before < after and high >= low > 0 for (before, high), (after, low) in pairwise(falling)),
        f"model.router.falling is {falling[1:]}: write (last step, share) with steps that rise beyond dense_steps="
        f"{router.dense_steps}, and shares of 1 at most that do not.",
    )
    ladder = tuple(router.ladder)
    require(
        ladder == tuple(sorted(ladder)) and ladder[-1:] == (1.0,),
        f"model.router.ladder is {ladder}: write rising shares of which the last is 1.0.",
    )


def _check_consensus(model):
    consensus, read = model.consensus, model.get("single", {}).get("memories", ())
    require(len(consensus.between) > 1, "model.consensus.between: name two modalities or more.")
    for name in consensus.between:
        _check_reader("model.consensus.between", name, model.towers)
    require(
        0.5 <= consensus.threshold <= 1,
        f"model.consensus.threshold is {consensus.threshold}: write 0.5, so that one modality is shut at most, to 1.",
    )
    if "questions" in consensus:
        unread = [name for name in consensus.between if name not in read]
        require(
            not unread,
            f"model.consensus asks {', '.join(unread)}, which the decoder does not read: name it in "
            "model.single.memories, or leave it out.",
        )
        slip = consensus.slip
        require(0 < slip < 1, f"model.consensus.slip is {slip}: write a share of the answers between 0 and 1.")


def check_compared(name: str, between: Sequence[tuple[str, str]], compared: Sequence[str]) -> None:
    """Raises ConfigError where an objective is about a pair that the consensus does not compare."""
    pairs = [*combinations(compared, 2)]
    for pair in between:
        require(tuple(pair) in pairs, f"{name}.between has {tuple(pair)}: the pairs of model.consensus are {pairs}.")


def _check_prefix(model):
    given, read = "prefix" in model, PREFIX in model.get("single", {}).get("memories", ())
    require(
        given == read,
        f"model.prefix and model.single.memories go together: {'name' if given else 'there is no model.prefix for'} "
        f"'{PREFIX}' among the memories.",
    )
    drop = model.prefix.drop if given else 0.0
    require(0 <= drop < 1, f"model.prefix.drop is {drop}: write a share of the examples, less than 1.")


def _check_convnet(name, tower):
    require(bool(tower.blocks), f"{name}.blocks is empty: write how many blocks each stage has.")
    shrink = 2 ** (len(tower.blocks) - 1)
    require(
        tower.width % shrink == 0,
        f"{name}.width={tower.width} does not halve {len(tower.blocks) - 1} times: make it a multiple of {shrink}.",
    )
    centred = tower.norm == "instance" and tower.pool == "mean"
    require(not centred, f"{name}.pool is 'mean', and an instance norm centres the tokens: write 'max' or 'flat'.")
    require(tower.position != "rotary", f"{name}.position is 'rotary', and a convnet has no attention: write 'none'.")
    least = reach(tower.patch, tower.blocks)
    require(
        all(side % step == 0 for side, step in zip(tower.image, least)),
        f"{name}.image={tuple(tower.image)} does not divide by {least}, what a token stands for.",
    )


def _check_stack(name, stack):
    require(stack.width % stack.heads == 0, f"{name}.width={stack.width} does not divide by heads={stack.heads}.")
    require(
        stack.heads % stack.key_heads == 0,
        f"{name}.heads={stack.heads} does not divide by key_heads={stack.key_heads}.",
    )
    if stack.position == "rotary":
        size = stack.width // stack.heads
        require(size % 2 == 0, f"{name}: rotary positions turn pairs, and a head is {size} wide: make it even.")
    if "patch" in stack and not stack.get("crop", False):
        extent = stack.image if "image" in stack else (stack.samples // stack.hop, stack.bands)
        require(
            all(size % patch == 0 for size, patch in zip(extent, stack.patch)),
            f"{name}.patch={tuple(stack.patch)} does not divide {tuple(extent)}.",
        )
