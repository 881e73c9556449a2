"""What is known of a batch once its towers have run?

The first of a model's two phases, `encode`, makes a memory; heads, decoders and objectives read it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Num

from mmfuse.routing.consensus import NO_AGREEMENT, Agreement
from mmfuse.routing.gates import Gates
from mmfuse.towers.tower import TowerOutput
from mmfuse.types import Batch, Signal, Tokens


class Memory(NamedTuple):
    """What the towers made of a batch, by signal name and text role.

    Attributes:
      tokens: (B S D), the items of an example one after another.
      embeddings: unit vectors of the shared space, (B C E): one for a signal (C = 1), one for each caption; zero where
        a gate is shut.
      aux: scalars of the towers.
      trace: attention weights where a probe asked for them.
      gates: (B) of each modality that a router decides about. What is shut is padding among the tokens.
      agreement: how far modalities agree, where a model compares them; what disagrees is padding among the tokens.
    """

    tokens: dict[str, Tokens]
    embeddings: dict[str, Float[Array, "B C E"]]
    aux: dict[str, Array]
    trace: dict[str, Any]
    gates: dict[str, Gates]
    agreement: Agreement = NO_AGREEMENT

    def taking_part(self, batch: Batch, name: str) -> Bool[Array, "B C"]:
        """`Batch.present`, but for what a gate has shut."""
        there = batch.present(name)
        for gates in (self.gates, self.agreement.gates):
            if name in gates:
                there &= gates[name].open[:, None]
        return there

    @property
    def decided(self) -> dict[str, tuple[Bool[Array, "B"], Float[Array, "B"]]]:
        """Whether each modality that has a gate takes part, and how likely that was; before the towers, and after."""
        found: dict[str, tuple[Array, Array]] = {}
        for gates in (self.gates, self.agreement.gates):
            for name, gate in gates.items():
                opened, soft = found.get(name, (True, 1.0))
                found[name] = gate.open & opened, gate.soft * soft
        return found


def keep_tokens(memory: Memory, stays: Mapping[str, Bool[Array, "..."]]) -> Memory:
    """The memory, in which the tokens of these names are padding where they do not stay."""
    read = {name: memory.tokens[name] for name in stays}
    read = {name: side._replace(segment=jnp.where(stays[name], side.segment, 0)) for name, side in read.items()}
    return memory._replace(tokens=memory.tokens | read)


def in_views(memory: Memory, views: Sequence[Collection[str]], names: Sequence[str]) -> Memory:
    """Each example V times, one after another: of the names, each view has those alone that it lists.

    Tokens that are not named are in all views.
    """

    def spread(name, side):
        side = Tokens(*(jnp.repeat(array, len(views), axis=0) for array in side))
        if name not in names:
            return side
        seen = jnp.tile(jnp.array([name in view for view in views]), len(side.segment) // len(views))
        return side._replace(segment=jnp.where(seen[:, None], side.segment, 0))

    return memory._replace(tokens={name: spread(name, side) for name, side in memory.tokens.items()})


def valid_values(signal: Signal) -> Num[Array, "B I ..."]:
    """The values, with 0 in absent items and beyond each item's size, whatever stood there: 0 · NaN is NaN."""
    shape = signal.values.shape

    def spread(per_item):
        return per_item.reshape(*shape[:2], *(1,) * (len(shape) - 2))

    valid = spread(signal.item_mask)
    for axis in range(signal.size.shape[-1]):
        place = jax.lax.broadcasted_iota(jnp.int32, shape, 2 + axis)
        valid = valid & (place < spread(signal.size[..., axis]))
    return jnp.where(valid, signal.values, 0)


def join_items(out: TowerOutput, item_mask: Bool[Array, "B I"], anchor) -> tuple[Tokens, Float[Array, "B D"]]:
    """One sequence and one pooled vector for each example, out of those of its items.

    An absent item is padding, and does not count in the mean of the pooled vectors.
    """
    examples, items = item_mask.shape

    def lay(array):
        return array.reshape(examples, items * array.shape[1], *array.shape[2:])

    tokens = Tokens(*map(lay, out.tokens))
    per_item = tokens.segment.shape[1] // items
    segment = jnp.where(jnp.repeat(item_mask, per_item, axis=1), tokens.segment, 0)
    tokens = tokens._replace(segment=segment, anchor=jnp.repeat(anchor, per_item, axis=1))
    counted = jnp.where(item_mask[..., None], out.pooled.reshape(examples, items, -1), 0)
    number = jnp.maximum(item_mask.sum(axis=1, keepdims=True), 1).astype(counted.dtype)
    return tokens, counted.sum(axis=1) / number
