"""Which one vector stands for a sequence?

A pool maps tokens to (B D). A row without any valid token gives exactly zero.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from mmfuse.nn.attention import Attention
from mmfuse.nn.masks import Mask
from mmfuse.types import Tokens


@runtime_checkable
class Pool(Protocol):
    """The form that every pool has; `ids` are the token ids of a text, where the tokens are a text's."""

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]: ...


class FirstPool(nnx.Module):
    """The first token: the class token of a tower that has one."""

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        return _take(tokens, jnp.zeros(tokens.segment.shape[0], jnp.int32))


class LastPool(nnx.Module):
    """The last token that is not padding."""

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        places = jnp.arange(tokens.segment.shape[1])[None]
        return _take(tokens, jnp.where(tokens.segment > 0, places, 0).max(axis=1))


class EosPool(nnx.Module):
    """The first token whose id is `eos`; the last token of a text that was cut before its end."""

    def __init__(self, eos: int):
        self.eos = eos

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        if ids is None:
            raise ValueError("the pool 'eos' looks for a token id, and these tokens have none: take another pool")
        found = (ids == self.eos) & (tokens.segment > 0)
        first = _take(tokens, found.argmax(axis=1))
        return jnp.where(found.any(axis=1)[:, None], first, LastPool()(tokens))


class EndPool(nnx.Module):
    """The end of a text, as the released CLIP looks for it, in the padding too: the first token whose id is `eos`, or
    the first of those with the highest id where `eos` is None; the first token of a text without an end."""

    def __init__(self, eos: int | None):
        self.eos = eos

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        if ids is None:
            raise ValueError("the pool 'end' looks for a token id, and these tokens have none: take another pool")
        marks = ids if self.eos is None else (ids == self.eos).astype(jnp.int32)
        return _take(tokens, marks.argmax(axis=1))


class FinalPool(nnx.Module):
    """The token in the last place, padding or not: of SigLIP's texts, which all have one length."""

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        return _take(tokens, jnp.full(tokens.segment.shape[0], tokens.segment.shape[1] - 1))


class MeanPool(nnx.Module):
    """The mean of the tokens that are not padding, in float32."""

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        valid = (tokens.segment > 0)[..., None]
        total = jnp.where(valid, tokens.values, 0).sum(axis=1, dtype=jnp.float32)
        return (total / jnp.maximum(valid.sum(axis=1), 1).astype(jnp.float32)).astype(tokens.values.dtype)


class MaxPool(nnx.Module):
    """The highest value of each channel over the tokens that are not padding.

    What is small in a picture is a small share of its mean, which learns it late; a maximum finds it wherever it is.
    """

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        valid = (tokens.segment > 0)[..., None]
        highest = jnp.where(valid, tokens.values, -jnp.inf).max(axis=1)
        return jnp.where(valid.any(axis=1), highest, 0)


class FlatPool(nnx.Module):
    """Σ_s W_s t_s: every position has its own matrix, so that where something is makes a difference.

    A mean forgets it. It suits pictures that are framed alike, as icons are: there, it is most of what to go by.
    """

    def __init__(self, positions: int, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        """Args: S, how many tokens there are, padding included; D; dtype of the product; draws the parameters."""
        self.positions = positions
        self.project = nnx.Linear(positions * width, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        if tokens.segment.shape[1] != self.positions:
            raise ValueError(f"the pool 'flat' was made for {self.positions} tokens, not {tokens.segment.shape[1]}")
        values = jnp.where((tokens.segment > 0)[..., None], tokens.values, 0)
        return self.project(values.reshape(len(values), -1))


class AttentionPool(nnx.Module):
    """One learned query reads the tokens, then a residual MLP: h = Attention(q, tokens); h + Mlp(norm(h)).

    Reference: the MAP head of big_vision, Zhai et al. 2022, arXiv 2106.04560.
    """

    def __init__(self, width: int, attention: Attention, mlp: nnx.Module, norm: nnx.Module, *, rngs: nnx.Rngs):
        self.query = nnx.Param(jax.nn.initializers.xavier_uniform()(rngs.params(), (1, width)))
        self.attention, self.mlp, self.norm = attention, mlp, norm

    def __call__(self, tokens: Tokens, ids: Int[Array, "B S"] | None = None) -> Float[Array, "B D"]:
        query = jnp.broadcast_to(
            self.query[...][None].astype(tokens.values.dtype), (len(tokens.values), 1, self.query.shape[1])
        )
        memory = self.attention.keys_values(tokens.values)
        read, _ = self.attention(query, memory, Mask(key_segment=tokens.segment))
        pooled = (read + self.mlp(self.norm(read))[0])[:, 0]
        return jnp.where((tokens.segment > 0).any(axis=1)[:, None], pooled, 0)


def _take(tokens, place):
    taken = jnp.take_along_axis(tokens.values, place[:, None, None], axis=1)[:, 0]
    return jnp.where((tokens.segment > 0).any(axis=1)[:, None], taken, 0)
