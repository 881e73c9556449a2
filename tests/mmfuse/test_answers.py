"""What a report shows of answers is what a model wrote that writes what it is told, and it is judged rightly."""

import json

import numpy as np
import pytest

from input_pipeline.sources.scenes.world import SceneObject
from input_pipeline.streams import Recipe, evaluation_stream
from input_pipeline.texts import TextSpec
from mmfuse.analysis.answers import split_words, true_boxes
from mmfuse.analysis.examples import show_examples
from mmfuse.evaluators.answering import Answering
from mmfuse.evaluators.captioning import Captioning
from mmfuse.training.sharding import make_mesh
from mmfuse.types import EOS, Caption, Example, Question, Rejected
from tests import told

PROMPT = "how many circles?"
HEIGHT, WIDTH = told.IMAGE
BOX = (0.0, 0.0, WIDTH / 2, HEIGHT / 2)  # the first of two by two patches


class Asked:
    """Five records: a right answer about a thing, a wrong one about none, one bad record, one without picture."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 2:
            return Rejected("torn", "2")
        thing = SceneObject("circle", "red", "small", "solid", (1.0, 1.0), 1.0, BOX)
        asked = Question(PROMPT, "two", "count") if index else Question(PROMPT, "red  circle", "count", (0,))
        signals = {} if index == 3 else {"image": np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8)}
        return Example(str(index), str(index), signals, questions=(asked,), truth={"objects": (thing,)})


@pytest.fixture(scope="module")
def show(tokenizer):
    """What a report shows of a state that was evaluated."""
    source = Asked()
    recipe = Recipe({"image": told.IMAGE}, {"prompt": TextSpec("questions", 1, 17)}, tokenizer)
    stream = evaluation_stream("test", source, recipe, rows=8)
    mesh = make_mesh(data=2)
    evaluator = Answering(stream, told.merge, mesh, tokenizer=tokenizer, tokens=7, workers=0)

    def run(state):
        evaluator(state)
        return show_examples(state, {"vqa": evaluator}, {"vqa": source}, told.merge, mesh)["vqa"]["answers"]

    return run


@pytest.fixture(scope="module")
def shown(show, tokenizer):
    return show(told.state_that_writes("red circle", tokenizer, after=PROMPT))


def test_cards_say_what_was_written_and_whether_it_is_right(shown):
    assert [card["key"] for card in shown["shown"]] == ["0", "1", "3", "4"]
    for card, right in zip(shown["shown"], (True, False, False, False), strict=True):
        (text,) = card["texts"]
        assert card["gates"] == {}
        assert [word["text"] for word in text["words"]] == ["red", "circle"]
        assert text["prompt"] == PROMPT and text["right"] is right
        assert text["probability"] > 0.9 and all(word["probability"] > 0.9 for word in text["words"])
    assert sorted(card["key"] for card in shown["worst"]) == ["1", "3", "4"]
    json.dumps(shown, allow_nan=False)


class Described(Asked):
    """Captions in place of questions: what is written is right, of other words, and half right."""

    CAPTIONS = ("red circle", "two blue squares", "", "red square", "a red circle")

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(found, Rejected):
            return found
        return found._replace(questions=(), captions=(Caption(self.CAPTIONS[index]),))


def test_the_worst_captions_are_those_least_like_the_true_ones(tokenizer):
    source, mesh = Described(), make_mesh(data=2)
    text = {role: TextSpec("whole_captions", 1, 17) for role in ("prompt", "target")}
    stream = evaluation_stream("test", source, Recipe({"image": told.IMAGE}, text, tokenizer), rows=8)
    evaluator = Captioning(stream, told.merge, mesh, tokenizer=tokenizer, tokens=7, workers=0)
    state = told.state_that_writes("red circle", tokenizer, after="")
    evaluator(state)
    found = show_examples(state, {"caption": evaluator}, {"caption": source}, told.merge, mesh)["caption"]["answers"]
    assert found["examples"] == 4
    assert [card["key"] for card in found["worst"]] == ["1", "3", "4", "0"]


def test_the_texts_are_those_over_the_evidence(show, tokenizer):
    found = show(told.state_that_writes("red circle", tokenizer, after=PROMPT, only_blind=True))
    words = {card["key"]: [word["text"] for word in card["texts"][0]["words"]] for card in found["shown"]}
    assert words == {"0": [], "1": [], "3": ["red", "circle"], "4": []}


def test_each_word_has_a_map_of_each_layer_and_the_rollout(shown):
    first, _, blind, _ = shown["shown"]
    assert first["memories"].keys() == {"image"} and not blind["memories"]
    for card, share in ((first, 1), (blind, 0)):
        for word in card["texts"][0]["words"]:
            layer, rollout = word["looks"]["image"]
            assert layer["share"] == pytest.approx(share, abs=1e-6)
            assert rollout["share"] == pytest.approx(share / 2, abs=1e-6)  # one layer that passes half of the text on
            assert tuple(layer["grid"]) == (2, 2)


def test_the_pointing_game_is_played_where_a_text_is_about_a_thing(shown):
    assert shown["shown"][0]["texts"][0]["boxes"] == [(0.0, 0.0, 0.5, 0.5)]
    assert shown["shown"][1]["texts"][0]["boxes"] == []
    assert shown["pointing"].keys() == {"layer 1", "rollout"}
    assert {game["games"] for game in shown["pointing"].values()} == {1}
    assert {game["chance"] for game in shown["pointing"].values()} == {0.25}


@pytest.mark.parametrize(
    ("text", "each"),
    [(text, text.split()) for text in ("a red circle", "  zwei   Kreise ", "größer — 🙂 !", "", "x")]
    + [("紅い円 two", ["紅", "い", "円", "two"]), ("한국 말。ok漢x", ["한국", "말。ok", "漢", "x"])],
)
def test_words_have_the_tokens_that_they_are_written_with(tokenizer, text, each):
    ids = np.array(tokenizer.encode(text), np.int32)
    words = split_words(np.append(ids, EOS).astype(np.int32), tokenizer)
    assert [word for word, _ in words] == each
    for word, at in words:
        assert word in tokenizer.decode(ids[at]) or not word.isascii()  # bytes of a character may be shared
        assert at.stop <= len(ids)  # the end of a text is no part of its last word


def test_captions_and_records_without_truth_have_no_boxes():
    image = {"image": np.zeros((4, 6, 3), np.uint8)}
    assert true_boxes(Caption("red"), Example("0", "0", image, truth={"objects": ()})) == []
    assert true_boxes(Question("?", "red", "colour"), Example("0", "0", image)) == []
    assert true_boxes(Question("?", "red", "colour", (0,)), Example("0", "0", {"image": b"jpeg"})) == []
