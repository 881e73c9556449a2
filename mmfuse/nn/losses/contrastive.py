"""How well do two sets of embeddings tell who belongs to whom?

Both losses take the cosines of rows a and columns b, for the other way transposed; `positive[a, b]` says who belongs
together. Holes are masked as rows and as columns. They return a value for each row; the caller averages over valid
rows. The full matrix is in memory.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float


def cosines(rows: Float[Array, "A E"], columns: Float[Array, "B E"]) -> Float[Array, "A B"]:
    """Of unit embeddings; products are float32 on every backend."""
    return jnp.einsum(
        "AE,BE->AB", rows, columns, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def info_nce(
    cosine: Float[Array, "A B"],
    positive: Bool[Array, "A B"],
    column_valid: Bool[Array, "B"],
    *,
    scale: Float[Array, ""],
) -> Float[Array, "A"]:
    """Softmax loss from each row to the columns, averaged over the row's positives P.

        value_a = −1/|P_a| Σ_{p ∈ P_a} log( exp(s_ap) / Σ_{b valid} exp(s_ab) ),     s = scale · cosine

    A row without a valid positive has the value 0. For the symmetric loss of CLIP call it both ways and halve.
    References: van den Oord et al. 2018, arXiv 1807.03748; several positives: Khosla et al. 2020, arXiv 2004.11362,
    equation 2.
    """
    scores = jnp.where(column_valid[None], scale * cosine, -jnp.inf)
    positive = positive & column_valid[None]
    log_total = jax.nn.logsumexp(jnp.where(column_valid.any(), scores, 0.0), axis=1, keepdims=True)
    losses = jnp.where(positive, log_total - jnp.where(positive, scores, 0.0), 0.0)
    return losses.sum(axis=1) / jnp.maximum(positive.sum(axis=1), 1).astype(jnp.float32)


def pairwise_sigmoid(
    cosine: Float[Array, "A B"],
    positive: Bool[Array, "A B"],
    column_valid: Bool[Array, "B"],
    *,
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, "A"]:
    """Sigmoid loss of each row over all valid columns.

        value_a = −Σ_{b valid} log σ( y_ab (scale · cosine_ab + bias) ),     y = 1 for positives, −1 otherwise

    Reference: Zhai et al. 2023, arXiv 2303.15343, algorithm 1.
    """
    scores = scale * cosine + bias
    losses = -jax.nn.log_sigmoid(jnp.where(positive, scores, -scores))
    return jnp.where(column_valid[None], losses, 0.0).sum(axis=1)
