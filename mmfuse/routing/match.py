"""How well do two modalities of an example match?

The tokens of both are compared, each with each, and what stands out of their cosines is summed up in a few numbers, the
evidence. The highest value of each channel is compared, too. A thin head reads a mismatch off both; what is done about
it is the business of a gate. The tokens of both sides have one width, and are compared as they are: whoever wants them
in a shared space projects them first.

Everything is float32, padding counts nowhere and gets a gradient of exactly zero, and what is degenerate (no token, one
token, scores that are all the same) has a value that is said and a gradient that is finite.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from mmfuse.routing.gates import straight_through
from mmfuse.types import Tokens

# What `match_evidence` gives, in this order. Rows are tokens of the first modality, columns of the second.
EVIDENCE = (
    "mean",  # of all cosines
    "highest",
    "best_rows",  # the mean over rows of their highest cosine
    "best_columns",
    "worst_rows",  # the lowest of those: the token that finds no counterpart
    "worst_columns",
    "entropy_rows",  # the mean over rows of the normalised entropy of softmax(cosine / temperature)
    "entropy_columns",
    "kurtosis_rows",  # the mean over rows of arsinh(excess kurtosis): it may be as high as there are tokens
    "kurtosis_columns",
    "effective_rank",  # as a share of the smaller number of tokens
    "top_share",
)

DOUBLINGS = 6  # of the power by which the largest singular value is found
# A row whose deviation is this small a share of its root mean square, squared, is constant but for rounding.
CONSTANT = 1e-8


def normalised_entropy(weights: Float[Array, "*B S"], mask: Bool[Array, "*B S"]) -> Float[Array, "*B"]:
    """H(p) / ln n of weights p ∝ w ≥ 0 over the n keys of the mask: 1 where all weigh the same, 0 where one is all.

    It is 0, for nothing is open, where there is a single key, no key, or no weight at all.
    """
    weights = jnp.where(mask, weights.astype(jnp.float32), 0)
    share = weights / _unless_zero(weights.sum(axis=-1, keepdims=True))
    number = jnp.maximum(mask.sum(axis=-1), 2).astype(jnp.float32)
    return _entropy(share) / jnp.log(number)


def excess_kurtosis(scores: Float[Array, "*B S"], mask: Bool[Array, "*B S"]) -> Float[Array, "*B"]:
    """m₄ / m₂² − 3 of the scores in the mask, m_k = mean (s − mean s)ᵏ: 0 for a normal distribution, high where a few
    stand far out, and 0 where all are the same."""
    number = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1).astype(jnp.float32)

    def mean(values):
        return jnp.where(mask, values, 0).sum(axis=-1, keepdims=True) / number

    scores = jnp.where(mask, scores.astype(jnp.float32), 0)
    centred = scores - mean(scores)
    variance = mean(jnp.square(centred))
    varied = variance > CONSTANT * mean(jnp.square(scores))
    standard = jnp.where(varied, centred, 0) * jax.lax.rsqrt(jnp.where(varied, variance, 1))
    return jnp.where(varied, mean(standard**4) - 3, 0)[..., 0]


def cosine_matrix(a: Tokens, b: Tokens) -> Float[Array, "B S_a S_b"]:
    """The cosine of each token of a with each of b, in [−1, 1]; 0 where either is padding or the zero vector.

    Raises:
      ValueError: their widths differ.
    """
    if a.values.shape[-1] != b.values.shape[-1]:
        raise ValueError(
            f"tokens of widths {a.values.shape[-1]} and {b.values.shape[-1]} have no cosine: project them to one width"
        )
    return jnp.einsum("BSD,BPD->BSP", _unit(a), _unit(b), precision=jax.lax.Precision.HIGHEST)


def spectrum(cosine: Float[Array, "B S_a S_b"]) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """Effective rank 1 / Σp² and top share p₁, p = σ² / Σσ² of the singular values σ; both 0 of a matrix of zeros.

    One direction that all tokens share gives 1 and 1; n tokens, each with a counterpart of its own, give n and 1/n. The
    rank is the exponential of Rényi's entropy of order 2 (of Shannon's in Roy & Vetterli 2007, "The effective rank").
    No singular value is computed, which would be most of the work, and on CPU can hang a program that computes several
    at once: Σσ² and Σσ⁴ are the trace and the squared norm of the smaller Gram matrix, and p₁ is its Rayleigh quotient
    at the largest column of its 64th power.
    """
    matrix = cosine.astype(jnp.float32)
    matrix = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.swapaxes(1, 2)
    gram = _product(matrix, matrix.swapaxes(1, 2))
    total = jnp.trace(gram, axis1=1, axis2=2)
    gram = gram / _unless_zero(total)[:, None, None]
    power = jax.lax.stop_gradient(gram)
    for _ in range(DOUBLINGS):
        power = _product(power, power)
        power = power / _unless_zero(jnp.abs(power).max(axis=(1, 2), keepdims=True))
    square = jnp.square(power).sum(axis=1)
    top = jnp.take_along_axis(power, square.argmax(axis=1)[:, None, None], axis=2)[..., 0]
    top = top * jax.lax.rsqrt(_unless_zero(square.max(axis=1)))[:, None]
    quotient = jnp.einsum("BS,BSP,BP->B", top, gram, top, precision=jax.lax.Precision.HIGHEST)
    norm = jnp.square(gram).sum(axis=(1, 2))
    return jnp.where(norm > 0, 1 / _unless_zero(norm), 0), quotient


def match_evidence(a: Tokens, b: Tokens, *, temperature: float = 0.1) -> Float[Array, "B F"]:
    """The numbers that `EVIDENCE` names, all 0 where a side has no token.

    Args:
      a, b: what is compared; b and a in the other order give the same numbers, with rows and columns exchanged.
      temperature: by which cosines are divided before their softmax; lower, and fewer of them count in the entropy.
    """
    cosine, rows, columns = cosine_matrix(a, b), a.segment > 0, b.segment > 0
    pairs = rows[:, :, None] & columns[:, None, :]
    of_rows = _side(cosine, pairs, rows, temperature)
    of_columns = _side(cosine.swapaxes(1, 2), pairs.swapaxes(1, 2), columns, temperature)
    rank, top = spectrum(cosine)
    smaller = jnp.maximum(jnp.minimum(rows.sum(axis=1), columns.sum(axis=1)), 1).astype(jnp.float32)
    highest = jnp.where(pairs, cosine, -1).max(axis=(1, 2))
    sides = [number for both in zip(of_rows, of_columns) for number in both]
    mean = _mean(cosine.reshape(len(cosine), -1), pairs.reshape(len(cosine), -1))
    evidence = jnp.stack([mean, highest, *sides, rank / smaller, top], axis=1)
    return jnp.where(pairs.any(axis=(1, 2))[:, None], evidence, 0)


def compare_highest(a: Tokens, b: Tokens) -> Float[Array, "B _"]:
    """|u − v| and u · v (B 2·D) of the highest value of each channel on either side; 0 where a side has no token.

    Channels can stand for one attribute each, which a mean over all tokens hides. Reference: Conneau et al. 2017
    (InferSent), arXiv 1705.02364, section 3.1.
    """
    u, v = (jnp.where(side.segment[..., None] > 0, side.values.astype(jnp.float32), -jnp.inf) for side in (a, b))
    both = ((a.segment > 0).any(axis=1) & (b.segment > 0).any(axis=1))[:, None]
    u, v = (jnp.where(both, side.max(axis=1), 0) for side in (u, v))
    return jnp.concatenate([jnp.abs(u - v), u * v], axis=1)


class MatchHead(nnx.Module):
    """Logit that a pair is a mismatch: w · gelu(W [evidence, comparison]), of one pair of modalities."""

    def __init__(self, width: int, *, hidden: int = 16, rngs: nnx.Rngs):
        """Args: of the tokens; width of the hidden layer; draws the parameters."""
        self.up = nnx.Linear(len(EVIDENCE) + 2 * width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, a: Tokens, b: Tokens) -> Float[Array, "B"]:
        read = jnp.concatenate([match_evidence(a, b), compare_highest(a, b)], axis=1)
        return self.down(jax.nn.gelu(self.up(read)))[:, 0]


def suppress(mismatch: Float[Array, "*B"], threshold: float) -> Float[Array, "*B"]:
    """A factor for the gate of a pair: exactly 0 where p(mismatch) > threshold, else 1, with the gradient of 1 − p."""
    return straight_through(mismatch <= threshold, 1 - mismatch)


def _side(cosine, pairs, there, temperature):
    """Best, worst, entropy and kurtosis of the rows of a matrix."""
    best = jnp.where(pairs, cosine, -1).max(axis=2)
    worst = jnp.where(there, best, 1).min(axis=1)
    entropy = normalised_entropy(jnp.exp((cosine - 1) / temperature), pairs)  # a cosine is at most 1
    kurtosis = jnp.arcsinh(excess_kurtosis(cosine, pairs))
    return _mean(best, there), worst, _mean(entropy, there), _mean(kurtosis, there)


def _mean(values, mask):
    number = jnp.maximum(mask.sum(axis=-1), 1).astype(jnp.float32)
    return jnp.where(mask, values, 0).sum(axis=-1) / number


def _unit(tokens):
    """Vectors of length 1; zeros in place of padding, whatever stood there, and of the zero vector."""
    values = jnp.where((tokens.segment > 0)[..., None], tokens.values.astype(jnp.float32), 0)
    square = jnp.square(values).sum(axis=-1, keepdims=True)
    return values * jax.lax.rsqrt(jnp.where(square > 0, jnp.maximum(square, 1e-12), 1))


def _product(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _entropy(share):
    """−Σ p ln p, where 0 ln 0 is 0 and has no gradient."""
    return -(share * jnp.log(_unless_zero(share))).sum(axis=-1)


def _unless_zero(values):
    """1 in place of 0, so that neither a quotient nor its gradient is infinite."""
    return jnp.where(values > 0, values, 1)
