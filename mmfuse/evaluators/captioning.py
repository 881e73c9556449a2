"""Does the model describe what it sees and hears as people do?

A caption is generated for each prompt and scored against all true captions of its example that are in the language of
the prompt: CIDEr-D and BLEU-4; and where the objects of the scene are known, by how well it names them. Each score
stands beside that of captions which the same model writes without evidence. Where texts are in several languages, the
scores are over all of them, and over each.
"""

from collections.abc import Sequence

from input_pipeline.sources.scenes.words import named_objects
from mmfuse.evaluators.attributes import attribute_scores
from mmfuse.evaluators.caption_scores import bleu_4, cider_d, split_words
from mmfuse.evaluators.writing import Writing, Written
from mmfuse.training.state import TrainState
from mmfuse.types import Caption


class Captioning(Writing):
    """Scores of generated captions over a stream.

    The role `prompt` holds a caption whose language is to be written, and `target` the true captions: as many as the
    stream takes of them, so let its `number` be no smaller than the captions of an example. An example of which there
    is nothing to see, to hear or to read is not described.
    """

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Returns scores, `candidates`, how many captions were written, and `rejected`, records left out.

        The scores are `cider`, 0 … 10; `bleu_4`, 0 … 1; of scenes `attribute_f1`, `attribute_precision` and
        `attribute_recall`, 0 … 1; all of them with `_blind`, and with `/{language}` where there are several.
        """
        found = [written for written in self.written(state, Caption) if written.seen]
        self.results = [{"image_id": written.example.key, "caption": written.text} for written in found]
        numbers = {"candidates": float(len(found)), "rejected": float(len(self.sweep.rejected))}
        if not found:
            return numbers
        spoken = sorted({written.prompt.language for written in found})
        parts = {f"/{code}": [one for one in found if one.prompt.language == code] for code in spoken}
        for name, part in {"": found, **(parts if len(parts) > 1 else {})}.items():
            for control, texts in (("", [one.text for one in part]), ("_blind", [one.blind for one in part])):
                numbers |= {f"{score}{control}{name}": value for score, value in _scores(part, texts).items()}
        return numbers


def _scores(found: Sequence[Written], texts: Sequence[str]) -> dict[str, float]:
    """Of these texts, as if they had been written for the same prompts."""
    candidates = [split_words(text) for text in texts]
    references = [[split_words(text) for text in _in_language(one.references, one.prompt)] for one in found]
    scenes = [
        [(it.shape, it.colour, it.size, it.texture) for it in one.example.truth.get("objects", ())] for one in found
    ]
    scores = {"cider": cider_d(candidates, references), "bleu_4": bleu_4(candidates, references)}
    return scores | (attribute_scores([named_objects(text) for text in texts], scenes) if any(scenes) else {})


def _in_language(captions, prompt):
    same = [caption.text for caption in captions if caption.language == prompt.language]
    return same or [prompt.text]  # where the stream takes fewer captions than there are
