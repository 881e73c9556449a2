"""How does a language model come to see?

Between its own blocks stand blocks that read a memory of other modalities through gates that start shut, so that at
step 0 the tower is exactly the one without them:

    x += tanh(α) · Attention(norm(x), memory);     x += tanh(β) · Mlp(norm(x));     α = β = 0 at first

Reference: Alayrac et al. 2022 (Flamingo), arXiv 2204.14198, section 2.2.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from mmfuse.nn.attention import Attention
from mmfuse.nn.cache import KeyValue
from mmfuse.stack.block import BlockOutput, Context


class GatedCrossBlock(nnx.Module):
    """Reads the context's memory through tanh gates.

    Several rows of values may share one row of memory (several questions about one image): row r reads memory row
    r // (R / A), and the memory's keys and values are computed once. A trace has the shape (A N (R/A · T) S).
    """

    def __init__(self, attention: Attention, mlp: nnx.Module, attention_norm: nnx.Module, mlp_norm: nnx.Module):
        self.attention, self.mlp = attention, mlp
        self.attention_norm, self.mlp_norm = attention_norm, mlp_norm
        self.attention_gate, self.mlp_gate = nnx.Param(jnp.zeros(())), nnx.Param(jnp.zeros(()))

    def __call__(
        self,
        values: Float[Array, "R T D"],
        context: Context,
        cache: KeyValue | None = None,
        probe: Array | None = None,
    ) -> BlockOutput:
        assert context.memory_mask is not None, "a fusion block reads a memory: the context has none"
        memory = self.empty_cache(context, *values.shape[:2]) if cache is None else cache
        queries = self.attention_norm(values).reshape(memory.key.shape[0], -1, values.shape[-1])
        read, trace = self.attention(queries, memory, context.memory_mask, probe=probe)
        values = values + self._open(self.attention_gate, read.reshape(values.shape))
        thought, aux = self.mlp(self.mlp_norm(values))
        return BlockOutput(values + self._open(self.mlp_gate, thought), aux, cache, trace)

    def empty_cache(self, context: Context, rows: int, length: int) -> KeyValue:
        """The memory's keys and values: they do not grow with the text."""
        assert context.memory is not None, "a fusion block reads a memory: the context has none"
        return self.attention.keys_values(context.memory)

    @staticmethod
    def _open(gate, values):
        return jnp.tanh(gate[...]).astype(values.dtype) * values
