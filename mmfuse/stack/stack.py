"""How do blocks become depth?

A stack is a list of segments. A segment scans a repeating unit, a few blocks in order (for example three
self-attention blocks and one gated cross-attention block): the program holds one unit, whatever the depth, and the
parameters of all repeats lie behind one another on a leading axis L.

    values ─ [ a b c ] × 4 ─ [ a d ] × 2 ─ norm ─
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from mmfuse.stack.block import Block, Context


class StackOutput(NamedTuple):
    """The values, the sum of the blocks' auxiliary scalars, caches and traces by segment and block name."""

    values: Float[Array, "B T D"]
    aux: dict[str, Array]
    cache: Any
    trace: dict[str, dict[str, Array]]


class Segment(nnx.Module):
    """A unit of named blocks, repeated."""

    def __init__(
        self,
        unit: Callable[[nnx.Rngs], Mapping[str, Block]],
        repeats: int,
        *,
        remat: bool = False,
        unroll: bool = False,
        rngs: nnx.Rngs,
    ):
        """Draws the parameters of all repeats.

        Args:
          unit: makes the blocks of one repeat, in the order in which values flow through them.
          repeats: L.
          remat: computes activations again in the backward pass rather than keep them; values only are kept.
          unroll: writes the repeats out in the program, so that a compiler's own count of FLOPs is right.
          rngs: draws the parameters.
        """

        order = []

        @nnx.split_rngs(splits=repeats)
        @nnx.vmap(in_axes=0, out_axes=0)
        def repeat(rngs):
            blocks = unit(rngs)
            order[:] = blocks
            return nnx.Dict(blocks)

        self.unit = repeat(rngs)
        self.order = tuple(order)  # kept apart, for a merge sorts the names of a module's parts
        self.repeats, self.remat, self.unroll = repeats, remat, unroll

    def __call__(self, values, context, cache=None, probe=None):
        """Returns values, summed aux, the new cache, and traces, the last two with a leading axis L."""
        graph, layers = nnx.split(self.unit)
        cache = cache or {}
        probe = jax.tree.map(lambda ε: jnp.broadcast_to(ε, (self.repeats, *jnp.shape(ε)[1:])), dict(probe or {}))

        def layer(values, xs):
            layer_state, layer_cache, layer_probe = xs
            aux, new_cache, trace = {}, {}, {}
            blocks = nnx.merge(graph, layer_state)
            for name in self.order:
                out = blocks[name](values, context, layer_cache.get(name), layer_probe.get(name))
                values = out.values
                aux |= {f"{name}/{key}": scalar for key, scalar in out.aux.items()}
                if out.cache is not None:
                    new_cache[name] = out.cache
                if out.trace is not None:
                    trace[name] = out.trace
            return values, (aux, new_cache, trace)

        # in a loop, a compiler cannot take what the forward pass has made for what is computed again; one of a single
        # turn it writes out
        written_out = self.unroll or self.repeats == 1
        body = jax.checkpoint(layer, prevent_cse=written_out) if self.remat else layer
        values, (aux, cache, trace) = jax.lax.scan(body, values, (layers, cache, probe), unroll=self.unroll)
        return values, jax.tree.map(lambda scalars: scalars.sum(axis=0), aux), cache, trace

    def empty_cache(self, context, rows, length):
        graph, layers = nnx.split(self.unit)

        def layer(state):
            blocks = nnx.merge(graph, state).items()
            return {name: block.empty_cache(context, rows, length) for name, block in blocks}

        return jax.vmap(layer)(layers)


class Stack(nnx.Module):
    """Segments in order, and a last norm."""

    def __init__(self, segments: Sequence[Segment], norm: nnx.Module):
        self.segments, self.norm = nnx.List(segments), norm

    def __call__(
        self,
        values: Float[Array, "B T D"],
        context: Context,
        *,
        cache: Any = None,
        probe: Mapping[str, Mapping[str, Array]] | None = None,
    ) -> StackOutput:
        """Runs the stack.

        Args:
          values: the tokens' values.
          context: what blocks may look at.
          cache: from `empty_cache`, or from the call before.
          probe: segment (its index as a string) → block name → ε with a leading axis L or 1; see `attend`.
        """
        aux, caches, traces = {}, [], {}
        for index, segment in enumerate(self.segments):
            values, scalars, new_cache, trace = segment(
                values, context, cache and cache[index], (probe or {}).get(str(index))
            )
            aux |= {f"{index}/{key}": scalar for key, scalar in scalars.items()}
            caches.append(new_cache)
            if trace:
                traces[str(index)] = trace
        return StackOutput(self.norm(values), aux, caches if cache else None, traces)

    def empty_cache(self, context: Context, rows: int, length: int) -> list[dict[str, Any]]:
        """Room for `length` tokens in each of `rows` rows; cross-attention's keys and values are computed here."""
        return [segment.empty_cache(context, rows, length) for segment in self.segments]
