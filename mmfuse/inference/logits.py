"""Which tokens may come next, and how likely?

A rule changes the logits of the next token, given what has been written; rules are applied in their order:

    logits ─ repetition_penalty(1.2) ─ temperature(0.7) ─ top_p(0.9) → what is drawn from

A token that is ruled out gets −∞, as PAD has before any rule; where all are, the text ends. Rules see what was written
and not the prompt, whose words an answer may repeat. They choose nothing: `generate.py` takes or draws a token,
`beams.py` searches.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from mmfuse.types import EOS, PAD


class Written(NamedTuple):
    """What R texts say so far: `length` tokens each, then PAD; a text that has ended has PAD sooner."""

    ids: Int[Array, "R t"]
    length: Int[Array, ""]


Rule = Callable[[Float[Array, "R V"], Written], Float[Array, "R V"]]


def apply_rules(rules: Sequence[Rule], logits: Float[Array, "R V"], written: Written) -> Float[Array, "R V"]:
    """Returns the logits after all rules, in their order."""
    for rule in rules:
        logits = rule(logits, written)
    return logits


def temperature(value: float) -> Rule:
    """logits / value: below 1 the likely tokens become likelier. Ackley, Hinton & Sejnowski 1985."""
    return lambda logits, written: logits / value


def top_k(number: int) -> Rule:
    """Keeps the `number` likeliest tokens, and those as likely as the last. Fan et al. 2018, arXiv 1805.04833."""

    def rule(logits, written):
        kept = jax.lax.top_k(logits, min(number, logits.shape[-1]))[0]
        return jnp.where(logits >= kept[:, -1:], logits, -jnp.inf)

    return rule


def top_p(share: float) -> Rule:
    """Keeps the nucleus: the fewest tokens that have `share` of the probability, and those as likely as the last.

    Holtzman et al. 2020, arXiv 1904.09751.
    """

    def rule(logits, written):
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probability = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability  # 0 for the first, which always stays
        last = jnp.where(before < share, ordered, jnp.inf).min(axis=-1, keepdims=True)
        return jnp.where(logits >= last, logits, -jnp.inf)

    return rule


def repetition_penalty(penalty: float) -> Rule:
    """Divides positive logits of tokens that were written by `penalty`, and multiplies negative ones with it.

    Keskar et al. 2019 (CTRL), arXiv 1909.05858, section 4.1; dividing all, as there, would make negative ones likelier.
    """

    def rule(logits, written):
        seen = _marked(logits, written.ids, written.ids != PAD)
        return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)

    return rule


def no_repeat_ngram(size: int) -> Rule:
    """Writes no sequence of `size` tokens twice. Paulus, Xiong & Socher 2017, arXiv 1705.04304, section 2.5."""

    def rule(logits, written):
        starts = written.ids.shape[1] - size + 1
        if starts < 1:
            return logits
        ngrams = jnp.stack([written.ids[:, place : place + starts] for place in range(size)], axis=-1)
        last = jax.lax.dynamic_slice_in_dim(written.ids, written.length - (size - 1), size - 1, axis=1)
        whole = jnp.arange(starts) + size <= written.length
        begun_again = (ngrams[..., :-1] == last[:, None]).all(axis=-1) & whole[None]
        return jnp.where(_marked(logits, ngrams[..., -1], begun_again), -jnp.inf, logits)

    return rule


def min_length(tokens: int) -> Rule:
    """Lets no text end before it has so many tokens."""
    return lambda logits, written: jnp.where(written.length < tokens, logits.at[:, EOS].set(-jnp.inf), logits)


def ban(tokens: Sequence[int]) -> Rule:
    """Never writes these tokens."""
    return lambda logits, written: logits.at[:, jnp.array(tokens, jnp.int32)].set(-jnp.inf)


def _marked(logits, ids, marks):
    """True at the tokens of the vocabulary that are among the ids with a mark."""
    row = jnp.arange(len(ids))[:, None]
    return jnp.zeros(logits.shape, bool).at[row, ids].max(marks)
