"""What does the model write when it is prompted?

What evaluators of generated text have in common: they generate greedily for each text of the role `prompt`, and read
what was written. How good it is, is for them to say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from jax.sharding import Mesh

from input_pipeline.texts import Piece
from input_pipeline.tokenizers import Tokenizer
from mmfuse.evaluators.evaluator import FiniteStream, Sweep
from mmfuse.inference.generate import generate
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState
from mmfuse.types import Caption, Question

P = TypeVar("P", Caption, Question)


class Writing:
    """Texts that the model generates over a stream with the role `prompt`."""

    def __init__(
        self,
        stream: FiniteStream,
        merge: Callable[[TrainState], Multimodal],
        mesh: Mesh,
        *,
        tokenizer: Tokenizer,
        tokens: int,
        workers: int,
    ):
        """Args: `tokens` the longest text; `tokenizer` reads what is written."""
        self.tokenizer = tokenizer

        def write(state, batch):
            model = merge(state)
            return generate(model.single, model.encode(batch), batch.text["prompt"], tokens=tokens)

        self.sweep = Sweep(stream, write, mesh, workers=workers)

    def written(self, state: TrainState, kind: type[P]) -> Iterator[tuple[P, str, Mapping[str, Sequence[Piece]]]]:
        """Yields each prompt of this kind, what the model wrote, and all texts of the example by role."""
        for loaded, generated in self.sweep(state):
            for pieces, texts in zip(loaded.pieces, generated):
                prompts = [piece for piece in pieces.get("prompt", ()) if isinstance(piece, kind)]
                for prompt, ids in zip(prompts, texts):
                    yield prompt, self.tokenizer.decode(ids), pieces
