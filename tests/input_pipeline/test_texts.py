"""Do the texts of an example become the sequences that the table in `texts.py` draws?"""

import numpy as np
import pytest

from input_pipeline.texts import ROLES, TAKES, Encoded, TextSpec, check_spec, choose, encode, pack, prompt_of
from input_pipeline.transforms import BadRecord
from mmfuse.types import BOS, EOS, Caption, ConfigError, Example, Question

CAPTION, GERMAN = Caption("a red circle"), Caption("ein Kreis", "de", False)
QUESTION = Question("how many circles?", "two", "count")
EXAMPLE = Example("key", "concept", {}, (CAPTION, GERMAN), (QUESTION,), "described", "foiled")


def drawn(example, spec, seed=0):
    return choose(example, spec, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("piece", "role", "prompt", "answer"),
    [
        (CAPTION, "source", None, None),
        (QUESTION, "caption", None, None),
        (CAPTION, "prompt", "", None),
        (GERMAN, "prompt", "de:", None),
        (QUESTION, "prompt", "how many circles?", None),
        (CAPTION, "target", "", "a red circle"),
        (GERMAN, "target", "de:", "ein Kreis"),
        (QUESTION, "target", "how many circles?", "two"),
    ],
)
def test_sequences_and_weights_of_the_roles(tokenizer, piece, role, prompt, answer):
    if prompt is None:
        ids, answered = [BOS, *tokenizer.encode(piece.text), EOS], 0
    else:
        ending = [] if answer is None else [*tokenizer.encode(answer), EOS]
        ids, answered = [*tokenizer.encode(prompt), BOS, *ending], len(ending)
    encoded = encode(piece, role, 47, tokenizer)
    assert encoded.ids.tolist() == ids
    assert encoded.weight.tolist() == [0.0] * (len(ids) - answered) + [1.0] * answered


def test_texts_are_cleaned_before_they_are_encoded(tokenizer):
    untidy = Question(" how  many\ncircles? ", "\ttwo ", "count")
    for role in ("source", "prompt", "target"):
        assert encode(untidy, role, 47, tokenizer).ids.tolist() == encode(QUESTION, role, 47, tokenizer).ids.tolist()


@pytest.mark.parametrize("role", ["source", "caption"])
def test_a_cut_caption_keeps_its_end(tokenizer, role):
    text = tokenizer.encode(CAPTION.text)
    length = len(text) + 2
    assert encode(CAPTION, role, length, tokenizer).ids.tolist() == [BOS, *text, EOS]
    assert encode(CAPTION, role, length - 1, tokenizer).ids.tolist() == [BOS, *text[:-1], EOS]


def test_a_cut_answer_has_no_end(tokenizer):
    start, answer = [*tokenizer.encode("de:"), BOS], tokenizer.encode(GERMAN.text)
    whole, cut = (encode(GERMAN, "target", len(start) + len(answer) + room, tokenizer) for room in (1, 0))
    assert whole.ids.tolist() == [*start, *answer, EOS]
    assert cut.ids.tolist() == [*start, *answer]
    assert cut.weight.tolist() == [0.0] * len(start) + [1.0] * len(answer)


@pytest.mark.parametrize("role", ["prompt", "target"])
def test_a_prompt_leaves_room_for_one_token_of_an_answer(tokenizer, role):
    length = len(tokenizer.encode(QUESTION.text)) + 1
    encode(QUESTION, role, length + 1, tokenizer)
    with pytest.raises(BadRecord, match=r"^prompt too long$"):
        encode(QUESTION, role, length, tokenizer)


@pytest.mark.parametrize(("text", "reason"), [("red \ud800", "lone surrogate"), (" \n", "empty text")])
@pytest.mark.parametrize(
    ("role", "make"),
    [
        ("source", Caption),
        ("target", Caption),
        ("prompt", lambda text: Question(text, "two", "count")),
        ("target", lambda text: Question("how many?", text, "count")),
    ],
)
def test_a_text_that_cannot_be_used_is_a_bad_record(tokenizer, role, make, text, reason):
    with pytest.raises(BadRecord, match=f"^{reason}$"):
        encode(make(text), role, 23, tokenizer)


def test_takes():
    assert {name: take(EXAMPLE) for name, take in TAKES.items()} == {
        "captions": (CAPTION, GERMAN),
        "whole_captions": (CAPTION,),
        "first_captions": (GERMAN, CAPTION),
        "questions": (QUESTION,),
        "whole_captions_and_questions": (CAPTION, QUESTION),
        "description": (Caption("described"),),
        "foil": (Caption("foiled"),),
    }


