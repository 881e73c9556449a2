"""Which blocks of keys does a block of queries read?

Queries and keys are cut into blocks. The score of a pair of blocks is a low-rank product of their means; each block of
queries keeps the key blocks with the highest scores, and attention is computed on those alone, gathered: the number of
pairs that are attended is fixed by a plan, and does not grow with the picture. Scoring does, linearly.

    keys     ▒▒▒▒ ████ ▒▒▒▒ ▒▒▒▒ ████ ▒▒▒▒     queries 0…q−1 read the two key blocks that are dark,
    gather        ████           ████           as if the mask hid the others

The choice is learned straight through: the values of a kept block are multiplied by 1 + (score − sg(score)), which is
exactly 1 and has the gradient of the score (sg: no gradient). What is not kept gets no gradient, nor does its score.

Letters: I blocks of queries, J blocks of keys, O of them that each block of queries keeps.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from mmfuse.nn.attention import Attention, attend
from mmfuse.nn.cache import KeyValue
from mmfuse.nn.masks import Mask, allowed
from mmfuse.routing.gates import straight_through


@dataclass(frozen=True)
class BlockPlan:
    """Sizes of the blocks of queries and of keys, and how many blocks of keys each block of queries keeps."""

    query_block: int
    key_block: int
    keep: int

    def pairs(self, queries: int) -> int:
        """How many pairs of a query and a key are attended, those that only fill up a block included."""
        return math.ceil(queries / self.query_block) * self.query_block * self.keep * self.key_block

    def within(self, keys: int) -> "BlockPlan":
        """The same where there are so many keys: no block is larger, and no more are kept than there are."""
        key_block = min(self.key_block, keys)
        return replace(self, key_block=key_block, keep=min(self.keep, math.ceil(keys / key_block)))


class Route(NamedTuple):
    """Which key blocks each block of queries keeps, in no order, and a factor of exactly 1 for the values of each."""

    block: Int[Array, "B I O"]
    gate: Float[Array, "B I O"]


def plan_budget(queries: int, *, budget: int = 1024, query_block: int = 8, keep: int = 4) -> BlockPlan:
    """A plan under which at most `budget` pairs are attended for each example.

    Args:
      queries: T.
      budget: of pairs.
      query_block: queries that decide together; less where there are fewer.
      keep: key blocks that each of them reads, at most; more and smaller blocks look closer, and cost more scoring.

    Raises:
      ValueError: the budget has not one key for each query.
    """
    query_block = min(query_block, queries)
    reads = budget // (math.ceil(queries / query_block) * query_block)
    if reads < 1:
        raise ValueError(
            f"a budget of {budget} pairs has no key for each of {queries} queries: prune the queries first"
        )
    key_block = max(reads // keep, 1)
    return BlockPlan(query_block, key_block, min(keep, reads // key_block))


class BlockRouter(nnx.Module):
    """Scores of pairs of blocks: (W mean of queries) · (V mean of keys) / √rank, in float32."""

    def __init__(self, width: int, memory_width: int, *, rank: int, rngs: nnx.Rngs):
        """Args: of the queries' and the keys' tokens; of the product; draws the parameters."""
        self.query = nnx.Linear(width, rank, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(memory_width, rank, use_bias=False, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "B T D"],
        query_segment: Int[Array, "B T"],
        keys: Float[Array, "B S E"],
        key_segment: Int[Array, "B S"],
        plan: BlockPlan,
    ) -> Float[Array, "B I J"]:
        query = self.query(_block_means(queries, query_segment, plan.query_block))
        key = self.key(_block_means(keys, key_segment, plan.key_block))
        return jnp.einsum("BIR,BJR->BIJ", query, key) * key.shape[-1] ** -0.5


def visible_blocks(mask: Mask, queries: int, keys: int, plan: BlockPlan) -> Bool[Array, "#B I J"]:
    """Whether some query of a block may look at some key of another."""
    dense = allowed(mask, queries=queries, keys=keys)
    dense = jnp.ones((1, 1, keys), bool) if dense is None else dense
    rows = _cut(jnp.broadcast_to(dense, (len(dense), queries, keys)), plan.query_block).any(axis=2)
    return _cut(rows.swapaxes(1, 2), plan.key_block).any(axis=2).swapaxes(1, 2)


def choose_blocks(scores: Float[Array, "B I J"], visible: Bool[Array, "#B I J"], plan: BlockPlan) -> Route:
    """The blocks with the highest scores for each block of queries; what it may not look at only for want of others.

    So what is chosen does not depend on blocks that may not be seen; one that may be in part is scored as a whole.
    """
    _, block = jax.lax.top_k(jnp.where(visible, scores, -jnp.inf), plan.keep)
    gate = straight_through(jnp.ones(block.shape, bool), jnp.take_along_axis(scores, block, axis=2))
    return Route(block, gate)


def block_sparse_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Mask,
    route: Route,
    plan: BlockPlan,
) -> Float[Array, "B T N H"]:
    """`attend` under the mask, restricted to the blocks of the route; the others are not computed.

    Args:
      mask: with a `key_segment`, and without a bias or pairs.
      route: of `choose_blocks`.
      plan: sizes of the blocks.

    Raises:
      ValueError: such a mask is not supported.
    """
    memory = KeyValue(_gather(key, route, plan), _gate(_gather(value, route, plan), route, plan))
    out, _ = attend(_rows(query, plan), *memory, _mask_of_rows(mask, *query.shape[:2], key.shape[1], route, plan))
    return _joined(out, query)


class BlockSparseAttention(Attention):
    """`Attention` that reads, of all keys, the blocks alone that a router chooses for each block of queries.

    The router goes by the heads of queries and keys, so that a cache of keys and values is all that it needs. Where a
    probe looks in, all pairs are computed, and those that are not chosen are masked: the same numbers.
    """

    def __init__(self, width: int, heads: int, *, plan: BlockPlan, rank: int = 16, rngs: nnx.Rngs, **settings):
        """Args: of `Attention`; how many blocks of keys each block of queries reads, at most; rank of the scores."""
        super().__init__(width, heads, **settings, rngs=rngs)
        self.plan = plan
        self.router = BlockRouter(self.query.out_features, self.key.out_features, rank=rank, rngs=rngs)

    def read(
        self, query: Float[Array, "B T N H"], memory: KeyValue, mask: Mask, probe: Array | None = None
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T S"] | None]:
        """What each head reads of the blocks that are chosen. Padding among the keys counts in no score."""
        (rows, length), keys = query.shape[:2], memory.key.shape[1]
        plan = self.plan.within(keys)
        there = jnp.ones((rows, length), jnp.int32) if mask.query_segment is None else mask.query_segment
        query_heads, key_heads = (heads.reshape(*heads.shape[:2], -1) for heads in (query, memory.key))
        scores = self.router(query_heads, there, key_heads, _key_segment(mask), plan)
        route = choose_blocks(scores, visible_blocks(mask, length, keys, plan), plan)
        if probe is None:
            return block_sparse_attention(query, *memory, mask, route, plan), None
        return attend(query, *memory, replace(mask, pairs=_pairs(route, plan, length, keys)), probe)


def _cut(array: Shaped[Array, "B S ..."], size: int) -> Shaped[Array, "B J size ..."]:
    """Blocks of that size; the last is filled up with zeros."""
    padded = jnp.pad(array, ((0, 0), (0, -array.shape[1] % size)) + ((0, 0),) * (array.ndim - 2))
    return padded.reshape(len(array), -1, size, *array.shape[2:])


def _block_means(values, segment, size):
    """The mean of each block's tokens that are not padding, in float32; zeros where there is none."""
    there = _cut(segment, size) > 0
    total = jnp.where(there[..., None], _cut(values, size).astype(jnp.float32), 0).sum(axis=2)
    return total / jnp.maximum(there.sum(axis=2), 1).astype(jnp.float32)[..., None]


