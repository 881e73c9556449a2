"""Are written captions compared with all true ones in their language? The model writes what it is told."""

import numpy as np
import pytest

from input_pipeline.streams import Recipe, evaluation_stream
from input_pipeline.texts import TextSpec
from mmfuse.evaluators.captioning import Captioning
from mmfuse.training.sharding import make_mesh
from mmfuse.types import Caption, Example, Rejected
from tests import told

WRITTEN = "a red circle is left of a blue square"  # nine words
ELSE = "how many there are two"  # five others
GERMAN = Caption(WRITTEN, "de")


class Described:
    """Five records: one with two English captions and a German one, one bad, one silent, one German, one English."""

    captions = (
        (Caption(WRITTEN.upper() + "."), GERMAN, Caption("zwei", "de"), Caption("nothing like it")),
        None,
        (),
        (Caption("zwei Kreise", "de"),),
        (Caption(ELSE),),
    )

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, index):
        if self.captions[index] is None:
            return Rejected("torn", str(index))
        image = np.zeros((*told.IMAGE, 3), np.uint8)
        return Example(str(index), str(index), {"image": image}, captions=self.captions[index])


def evaluate(source, tokenizer, language, target, workers=1):
    text = {"prompt": TextSpec("captions", 1, 8, languages=(language,)), "target": target}
    stream = evaluation_stream("test", source, Recipe({"image": told.IMAGE}, text, tokenizer), rows=2)
    evaluator = Captioning(stream, told.merge, make_mesh(data=2), tokenizer=tokenizer, tokens=11, workers=workers)
    return evaluator(told.state_that_writes(WRITTEN, tokenizer, after="" if language == "en" else f"{language}:"))


def test_scores_are_of_all_references_in_the_language(tokenizer):
    found = evaluate(Described(), tokenizer, "en", TextSpec("captions", 5, 40))
    # one of two references of the first record is met, and nothing of the second's
    assert found == {"cider": pytest.approx(10 / 2 / 2), "bleu_4": pytest.approx(0.5), "candidates": 2, "rejected": 3}


@pytest.mark.parametrize("languages", [(), ("en",)])
def test_another_language(tokenizer, languages):
    class Both(Described):
        captions = (
            (Caption(ELSE), Caption(ELSE), GERMAN),
            (Caption(WRITTEN), Caption("zwei Kreise", "de")),
        )

    # where the stream takes captions in other languages alone, the one that the prompt is of is the reference
    found = evaluate(Both(), tokenizer, "de", TextSpec("captions", 5, 40, languages=languages), workers=0)
    assert found == {"cider": pytest.approx(10 / 2), "bleu_4": pytest.approx(0.5), "candidates": 2, "rejected": 0}


def test_without_captions_there_are_no_scores(tokenizer):
    class Silent(Described):
        captions = ((), None)

    assert evaluate(Silent(), tokenizer, "en", TextSpec("captions", 5, 40)) == {"candidates": 0, "rejected": 2}
