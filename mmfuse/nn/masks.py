"""Which keys may each query look at?

A mask is a specification: causal, segments, anchors, a window, a modality matrix, single pairs, a dense bias. Only a
backend that needs an array asks for one (`allowed`); a backend that can skip blocks reads the specification itself.

        key 0 1 2 3                     key  a a b b ·
    q 0     ■ · · ·                  q a     ■ ■ · · ·
    q 1     ■ ■ · ·   causal         q a     ■ ■ · · ·   segments a, b and padding
    q 2     ■ ■ ■ ·                  q b     · · ■ ■ ·
    q 3     ■ ■ ■ ■                  q ·     · · · · ·

True means *may look*. Conditions are joined by *and*; what is None does not restrict.
"""

import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int


@struct.dataclass
class Mask:
    """A specification of T queries against S keys.

    Attributes:
      query_segment, key_segment: a query sees keys of its own segment; segment 0 is padding and is never seen. Without
        `query_segment` every query sees all keys that are not padding.
      query_index, key_index: places in the sequence, for `causal`, `window` and anchors; 0, 1, 2, … where not given.
      key_anchor: a key is seen by queries whose index is at least its anchor.
      query_modality, key_modality, modalities: `modalities[q, k]` says whether modality q may look at modality k.
      pairs: says of each query and key whether they may.
      bias: is added to the scaled scores, float32.
      causal: a query sees keys up to its own index.
      window: a query sees keys less than `window` places away.
    """

    query_segment: Int[Array, "B T"] | None = None
    key_segment: Int[Array, "B S"] | None = None
    query_index: Int[Array, "B T"] | None = None
    key_index: Int[Array, "B S"] | None = None
    key_anchor: Int[Array, "B S"] | None = None
    query_modality: Int[Array, "B T"] | None = None
    key_modality: Int[Array, "B S"] | None = None
    modalities: Bool[Array, "M M"] | None = None
    pairs: Bool[Array, "#B T S"] | None = None
    bias: Float[Array, "#B #N T S"] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)
    window: int | None = struct.field(pytree_node=False, default=None)


def allowed(mask: Mask, *, queries: int, keys: int) -> Bool[Array, "#B #T S"] | None:
    """The dense form of a mask, without its bias; None where every query may look at every key.

    An axis that no condition depends on has the length 1.
    """
    query_index = jnp.arange(queries)[None] if mask.query_index is None else mask.query_index
    key_index = jnp.arange(keys)[None] if mask.key_index is None else mask.key_index
    distance = query_index[:, :, None] - key_index[:, None, :]
    conditions = []
    if mask.causal:
        conditions.append(distance >= 0)
    if mask.window is not None:
        conditions.append(jnp.abs(distance) < mask.window)
    if mask.key_anchor is not None:
        conditions.append(query_index[:, :, None] >= mask.key_anchor[:, None, :])
    if mask.key_segment is not None:
        conditions.append((mask.key_segment > 0)[:, None, :])
        if mask.query_segment is not None:
            conditions.append(mask.query_segment[:, :, None] == mask.key_segment[:, None, :])
    if mask.modalities is not None:
        assert mask.query_modality is not None and mask.key_modality is not None, "whose modalities?"
        conditions.append(mask.modalities[mask.query_modality[:, :, None], mask.key_modality[:, None, :]])
    if mask.pairs is not None:
        conditions.append(mask.pairs)
    if not conditions:
        return None
    dense = conditions[0]
    for condition in conditions[1:]:
        dense = dense & condition
    return dense
