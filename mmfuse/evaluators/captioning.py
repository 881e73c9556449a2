"""Does the model describe what it sees and hears as people do?

A caption is generated greedily for each prompt and scored against all true captions of its example that are in the
language of the prompt: CIDEr-D and BLEU-4. Where texts are in several languages, the scores are over all of them.
"""

from mmfuse.evaluators.caption_scores import bleu_4, cider_d, split_words
from mmfuse.evaluators.writing import Writing
from mmfuse.training.state import TrainState
from mmfuse.types import Caption


class Captioning(Writing):
    """Scores of generated captions over a stream.

    The role `prompt` holds a caption whose language is to be written, and `target` the true captions: as many as the
    stream takes of them, so let its `number` be no smaller than the captions of an example.
    """

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns `cider`, 0 … 10; `bleu_4`, 0 … 1; `candidates`, how many captions; `rejected`, records left out."""
        candidates, references = [], []
        for prompt, caption, pieces in self.written(state, Caption):
            candidates.append(split_words(caption))
            references.append([split_words(text) for text in _in_language(pieces["target"], prompt)])
        counts = {"candidates": float(len(candidates)), "rejected": float(len(self.sweep.rejected))}
        if not candidates:
            return counts
        return {"cider": cider_d(candidates, references), "bleu_4": bleu_4(candidates, references), **counts}


def _in_language(captions, prompt):
    same = [caption.text for caption in captions if caption.language == prompt.language]
    return same or [prompt.text]  # where the stream takes fewer captions than there are
