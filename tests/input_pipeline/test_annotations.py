"""Are a record's texts read as they are written, and refused where they are not what they should be?"""

import json

import pytest

from input_pipeline.sources.annotations import format_annotations, parse_annotations, parse_fields
from input_pipeline.transforms import BadRecord
from mmfuse.types import Caption, Example, Question


def parse(txt=None, **fields):
    return parse_annotations(txt, json.dumps(fields).encode() if fields else None)


def test_txt_stands_for_the_caption_of_the_json():
    assert parse(b"one", caption="two").captions == (Caption("one"),)
    assert parse(caption="two").captions == (Caption("two"),)
    assert parse("\ufeffzwölf\n".encode(), language="de").captions == (Caption("zwölf\n", "de"),)


def test_more_captions_follow_and_the_first_is_not_doubled():
    more = ["two", {"text": "trois", "language": "fr"}, {"text": "four", "whole": False}]
    expected = (Caption("two", "en"), Caption("trois", "fr"), Caption("four", "en", False))
    assert parse(captions=more).captions == expected
    assert parse(b"one", captions=more).captions == (Caption("one"), *expected)
    assert parse(b"trois", captions=more).captions == expected


def test_a_caption_may_be_a_list():
    assert parse(caption=["one", "two"], language="de").captions == (Caption("one", "de"), Caption("two", "de"))
    assert parse(caption=["one", "two"], captions=["two", "three"]).captions == tuple(
        map(Caption, ("one", "two", "three"))
    )
    assert parse(b"txt", caption=["one", "two"]).captions == (Caption("txt"),)
    with pytest.raises(BadRecord, match="field text of a wrong type"):
        parse(caption=["one", 2])


@pytest.mark.parametrize("blank", ["", " \n", "\u3000"])
def test_a_blank_caption_is_none(blank):
    assert parse(blank.encode(), captions=[blank, "one"]).captions == (Caption("one"),)


def test_questions():
    entries = [{"question": "how many?", "answer": "3", "kind": "count"}]
    assert parse(question="is it?", answer="yes", questions=entries).questions == (
        Question("is it?", "yes", "open"),
        Question("how many?", "3", "count"),
    )


@pytest.mark.parametrize("blank", ["", " \n", "\u3000"])
def test_a_blank_question_or_answer_is_none(blank):
    assert parse(caption="a dog", question=blank, answer=None) == ((Caption("a dog"),), (), None, None, None)
    assert parse(question=blank, answer="yes").questions == ()
    assert parse(question="is it?", answer=blank).questions == ()
    entries = [{"question": text, "answer": answer} for text, answer in ((blank, "yes"), ("q?", blank), ("q?", "a"))]
    assert parse(questions=entries).questions == (Question("q?", "a", "open"),)


def test_fields_of_img2dataset_say_nothing_more():
    fields = {
        "caption": None,
        "url": "u",
        "key": "0",
        "status": "success",
        "error_message": None,
        "width": 3,
        "exif": "{}",
    }
    assert parse(**fields) == ((), (), None, None, None)
    assert parse() == ((), (), None, None, None)


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        (b"\xff{}", "text is not UTF-8"),
        (b"{", "json does not parse"),
        (b"[" * 100_000, "json does not parse"),
        (b'{"caption": ' + b"9" * 5000 + b"}", "json does not parse"),
        (b"[]", "json is not an object"),
        (b'{"caption": 5}', "field caption of a wrong type"),
        (b'{"captions": "one"}', "field captions of a wrong type"),
        (b'{"captions": [5]}', "field text of a wrong type"),
        (b'{"captions": [{"language": "de"}]}', "field text of a wrong type"),
        (b'{"captions": [{"text": "a", "whole": 1}]}', "field whole of a wrong type"),
        (b'{"question": "is it?"}', "field answer of a wrong type"),
        (b'{"question": 5, "answer": "yes"}', "field question of a wrong type"),
        (b'{"questions": [null]}', "field question of a wrong type"),
        (b'{"description": ["a"]}', "field description of a wrong type"),
        (b'{"caption": "a", "language": "\\ud800"}', "lone surrogate"),
        (b'{"questions": [{"question": "q", "answer": "a", "kind": "\\ud800"}]}', "lone surrogate"),
        (b'{"captions": [{"text": "a", "language": "' + b"d" * 65 + b'"}]}', "field language of a wrong type"),
        (b'{"captions": [' + b'"",' * 10_000 + b'""]}', "too many texts"),
        (b'{"questions": [' + b"0," * 10_000 + b"0]}", "too many texts"),
        (b'{"caption": "' + b"a" * (1 << 20) + b'"}', "text too long"),
    ],
)
def test_what_cannot_be_read_has_a_reason(sidecar, reason):
    with pytest.raises(BadRecord) as bad:
        parse_annotations(None, sidecar)
    assert bad.value.reason == reason


def test_what_is_as_large_as_may_be_is_read():
    text = "a" * ((1 << 20) - 20)
    assert parse(caption=text).captions == (Caption(text),)
    assert len(parse(captions=["a"] * 10_000, language="d" * 64).captions) == 10_000
    with pytest.raises(BadRecord, match="text too long"):
        parse_annotations(b"a" * ((1 << 20) + 1), None)
    for fields in ({"description": "a" * ((1 << 20) + 1)}, {"captions": ["a" * ((1 << 20) + 1)]}):
        with pytest.raises(BadRecord, match="text too long"):  # of a table, whose cells have no limit of their own
            parse_fields(fields)


def test_a_concept_is_a_text_or_a_number():
    assert parse(concept="1F600").concept == "1F600"
    assert parse(concept=0).concept == "0"
    assert parse(caption="a").concept is None
    with pytest.raises(BadRecord, match="field concept of a wrong type"):
        parse(concept=["a"])


def test_a_blank_txt_hides_no_caption_of_the_json():
    assert parse(b" \n", caption="of the json").captions == (Caption("of the json"),)
    assert parse(b"of the txt", caption="of the json").captions == (Caption("of the txt"),)


def test_txt_that_is_not_utf8():
    with pytest.raises(BadRecord, match="text is not UTF-8"):
        parse_annotations("é".encode("latin-1"), b"{}")


def test_format_then_parse_gives_the_texts_again():
    captions = (Caption("ein", "de"), Caption("one <&\0", "en", False), Caption("ein", "nl"))
    example = Example("k", "c", {}, captions, (Question("q?", "a", "kind"),), "a description", "a foil")
    sidecar = json.dumps(format_annotations(example)).encode()
    assert parse_annotations(b"ein", sidecar) == (captions, example.questions, "a description", "a foil", "c")
