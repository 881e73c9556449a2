"""Which tokens are worth being read?

A score for each token, and the best of them in fewer places: shapes are static, so that what is left out is neither
computed nor stored from there on. What is kept stays in its order, with its position, segment, modality and anchor, as
if nothing were missing between.

The choice is learned straight through: a kept token is multiplied by 1 + (score − sg(score)), which is exactly 1 and
has the gradient of the score (sg: no gradient). A token that is left out gets no gradient, nor does its score.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from mmfuse.routing.gates import straight_through
from mmfuse.types import Tokens


def saliency_topk(tokens: Tokens, scores: Float[Array, "B S"], keep: int) -> Tokens:
    """The `keep` tokens with the highest scores, in their order; padding behind them where there are fewer.

    Of equal scores the first is kept. Padding is never kept, whatever its score.

    Raises:
      ValueError: `keep` is not between 1 and S.
    """
    return _take(tokens, scores, _best(tokens, scores, keep, text=False))


def prune_text(tokens: Tokens, importance: Float[Array, "B S"], keep: int) -> Tokens:
    """The same of a text, whose first and last token (BOS and EOS) stay, whatever their importance; so do those of each
    of several texts in a row, as far as there is room.

    Raises:
      ValueError: `keep` is not between 2 and S.
    """
    return _take(tokens, importance, _best(tokens, importance, keep, text=True))


class PatchSaliency(nnx.Module):
    """A learned linear score of each token, in float32."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        """Args: D of the tokens; draws the parameters."""
        self.score = nnx.Linear(width, 1, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Tokens) -> Float[Array, "B S"]:
        return self.score(tokens.values.astype(jnp.float32))[..., 0]


class TokenSelection(nnx.Module):
    """The tokens of a memory that are worth the most, by a learned score."""

    def __init__(self, width: int, keep: int, *, text: bool, rngs: nnx.Rngs):
        """Args: D of the tokens; how many are kept; whether they are those of texts; draws the parameters."""
        self.score, self.keep, self.text = PatchSaliency(width, rngs=rngs), keep, text

    def __call__(self, tokens: Tokens) -> Tokens:
        """`saliency_topk`, or `prune_text`: (B keep D)."""
        tokens, scores, place = self._choose(tokens)
        return _take(tokens, scores, place)

    def in_place(self, tokens: Tokens) -> Tokens:
        """The same tokens where they were, among padding: (B S D), for who looks into a model."""
        tokens, scores, place = self._choose(tokens)
        kept = jax.vmap(lambda row, there: row.at[there].set(True, mode="drop"))(jnp.zeros(scores.shape, bool), place)
        gate = straight_through(kept, jnp.where(kept, scores, 0))
        values = jnp.where(kept[..., None], tokens.values, 0) * gate[..., None].astype(tokens.values.dtype)
        return tokens._replace(values=values, segment=jnp.where(kept, tokens.segment, 0))

    def _choose(self, tokens):
        """The tokens with zeros in place of padding, whatever stood there; their scores; the places that are kept."""
        tokens = tokens._replace(values=jnp.where((tokens.segment > 0)[..., None], tokens.values, 0))
        scores = self.score(tokens)
        return tokens, scores, _best(tokens, scores, self.keep, text=self.text)


def class_attention(weights: Float[Array, "B N S S"]) -> Float[Array, "B S-1"]:
    """How much the class token looks at each of the patches behind it: its row of the attention, a mean over heads.

    Args:
      weights: of one self-attention over a class token and patches, as a probe gives them; of the last block in the
        article. The tokens that are chosen from are the patches, without the class token.

    Reference: Zhang et al. 2024 (FasterVLM), arXiv 2412.01818.
    """
    return weights[:, :, 0, 1:].astype(jnp.float32).mean(axis=1)


def _best(tokens: Tokens, scores: Float[Array, "B S"], keep: int, *, text: bool) -> Int[Array, "B {keep}"]:
    """The places of those that are kept whatever their score, then of the highest scores; S where there is none."""
    if text and keep < 2:
        raise ValueError(f"a text keeps its first and its last token: keep 2 or more of them, not {keep}")
    length = scores.shape[1]
    if not 1 <= keep <= length:
        raise ValueError(f"{keep} of {length} tokens cannot be kept: keep between 1 and {length}")
    valid = tokens.segment > 0
    ranked = jnp.where(valid, scores, -jnp.inf)
    if text:
        padded = jnp.pad(tokens.segment, ((0, 0), (1, 1)))
        changes = padded[:, 1:] != padded[:, :-1]
        ranked = jnp.where(valid & (changes[:, :-1] | changes[:, 1:]), jnp.inf, ranked)
    best = jax.lax.top_k(ranked, keep)[1]
    # In order, and where padding was taken for want of tokens, behind them.
    return jnp.sort(jnp.where(jnp.take_along_axis(valid, best, axis=1), best, length), axis=1)


def _take(tokens, scores, place):
    length = scores.shape[1]
    filled, place = place < length, jnp.minimum(place, length - 1)
    gate = straight_through(filled, jnp.where(filled, jnp.take_along_axis(scores, place, axis=1), 0))

    def take(array):
        apart = (...,) + (None,) * (array.ndim - 2)
        return jnp.where(filled[apart], jnp.take_along_axis(array, place[apart], axis=1), 0)

    kept = Tokens(*map(take, tokens))
    return kept._replace(values=kept.values * gate[..., None].astype(kept.values.dtype))