@pytest.mark.parametrize(
    ("take", "reason"),
    [("whole_captions", "no whole captions"), ("description", "no description"), ("foil", "no foil")],
)
def test_an_example_without_such_a_text_is_a_bad_record(take, reason):
    with pytest.raises(BadRecord, match=f"^{reason}$"):
        drawn(Example("key", "concept", {}, (GERMAN,)), TextSpec(take, 1, 11))


def test_texts_are_drawn_without_repeats_and_each_as_often():
    captions = tuple(Caption(f"number {i}") for i in range(5))
    example = Example("key", "concept", {}, captions)
    draws = [drawn(example, TextSpec("captions", 3, 11), seed) for seed in range(500)]
    assert all(len(set(draw)) == 3 for draw in draws)
    firsts = [sum(draw[0] == caption for draw in draws) for caption in captions]
    assert min(firsts) > 70  # 100 ± 9 each
    assert sorted(drawn(example, TextSpec("captions", 7, 11))) == sorted(captions)


MANY = [Caption(f"en {i}") for i in range(9)]
LANGUAGES = (*MANY, Caption("ein Kreis", "de"), Caption("der Kreis", "de"), Caption("duara", "sw", False))
SPOKEN = Example("key", "concept", {}, LANGUAGES)


def test_captions_of_other_languages_are_left_alone():
    both = TextSpec("captions", 99, 11, ("sw", "de", "fr"))
    assert sorted(drawn(SPOKEN, both)) == sorted(caption for caption in LANGUAGES if caption.language != "en")
    assert drawn(SPOKEN, TextSpec("whole_captions", 1, 11, ("sw", "de")))[0].language == "de"
    assert {drawn(SPOKEN, TextSpec("captions", 1, 11, ("de",)), seed)[0] for seed in range(30)} == {*LANGUAGES[9:11]}
    first = drawn(SPOKEN, TextSpec("first_captions", 99, 11, ("en", "de")))
    assert sorted(first) == sorted([MANY[0], Caption("ein Kreis", "de")])


def test_whole_captions_and_questions_are_drawn_from_one_bag():
    asked = SPOKEN._replace(questions=(Question("how many?", "nine", "count"), Question("what?", "a circle", "shape")))
    spec = TextSpec("whole_captions_and_questions", 1, 99, packed=99)
    assert sorted(map(str, drawn(asked, spec))) == sorted(map(str, (*LANGUAGES[:-1], *asked.questions)))
    of_language = drawn(asked, spec._replace(languages=("de",)))
    assert sorted(map(str, of_language)) == sorted(map(str, (*LANGUAGES[9:11], *asked.questions)))
    firsts = [isinstance(drawn(asked, spec, seed)[0], Question) for seed in range(300)]
    assert sum(firsts) == pytest.approx(300 * 2 / 13, abs=25)


@pytest.mark.parametrize(("take", "languages"), [("captions", ("fr",)), ("whole_captions", ("sw",))])
def test_an_example_without_these_languages_is_a_bad_record(take, languages):
    with pytest.raises(BadRecord, match=f"^no {take.replace('_', ' ')} in these languages$"):
        drawn(SPOKEN, TextSpec(take, 1, 11, languages))


def test_every_language_is_as_likely_however_many_captions_it_has():
    """Three languages with 9, 2 and 1 captions: 400 draws each, and within a language each caption as often."""
    draws = [drawn(SPOKEN, TextSpec("captions", 1, 11, balance="languages"), seed)[0] for seed in range(1200)]
    for language, number in (("en", 9), ("de", 2), ("sw", 1)):
        drawn_of = [sum(draw == caption for draw in draws) for caption in LANGUAGES if caption.language == language]
        assert len(drawn_of) == number and sum(drawn_of) == pytest.approx(400, abs=65)  # 4 deviations
        assert min(drawn_of) > 400 / number - 4 * np.sqrt(400 / number)
    as_texts = [drawn(SPOKEN, TextSpec("captions", 1, 11), seed)[0] for seed in range(1200)]
    assert sum(draw.language == "en" for draw in as_texts) == pytest.approx(900, abs=60)


def test_several_captions_are_of_the_languages_in_turn():
    spec = TextSpec("captions", 5, 11, balance="languages")
    orders = set()
    for seed in range(60):
        languages = [caption.language for caption in drawn(SPOKEN, spec, seed)]
        assert {*languages[:3]} == {"en", "de", "sw"} and languages[3:] == [
            code for code in languages[:3] if code != "sw"
        ]
        orders.add(tuple(languages[:3]))
    assert len(orders) == 6
    all_of_them = drawn(SPOKEN, spec._replace(number=99))
    assert sorted(all_of_them) == sorted(LANGUAGES) and {one.language for one in all_of_them[-7:]} == {"en"}


