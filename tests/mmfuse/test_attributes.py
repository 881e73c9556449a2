"""Are named objects counted right?"""

import pytest

from input_pipeline.sources.scenes import Scenes
from input_pipeline.sources.scenes.words import named_objects
from mmfuse.evaluators.attributes import attribute_scores

RED = "circle", "red", "small", "solid"
BLUE = "square", "blue", "large", "dotted"


@pytest.mark.parametrize(
    ("caption", "right", "named"),
    [
        ("a red circle and a big blue square with dots", 2, 2),
        ("a red circle", 1, 1),
        ("a blue circle and a red square", 0, 2),  # the right words at the wrong objects
        ("a large red circle", 0, 1),  # of a wrong size
        ("a red circle, a red circle and a red circle", 1, 3),
        ("a circle, a red object, two squares", 0, 0),
        ("", 0, 0),
    ],
)
def test_one_caption_by_hand(caption, right, named):
    assert attribute_scores([named_objects(caption)], [[RED, BLUE]]) == {
        "attribute_f1": 2 * right / (named + 2),
        "attribute_precision": right / named if named else 0,
        "attribute_recall": right / 2,
    }


def test_captions_are_counted_together():
    scores = attribute_scores([[{"red", "circle"}], [{"red", "circle"}, {"pink", "star"}]], [[RED, BLUE], [BLUE]])
    assert list(scores.values()) == [2 * 1 / (3 + 3), 1 / 3, 1 / 3]


def test_true_captions_name_rightly_and_those_of_other_scenes_do_not():
    source = Scenes("test", signals=(), size=101)
    examples = [source[index] for index in range(len(source))]
    scenes = [[(it.shape, it.colour, it.size, it.texture) for it in example.truth["objects"]] for example in examples]
    whole = [named_objects(example.captions[0].text) for example in examples]
    assert set(attribute_scores(whole, scenes).values()) == {1.0}
    part = attribute_scores([named_objects(example.captions[-1].text) for example in examples], scenes)
    assert part["attribute_precision"] == 1 > part["attribute_recall"] > 0
    assert 0 < attribute_scores(whole[1:] + whole[:1], scenes)["attribute_f1"] < 0.2
