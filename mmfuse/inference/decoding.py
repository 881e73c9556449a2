"""How does a person say how texts are to be written?

By a few numbers, in a config or as flags. They choose between `generate.py` and `beams.py`, and which rules of
`logits.py` are applied, in this order: repetition_penalty, no_repeat_ngram, min_length, temperature, top_k, top_p.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import Int

from input_pipeline.names import require_known
from mmfuse.inference import logits
from mmfuse.inference.beams import beam_search
from mmfuse.inference.generate import Generated, generate, text_keys
from mmfuse.models.memory import Memory
from mmfuse.models.single_tower import SingleTower
from mmfuse.types import ConfigError, Text


class Decoding(NamedTuple):
    """How texts are written; greedily, if nothing is said.

    Attributes:
      beams: hypotheses of a beam search; 1 searches nothing.
      length_penalty: α of the beam search, from 0 on: the more, the longer the texts.
      temperature: above 0 tokens are drawn, at 1 as the model has them; 0 takes the likeliest.
      top_k: how many of the likeliest tokens are drawn from; 0 is all.
      top_p: probability of the likeliest tokens that are drawn from; 1 is all.
      repetition_penalty: what makes written tokens less likely; 1 is none.
      no_repeat_ngram: length of sequences of tokens that are not written twice; 0 lets all be.
      min_length: tokens before which no text ends.
      seed: of what is drawn.
    """

    beams: int = 1
    length_penalty: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    min_length: int = 0
    seed: int = 0

    @property
    def rules(self) -> tuple[logits.Rule, ...]:
        """What changes the logits, without what would change nothing."""
        wanted = (
            (self.repetition_penalty != 1, logits.repetition_penalty(self.repetition_penalty)),
            (self.no_repeat_ngram > 0, logits.no_repeat_ngram(self.no_repeat_ngram)),
            (self.min_length > 0, logits.min_length(self.min_length)),
            (self.temperature > 0, logits.temperature(self.temperature)),
            (self.top_k > 0, logits.top_k(self.top_k)),
            (self.top_p < 1, logits.top_p(self.top_p)),
        )
        return tuple(rule for there, rule in wanted if there)


def make_decoding(settings: Mapping[str, Any]) -> Decoding:
    """Reads settings.

    Raises:
      ConfigError: a setting that is not there, a number that means nothing, or two that exclude one another.
    """
    for name, value in settings.items():
        require_known("setting of decoding", name, Decoding._fields)
        wanted = (int,) if isinstance(Decoding._field_defaults[name], int) else (int, float)
        if type(value) not in wanted:
            raise ConfigError(f"decoding.{name} is {value!r}: write a{' whole' * (len(wanted) == 1)} number.")
    decoding = Decoding(**settings)
    cuts = decoding.top_k > 0 or decoding.top_p < 1
    for wrong, sentence in (
        (not all(math.isfinite(value) and value >= 0 for value in decoding), "write finite numbers, none below 0"),
        (decoding.beams < 1, "write beams=1 or more"),
        (decoding.repetition_penalty == 0, "write a repetition_penalty above 0"),
        (not 0 < decoding.top_p <= 1, "write a top_p above 0, and 1 at most"),
        (decoding.beams > 1 and decoding.temperature > 0, "either search with beams, or draw with a temperature"),
        (cuts and decoding.temperature == 0, "top_k and top_p need a temperature"),
    ):
        if wrong:
            raise ConfigError(f"decoding with {_said(settings)}: {sentence}.")
    return decoding


def write_texts(
    model: SingleTower, memory: Memory, prompt: Text, origin: Int[Array, "B 2"], *, tokens: int, decoding: Decoding
) -> Generated:
    """Answers to prompts, written as `decoding` says.

    Args:
      model: the decoder.
      memory: what `encode` made of the same batch.
      prompt: C prompts for each example, padded on the right.
      origin: `Batch.origin`; what is drawn for a record is the same in any batch.
      tokens: the most that are written.
      decoding: the settings.
    """
    if decoding.beams > 1:
        found = beam_search(
            model,
            memory,
            prompt,
            tokens=tokens,
            beams=decoding.beams,
            length_penalty=decoding.length_penalty,
            rules=decoding.rules,
        )
        return Generated(found.ids[:, :, 0], found.log_prob[:, :, 0])
    keys = None
    if decoding.temperature > 0:
        keys = text_keys(jax.random.key(decoding.seed), origin, prompt.ids.shape[1])
    return generate(model, memory, prompt, tokens=tokens, rules=decoding.rules, keys=keys)


def _said(settings):
    return ", ".join(f"{name}={value}" for name, value in settings.items())
