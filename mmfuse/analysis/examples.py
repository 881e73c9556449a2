"""Which examples does a report show?

The first batch of each evaluator whose work can be looked at: generated text, and retrieval. What is shown is what the
evaluator found when it was called; a small program adds where the model looked.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline.sources.contract import Source
from mmfuse.analysis.answers import show_answers
from mmfuse.analysis.neighbours import show_neighbours
from mmfuse.analysis.reading import make_reading, spectrogram
from mmfuse.evaluators.evaluator import Evaluator
from mmfuse.evaluators.retrieval import Retrieval
from mmfuse.evaluators.writing import Writing
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.sharding import replicated
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
      evaluators: by name; those that were called were called with this state.
      sources: evaluator name → the source of its stream.
    """

    def run(function, *args):
        return jax.tree.map(np.asarray, jax.jit(function, out_shardings=replicated(mesh))(state, *args))

    shown = {}
    for name, evaluator in evaluators.items():
        if not isinstance(evaluator, Writing | Retrieval):
            continue
        loaded, found = _first(evaluator.sweep, state)
        batch = evaluator.sweep.place(loaded.batch)
        if isinstance(evaluator, Writing):
            written = jax.tree.map(lambda both: both[0], found)  # over the evidence
            read = run(make_reading(merge), batch, evaluator.sweep.place(written.ids))
            answers = show_answers(loaded, written, read, sources[name], evaluator.tokenizer)
            shown[name] = {"answers": answers}
        else:
            spectrograms = run(lambda state, batch: spectrogram(merge(state), batch), batch)
            neighbours = show_neighbours(loaded, found, spectrograms, evaluator.between)
            shown[name] = {"neighbours": neighbours}
    return shown


def _first(sweep, state):
    """The first batch with what the evaluator computed of it, or would have."""
    return sweep.first or next(sweep(state))