def _rows(array, plan):
    """(B T …) → (B·I q …): each block of queries is a row of its own."""
    blocks = _cut(array, plan.query_block)
    return blocks.reshape(-1, *blocks.shape[2:])


def _joined(rows, like):
    """Rows of blocks, laid behind one another again, without what filled up the last."""
    return rows.reshape(len(like), -1, *rows.shape[2:])[:, : like.shape[1]]


def _gather(array, route, plan):
    """(B S …) → (B·I O·k …): what each block of queries keeps."""
    kept = jax.vmap(lambda blocks, index: blocks[index])(_cut(array, plan.key_block), route.block)
    return kept.reshape(-1, plan.keep * plan.key_block, *array.shape[2:])


def _gate(value, route, plan):
    gate = jnp.repeat(route.gate.reshape(-1, plan.keep), plan.key_block, axis=1)
    return value * gate[..., None, None].astype(value.dtype)


def _key_segment(mask):
    if mask.key_segment is None or mask.bias is not None or mask.pairs is not None:
        raise ValueError("block-sparse attention wants a mask that has key_segment, and no bias or pairs")
    return mask.key_segment


def _mask_of_rows(mask, batch, queries, keys, route, plan):
    """The same mask for blocks of queries as rows and for the keys that each keeps."""

    def of_queries(field):
        return None if field is None else _rows(field, plan)

    def of_keys(field):
        return None if field is None else _gather(field, route, plan)

    def index(field, length):
        return jnp.broadcast_to(jnp.arange(length)[None], (batch, length)) if field is None else field

    return mask.replace(
        query_segment=of_queries(mask.query_segment),
        key_segment=of_keys(_key_segment(mask)),
        query_index=of_queries(index(mask.query_index, queries)),
        key_index=of_keys(index(mask.key_index, keys)),
        key_anchor=of_keys(mask.key_anchor),
        query_modality=of_queries(mask.query_modality),
        key_modality=of_keys(mask.key_modality),
    )


def _pairs(route, plan, queries, keys):
    """Which queries read which keys (B T S), by their blocks."""
    chosen = jax.nn.one_hot(route.block, math.ceil(keys / plan.key_block), dtype=bool).any(axis=2)
    of_queries = jnp.repeat(chosen, plan.query_block, axis=1)
    return jnp.repeat(of_queries, plan.key_block, axis=2)[:, :queries, :keys]
