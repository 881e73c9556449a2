"""Are the digits the right ones, split as promised, and named rightly in every language?"""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from input_pipeline.sources.contract import Source
from input_pipeline.sources.digits import CAPTIONS, SPLITS, Digits
from mmfuse.types import ConfigError

# Two columns of the table, written a second time: a name that slipped to another place shows.
THREE_AND_EIGHT = {
    "ar": "ثلاثة ثمانية", "de": "drei acht", "el": "τρία οκτώ", "en": "three eight", "es": "tres ocho",
    "fr": "trois huit", "hi": "तीन आठ", "it": "tre otto", "ja": "三 八", "ko": "삼 팔", "nl": "drie acht",
    "pl": "trzy osiem", "pt": "três oito", "ru": "три восемь", "tr": "üç sekiz", "zh": "三 八",
}  # fmt: skip


@pytest.fixture(scope="module")
def splits():
    return {split: Digits(split) for split in SPLITS}


def rows(source):
    return [int(example.key.removeprefix("load_digits/")) for example in source]


def test_every_sample_is_in_one_split(splits):
    assert sorted(row for source in splits.values() for row in rows(source)) == list(range(1797))
    assert all(isinstance(source, Source) for source in splits.values())


def test_one_class_is_held_out_whole(splits):
    target = load_digits().target
    assert rows(splits["test_unseen"]) == np.flatnonzero(target == 7).tolist()
    assert {example.concept for example in Digits("test_unseen", held_out=2)} == {"digits/2"}


@pytest.mark.parametrize(("split", "share"), [("train", 0.70), ("validation", 0.15), ("test", 0.15)])
def test_splits_are_stratified(splits, split, share):
    target = load_digits().target
    counts = Counter(target[row] for row in rows(splits[split]))
    assert set(counts) == set(range(10)) - {7}
    assert all(abs(count - share * (target == digit).sum()) <= 1 for digit, count in counts.items())


def test_picture_class_and_answers_are_of_the_row(splits):
    table = load_digits()
    for example, row in zip(splits["test"], rows(splits["test"]), strict=True):
        image, digit = example.signals["image"], int(table.target[row])
        assert image.shape == (8, 8, 3) and image.dtype == np.uint8
        np.testing.assert_allclose(image, table.images[row][..., None].repeat(3, -1) * 15.9375, atol=0.5)
        assert example.concept == f"digits/{digit}" and example.truth == {"digit": digit}
        answers = {question.kind: question.answer for question in example.questions}
        assert answers["parity"] == ("even", "odd")[digit % 2]
        assert answers["comparison"] == ("no", "yes")[digit in (5, 6, 8, 9)]
        english = {caption.language: caption.text for caption in example.captions}["en"]
        assert answers["digit"] in english.replace(",", "").split()


def test_yes_no_questions_tell_little(splits):
    for kind in ("parity", "comparison"):
        answers = Counter(
            question.answer for example in splits["train"] for question in example.questions if question.kind == kind
        )
        assert max(answers.values()) / sum(answers.values()) < 0.57  # 5 of 9 classes


def test_captions_name_the_digit_in_sixteen_languages_and_nine_scripts(splits):
    wanted = {"digits/3": 0, "digits/8": 1}
    texts = []
    for example in splits["train"]:
        assert [caption.language for caption in example.captions] == sorted(CAPTIONS)
        texts += [caption.text for caption in example.captions]
        if example.concept in wanted:
            for text, language, whole, _ in example.captions:
                assert THREE_AND_EIGHT[language].split()[wanted[example.concept]] in text and whole
    scripts = {unicodedata.name(letter).split()[0] for text in texts for letter in text if letter.isalpha()}
    assert scripts == {"ARABIC", "LATIN", "GREEK", "CJK", "DEVANAGARI", "HANGUL", "HIRAGANA", "KATAKANA", "CYRILLIC"}
    assert len(set(texts)) == 16 * 9 * 3


def test_table_is_complete():
    for names, frames in CAPTIONS.values():
        assert len(set(names.split())) == 10
        assert len(set(frames)) == 3 and all(frame.count("{}") == 1 for frame in frames)
        assert all(unicodedata.is_normalized("NFC", text) for text in (names, *frames))


def test_an_example_is_a_function_of_its_index(splits):
    again, other = Digits("train"), Digits("train", seed=5)
    assert again[900].captions == splits["train"][900].captions
    assert rows(other) == rows(again)
    assert [example.captions for example in other] != [example.captions for example in again]
    assert list(Digits("test", signals=("image", "audio"))[0].signals) == ["image"]  # a source gives what it has
    assert [example.signals for example in Digits("test", signals=())] == [{}] * len(splits["test"])
    with pytest.raises(ValueError, match="read-only"):
        again[0].signals["image"][:] = 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "no split 'tset': choose from train, validation, test, test_unseen"),
        ({"split": "test", "held_out": 10}, "held_out is 10"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Digits(**arguments)


@pytest.mark.parametrize("index", [-1, 242])
def test_beyond_the_end(splits, index):
    with pytest.raises(IndexError, match="of 242"):
        splits["test"][index]
