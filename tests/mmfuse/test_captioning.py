"""Are written captions compared with all true ones in their language? The model writes what it is told."""

import numpy as np
import pytest

from input_pipeline.sources.scenes.world import SceneObject
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


def make_evaluator(source, tokenizer, prompt, target, workers=1):
    text = {"prompt": prompt, "target": target}
    stream = evaluation_stream("test", source, Recipe({"image": told.IMAGE}, text, tokenizer), rows=2)
    return Captioning(stream, told.merge, make_mesh(data=2), tokenizer=tokenizer, tokens=11, workers=workers)


def evaluate(source, tokenizer, language, target, workers=1):
    prompt = TextSpec("captions", 1, 8, languages=(language,))
    after = "" if language == "en" else f"{language}:"
    evaluator = make_evaluator(source, tokenizer, prompt, target, workers)
    return evaluator(told.state_that_writes(WRITTEN, tokenizer, after=after))


def scores(cider, bleu, **counts):
    """What is written is the same with evidence and without."""
    both = {"cider": pytest.approx(cider), "bleu_4": pytest.approx(bleu)}
    return both | {f"{name}_blind": value for name, value in both.items()} | counts


def test_scores_are_of_all_references_in_the_language(tokenizer):
    found = evaluate(Described(), tokenizer, "en", TextSpec("captions", 5, 40))
    # one of two references of the first record is met, and nothing of the second's
    assert found == scores(10 / 2 / 2, 0.5, candidates=2, rejected=3)


@pytest.mark.parametrize("languages", [(), ("en",)])
def test_another_language(tokenizer, languages):
    class Both(Described):
        captions = (
            (Caption(ELSE), Caption(ELSE), GERMAN),
            (Caption(WRITTEN), Caption("zwei Kreise", "de")),
        )

    # where the stream takes captions in other languages alone, the one that the prompt is of is the reference
    found = evaluate(Both(), tokenizer, "de", TextSpec("captions", 5, 40, languages=languages), workers=0)
    assert found == scores(10 / 2, 0.5, candidates=2, rejected=0)


def test_what_cannot_be_seen_is_not_described(tokenizer):
    class Unseen(Described):
        captions = ((Caption(WRITTEN),), (Caption(ELSE),), (Caption(ELSE),))

        def __getitem__(self, index):
            example = super().__getitem__(index)
            return example._replace(signals={}) if index == 1 else example

    found = evaluate(Unseen(), tokenizer, "en", TextSpec("captions", 5, 40))
    assert found == scores(10 / 2, 0.5, candidates=2, rejected=0)


def test_without_captions_there_are_no_scores(tokenizer):
    class Silent(Described):
        captions = ((), None)

    assert evaluate(Silent(), tokenizer, "en", TextSpec("captions", 5, 40)) == {"candidates": 0, "rejected": 2}


def test_each_language_alone_and_results_in_the_form_of_coco(tokenizer):
    class Mixed(Described):
        captions = ((Caption(WRITTEN),), (GERMAN._replace(text=ELSE),), (Caption(ELSE),))

    evaluator = make_evaluator(Mixed(), tokenizer, TextSpec("captions", 1, 8), TextSpec("captions", 5, 40))
    # all begin as an English caption does; what follows "de:" is the end of what is told
    found = evaluator(told.state_that_writes(WRITTEN, tokenizer))
    names = {name.partition("_blind")[0] for name in found if "/" not in name} - {"candidates", "rejected"}
    assert names == {"cider", "bleu_4"}
    for score in ("cider", "bleu_4"):
        for control in ("", "_blind"):
            by_language = [found[f"{score}{control}/{language}"] for language in ("de", "en")]
            assert by_language[0] == 0 < by_language[1]
    assert [result["image_id"] for result in evaluator.results] == ["0", "1", "2"]
    assert [set(result) for result in evaluator.results] == [{"image_id", "caption"}] * 3
    assert evaluator.results[0]["caption"] == evaluator.results[2]["caption"] == WRITTEN


class Scene(Described):
    """A red circle and a blue square, and a scene with a red circle alone."""

    captions = ((Caption(ELSE),), (Caption(ELSE),))
    objects = ((("circle", "red"), ("square", "blue")), (("circle", "red"),))

    def __getitem__(self, index):
        things = [
            SceneObject(shape, colour, "small", "solid", (0, 0), 1, (0, 0, 1, 1))
            for shape, colour in self.objects[index]
        ]
        return super().__getitem__(index)._replace(truth={"objects": tuple(things)})


def test_objects_are_looked_for_where_scenes_are_known(tokenizer):
    prompt = TextSpec("captions", 1, 8)
    evaluator = make_evaluator(Scene(), tokenizer, prompt, TextSpec("captions", 5, 40))
    found = evaluator(told.state_that_writes(WRITTEN, tokenizer, only_blind=True))
    # blind: three of the four named objects are there, and all three are named
    blind = {"attribute_f1_blind": 2 * 3 / 7, "attribute_precision_blind": 3 / 4, "attribute_recall_blind": 1}
    seeing = {"attribute_f1": 0, "attribute_precision": 0, "attribute_recall": 0}
    assert {name: value for name, value in found.items() if "attribute" in name} == pytest.approx(blind | seeing)
