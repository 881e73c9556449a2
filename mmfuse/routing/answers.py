"""Do modalities answer alike?

The decoder reads each modality alone, and nothing at all, and is asked what the batch asks. Of each question the first
word of the answer is looked at: a, b and n are its probabilities by two modalities and by nothing.

    question   r = Σ_v a(v) b(v) / n(v)
    pair       ℓ = log ½ (mean 1/r + Π 1/r)     over the questions that are asked

r is how much likelier two signals are if they have one answer than if each has its own: by Bayes' rule a(v) ∝ n(v)
times the likelihood of the signal. What knows nothing answers as nothing does: r = 1 says nothing. A mismatch has an
answer of its own to one of the questions, each as likely, or to all of them. ℓ is a logit, of which nothing is learned:
it is as good as the answers are that modalities give alone (`objectives/generation.py`, `alone`).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from mmfuse.routing.consensus import Agreement, shut_the_odd
from mmfuse.types import Tokens


class AnswerConsensus(nnx.Module):
    """Asks each modality alone, and shuts the one that answers otherwise than the others."""

    def __init__(self, between: Sequence[str], *, threshold: float, questions: int, slip: float):
        """Args: the modalities; the probability of being odd above which a gate is shut, ½ to 1; the most questions of
        a row that are looked at; how often an answer is a slip, that is, as nothing would have it."""
        self.between, self.threshold, self.questions, self.slip = tuple(between), threshold, questions, slip

    def __call__(
        self,
        memory: Mapping[str, Tokens],
        answers: Mapping[str, Float[Array, "B Q V"]],
        nothing: Float[Array, "B Q V"],
        asked: Bool[Array, "B Q"],
    ) -> Agreement:
        """The agreement of the modalities that have answered; log-probabilities of the first words of answers."""
        tokens, mismatch = {name: memory[name] for name in answers}, {}
        for a, b in combinations(answers, 2):
            both = (memory[a].segment > 0).any(axis=1) & (memory[b].segment > 0).any(axis=1)
            logit = answer_mismatch(answers[a], answers[b], nothing, asked, slip=self.slip)
            mismatch[a, b] = jnp.where(both, jax.lax.stop_gradient(logit), 0.0)
        return Agreement(tokens, mismatch, shut_the_odd(tokens, mismatch, self.threshold))


def answer_mismatch(
    a: Float[Array, "B Q V"],
    b: Float[Array, "B Q V"],
    nothing: Float[Array, "B Q V"],
    asked: Bool[Array, "B Q"],
    *,
    slip: float,
) -> Float[Array, "B"]:
    """The logit that two modalities do not match, of log-probabilities of their answers; 0 where nothing is asked.

    A question counts at most log 1/slip, whatever the answers are.
    """
    prior = (1 - slip) * jnp.exp(nothing) + slip / nothing.shape[-1]
    a, b = ((1 - slip) * jnp.exp(side) + slip * prior for side in (a, b))
    ratio = jnp.where(asked, jnp.log((a * b / prior).sum(axis=-1)), 0.0)
    number = jnp.maximum(asked.sum(axis=-1), 1).astype(jnp.float32)
    one = jax.nn.logsumexp(jnp.where(asked, -ratio, -jnp.inf), axis=-1) - jnp.log(number)
    logit = jnp.logaddexp(one, -ratio.sum(axis=-1)) - jnp.log(2.0)
    return jnp.where(asked.any(axis=-1), logit, 0.0)