def test_languages_and_balance_go_together():
    spec = TextSpec("captions", 1, 11, ("en", "de"), "languages")
    languages = [drawn(SPOKEN, spec, seed)[0].language for seed in range(400)]
    assert {*languages} == {"en", "de"} and languages.count("de") == pytest.approx(200, abs=40)


def lengths(rows):
    return [[len(text.ids) for text in row] for row in rows]


@pytest.mark.parametrize(
    ("texts", "number", "packed", "expected"),
    [
        ((4, 4, 4), 3, 1, [[4], [4], [4]]),
        ((4, 4, 4), 3, 2, [[4, 4], [4], []]),
        ((4, 4, 4, 3, 2), 2, 9, [[4, 4, 3], [4, 2]]),
        ((6, 11, 5, 2), 2, 3, [[6, 5], [11]]),  # the last finds no room
        ((2, 2, 2, 2), 1, 3, [[2, 2, 2]]),
        ((6, 6, 5), 1, 3, [[6, 5]]),  # the second finds no room, and the third does
        ((), 2, 3, [[], []]),
    ],
)
def test_each_text_goes_to_the_first_row_with_room(texts, number, packed, expected):
    encoded = [Encoded(np.full(size, i, np.int32), np.zeros(size, np.float32)) for i, size in enumerate(texts)]
    rows = pack(encoded, TextSpec("captions", number, 11, packed=packed))
    assert lengths(rows) == expected
    order = [int(text.ids[0]) for row in rows for text in row]
    assert packed > 1 or order == sorted(order)


def test_as_many_texts_are_drawn_as_the_rows_may_hold():
    assert len(drawn(SPOKEN, TextSpec("captions", 2, 11, packed=3))) == 6
    assert len(drawn(SPOKEN, TextSpec("captions", 5, 11, packed=3))) == len(LANGUAGES)


def test_prompt_of_an_english_caption_is_empty():
    assert [prompt_of(piece) for piece in (CAPTION, GERMAN, QUESTION)] == ["", "de:", "how many circles?"]


@pytest.mark.parametrize(
    ("role", "spec", "message"),
    [
        ("captions", TextSpec("captions", 1, 11), "no role of text 'captions'; did you mean 'caption'"),
        ("caption", TextSpec("whole_caption", 1, 11), "no kind of text to take 'whole_caption'; did you mean 'whole_"),
        ("caption", TextSpec("xyz", 1, 11), "'xyz'. There are: captions, whole_captions, first_captions,"),
        ("target", TextSpec("captions", 0, 11), r"text\.target has number=0, length=11: write a number of 1"),
        (
            "target",
            TextSpec("captions", 1, 11, packed=0),
            r"text\.target\.packed is 0: write 1, or more",
        ),
        (
            "caption",
            TextSpec("captions", 1, 11, packed=2),
            r"text\.caption\.packed is 2: write 1, or more for texts of the role 'target' alone",
        ),
        ("source", TextSpec("description", 1, 11, packed=2), r"text\.source\.packed is 2"),
        ("prompt", TextSpec("questions", 1, 11, packed=2), r"text\.prompt\.packed is 2"),
        ("target", TextSpec("captions", 1, 11, "de"), r"text\.target\.languages is 'de': write codes in a tuple"),
        ("target", TextSpec("captions", 1, 11, ("",)), r"text\.target\.languages is \('',\): write codes in a tuple"),
        ("target", TextSpec("captions", 1, 11, (7,)), r"text\.target\.languages is \(7,\): write codes in a tuple"),
        ("target", TextSpec("questions", 1, 11, ("de",)), "a text of 'questions' does not say its language"),
        (
            "target",
            TextSpec("whole_captions_and_questions", 1, 11, balance="languages"),
            "a text of 'whole_captions_and_questions' does not say its language",
        ),
        (
            "source",
            TextSpec("description", 1, 11, balance="languages"),
            "a text of 'description' does not say its lang",
        ),
        (
            "target",
            TextSpec("captions", 1, 11, balance="language"),
            "no balance of texts 'language'; did you mean 'lang",
        ),
        ("target", TextSpec("captions", 1, 2), r"text\.target has number=1, length=2: .* a length of 3"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(role, spec, message):
    with pytest.raises(ConfigError, match=message):
        check_spec(role, spec)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_fits_into_the_least_length(tokenizer, role):
    check_spec(role, TextSpec("captions", 1, 3))
    assert len(encode(CAPTION, role, 3, tokenizer).ids) == {"prompt": 1}.get(role, 3)
