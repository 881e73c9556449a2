"""What does the model write when it is prompted?

What evaluators of generated text have in common: they generate for each text of the role `prompt`, greedily if not told
otherwise, once over the example's evidence and once without any, which is the blind control: whatever the model reaches
there, it reaches without looking. How good it is, is for them to say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from input_pipeline.texts import Piece
from input_pipeline.tokenizers import Tokenizer
from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.inference.decoding import make_decoding, write_texts
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState
from mmfuse.types import Batch, Example


class Written(NamedTuple):
    """What the model wrote for one prompt.

    Attributes:
      example: the record, without its signals.
      prompt: what it was prompted with, of the kind that was asked for.
      references: the texts of the role `target`.
      text: what it wrote.
      log_probability: of that text, over the evidence.
      blind: what it wrote without evidence.
      seen: whether there was any evidence: a signal, or a text to read.
    """

    example: Example
    prompt: Any
    references: Sequence[Piece]
    text: str
    log_probability: float
    blind: str
    seen: bool


class Writing:
    """Texts that the model generates over a stream with the role `prompt`.

    After a call `results` has what was written, in the form of the results files of COCO. What `sweep` gives is
    `Generated` with a leading axis of two: over the evidence, and without.
    """

    def __init__(
        self,
        stream: FiniteStream,
        merge: Callable[[TrainState], Multimodal],
        mesh: Mesh,
        *,
        tokenizer: Tokenizer,
        tokens: int,
        workers: int,
        decoding: Mapping[str, Any] = {},  # read, never written
    ):
        """Args: `tokens` the longest text; `tokenizer` reads what is written; `decoding` how, see `Decoding`."""
        self.tokenizer, self.tokens, settings = tokenizer, tokens, make_decoding(decoding)
        self.results: list[dict[str, str]] = []

        def write(state, batch):
            model = merge(state)
            memory = model.encode(batch)

            def write_over(keep):
                evidence = model.keep_evidence(memory, keep)
                texts = model.single, evidence, batch.text["prompt"], batch.origin
                return write_texts(*texts, tokens=tokens, decoding=settings)

            return jax.lax.map(write_over, jnp.array([True, False]))  # a loop: generation is compiled once

        self.sweep = Sweep(stream, write, mesh, workers=workers)

    def written(self, state: TrainState, kind: type[Piece]) -> Iterator[Written]:
        """Yields what the model wrote for each prompt of this kind."""
        for loaded, ((ids, blind), (log_prob, _)) in self.sweep(state):
            seen = _has_evidence(loaded.batch)
            for row, (example, pieces) in enumerate(zip(loaded.examples, loaded.pieces)):
                for place, prompt in enumerate(pieces.get("prompt", ())):
                    if not isinstance(prompt, kind):
                        continue
                    assert example is not None, "a row with texts has a record"
                    yield Written(
                        example,
                        prompt,
                        pieces.get("target", ()),
                        self.tokenizer.decode(ids[row, place]),
                        float(log_prob[row, place].sum()),
                        self.tokenizer.decode(blind[row, place]),
                        bool(seen[row]),
                    )


def _has_evidence(batch: Batch) -> Bool[np.ndarray, "B"]:
    there = np.zeros(len(batch.valid), bool)
    for name in (*batch.signals, *batch.text.keys() & {"source"}):
        there |= batch.present(name).any(axis=1)
    return there
