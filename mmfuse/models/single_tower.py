"""How does one tower speak about what others saw?

A causal decoder reads text and, through fusion blocks in its stack, the tokens of any of the memories that are there.
Several texts may share one example's memory: text row r reads memory row r // (R / B).
References: Flamingo, arXiv 2204.14198; CoCa, arXiv 2205.01917.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from mmfuse.models.memory import Memory
from mmfuse.nn.cache import Cache
from mmfuse.nn.masks import Mask
from mmfuse.stack.block import Context
from mmfuse.stack.stack import Stack
from mmfuse.towers.text import places
from mmfuse.types import BOS, MODALITIES, Text, Tokens


class Decoded(NamedTuple):
    """Hidden states (read logits off them with `readout`), the cache as it is now, scalars, attention weights."""

    hidden: Float[Array, "R T D"]
    cache: Any  # Cache, or None without one
    aux: dict[str, Array]
    trace: dict[str, Any]


class SingleTower(nnx.Module):
    """A decoder over several memories; its readout is its embedding table, tied by calling."""

    def __init__(
        self,
        width: int,
        stack: Stack,
        memories: Mapping[str, int],
        *,
        vocabulary: int,
        position: nnx.Module | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds the embedding and a connector for each memory.

        Args:
          width: D of the decoder.
          stack: of self-attention and fusion blocks.
          memories: name in `Memory.tokens` → width; in this order they stand behind one another.
          vocabulary: V.
          position: maps (place) to a vector that is added; None where the stack's attention rotates.
          dtype: of the computation.
          rngs: draws the parameters.
        """
        self.embed = nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
        self.connectors = nnx.Dict(
            {name: nnx.Linear(source, width, dtype=dtype, rngs=rngs) for name, source in memories.items()}
        )
        self.memories = tuple(memories)  # kept apart, for a merge sorts the names of a module's parts
        self.position, self.stack = position, stack

    def read(self, ids: Int[Array, "R T"], segment: Int[Array, "R T"], cache: Cache | None = None) -> Tokens:
        """Text tokens, placed from the start of their segment, or behind what the cache holds."""
        position = places(segment)
        if cache is not None:
            position = position + cache.position[:, None]
        values = self.embed(ids)
        if self.position is not None:
            values = values + self.position(position).astype(values.dtype)
        return Tokens(
            values, segment, position, jnp.full_like(segment, MODALITIES.index("text")), jnp.zeros_like(segment)
        )

    def decode(self, tokens: Tokens, memory: Memory, cache: Cache | None = None, probe: dict | None = None) -> Decoded:
        """Runs the decoder over text tokens.

        Args:
          tokens: of R texts, R a multiple of the B examples of the memory.
          memory: what `encode` made.
          cache: from `empty_cache` or the call before; texts then have one segment, padded on the right.
          probe: see `Stack`.
        """
        rows, length = tokens.segment.shape
        start = jnp.zeros(rows, jnp.int32) if cache is None else cache.length
        index = start[:, None] + jnp.arange(length)[None]
        if cache is None:
            mask = Mask(query_segment=tokens.segment, key_segment=tokens.segment, causal=True)
        else:
            mask = Mask(query_index=index, causal=True)
        place = tokens.position[..., 0].astype(jnp.int32)  # anchors count from the start of a text, not of a packed row
        context = self._context(memory, place)._replace(mask=mask, position=tokens.position, length=start)
        out = self.stack(tokens.values, context, cache=cache and cache.layers, probe=probe)
        if cache is not None:
            read = (tokens.segment > 0).sum(axis=1)
            position = cache.position + read[:, None].astype(jnp.float32)
            cache = Cache(out.cache, cache.length + read, position)
        return Decoded(out.values, cache, out.aux, out.trace)

    def first_words(self, text: Text, memory: Memory, number: int) -> tuple[Float[Array, "R Q V"], Bool[Array, "R Q"]]:
        """Log-probabilities of the word that begins each answer, and where there is an answer.

        Args:
          text: of R examples, as many as the memory has; an answer is behind each BOS.
          memory: what `encode` made.
          number: Q; of the texts of an example the first Q count.
        """
        examples, length = len(text.ids), text.ids.shape[-1]
        ids, segment = text.ids.reshape(-1, length), text.segment.reshape(-1, length)
        hidden = self.decode(self.read(ids, segment), memory).hidden.reshape(examples, -1, self.embed.features)
        begins = ((ids == BOS) & (segment > 0)).reshape(examples, -1)
        begins, place = jax.lax.top_k(begins.astype(jnp.int32), min(number, begins.shape[1]))
        hidden = jnp.take_along_axis(hidden, place[..., None], axis=1)
        return jax.nn.log_softmax(self.readout(hidden)), begins > 0

    def readout(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Logits of the next token, in float32: those from 8 to 16 would be multiples of 1/16 in bfloat16."""
        table = self.embed.embedding[...].astype(self.embed.dtype)
        return jnp.einsum("...D,VD->...V", hidden.astype(table.dtype), table, preferred_element_type=jnp.float32)

    def empty_cache(self, memory: Memory, *, rows: int, length: int) -> Cache:
        """Room for `length` tokens in each of R rows; the memory's keys and values are computed here, once."""
        start = jnp.zeros(rows, jnp.int32)
        context = self._context(memory, start[:, None])
        layers = self.stack.empty_cache(context, rows, length)
        return Cache(layers, start, jnp.zeros((rows, 1), jnp.float32))

    def _context(self, memory, index):
        """What the fusion blocks read: all memories that are there, connected and laid behind one another."""
        there = [name for name in self.memories if name in memory.tokens]
        if not there:
            raise ValueError(f"the decoder reads {', '.join(self.memories)}; the batch has none of them")
        values = [self.connectors[name](memory.tokens[name].values) for name in there]
        segment, anchor = (
            jnp.concatenate([getattr(memory.tokens[name], field) for name in there], axis=1)
            for field in ("segment", "anchor")
        )
        mask = Mask(key_segment=segment, key_anchor=anchor, query_index=index.reshape(len(segment), -1))
        return Context(Mask(), index[..., None].astype(jnp.float32), jnp.concatenate(values, axis=1), mask)
