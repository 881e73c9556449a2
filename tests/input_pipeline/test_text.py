"""Does cleaning leave good text alone and refuse what is none?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.text import clean_text

UNICODE = st.text(st.characters(blacklist_categories=("Cs",)))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (" a \n\t b\u3000c\u00a0 ", "a b c"),
        ("e\u0301", "\u00e9"),
        ("e\u0301" * 3, "\u00e9\u00e9e"),  # cut before it is composed
        ("\U0001d160" * 2, "\U0001d158\U0001d165\U0001d16e\U0001d158\U0001d165"),  # one that is composed of three
        ("ﬁ²", "ﬁ²"),  # what looks different stays different
        ("\u200fאב\u200d", "\u200fאב\u200d"),  # marks of direction and joiners are text
        ("ÀB", "ÀB"),
        ("abcdef", "abcde"),
        ("abcd ef", "abcd"),
    ],
)
def test_clean(text, clean):
    assert clean_text(text, max_chars=5) == clean


@given(UNICODE.filter(str.strip), st.integers(1, 30))
def test_clean_text_is_left_alone(text, max_chars):
    clean = clean_text(text, max_chars=max_chars)
    assert clean_text(clean, max_chars=max_chars) == clean
    assert 1 <= len(clean) <= max_chars


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty text"), (" \n\u3000", "empty text"), ("a\ud800", "lone surrogate"), ("\udc80" * 9, "lone surrogate")],
)
def test_refused(text, reason):
    with pytest.raises(BadRecord) as bad:
        clean_text(text)
    assert bad.value.reason == reason
