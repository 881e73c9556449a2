"""Which examples does a report show?

The first batch of each evaluator whose work can be looked at: generated text, and retrieval. One small program each.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from input_pipeline.sources.contract import Source
from mmfuse.analysis.answers import show_answers
from mmfuse.analysis.neighbours import make_embedding, show_neighbours
from mmfuse.analysis.reading import make_reading
from mmfuse.evaluators.evaluator import Evaluator, Sweep
from mmfuse.evaluators.retrieval import Retrieval
from mmfuse.evaluators.writing import Writing
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState


def show_examples(
    state: TrainState,
    evaluators: Mapping[str, Evaluator],
    sources: Mapping[str, Source],
    merge: Callable[[TrainState], Multimodal],
    mesh: Mesh,
) -> dict[str, Any]:
    """Evaluator name → {"answers": …} or {"neighbours": …}, plain data; see `answers.py` and `neighbours.py`.

    Args:
      state, merge, mesh: the model.
      evaluators: by name.
      sources: evaluator name → the source of its stream.
    """
    shown = {}
    for name, evaluator in evaluators.items():
        stream = evaluator.sweep.stream
        if isinstance(evaluator, Writing):
            loaded, read = _first(Sweep(stream, make_reading(merge, evaluator.tokens), mesh, workers=0), state)
            shown[name] = {"answers": show_answers(loaded, read, sources[name], evaluator.tokenizer)}
        elif isinstance(evaluator, Retrieval):
            embed = make_embedding(merge, evaluator.names)
            loaded, embedded = _first(Sweep(stream, embed, mesh, workers=0), state)
            shown[name] = {"neighbours": show_neighbours(loaded, embedded, evaluator.between)}
    return shown


def _first(sweep, state):
    return next(iter(sweep(state)))
