"""What text of a record is fit to be used?

Cleaning is for captions as the web writes them. Letters that look the same are made the same (Unicode's normal form C,
UAX #15): "é" may be written as one character or as two, and else would be two words to a tokenizer. It does not lower
case and does not fold what looks different: what people wrote is what a model should learn.
"""

import unicodedata

from input_pipeline.transforms import BadRecord

MAX_CHARS = 4_000  # more than any text length in tokens can hold


def clean_text(text: str, *, max_chars: int = MAX_CHARS) -> str:
    """Strips a text, makes one space of every run of white space, cuts it at `max_chars` characters, and composes them.

    A text that is clean already comes back as it is, so that character spans into it stay true.

    Raises:
      BadRecord: "lone surrogate" (no Unicode text: UTF-8 cannot hold it) or "empty text".
    """
    if not is_unicode(text):
        raise BadRecord("lone surrogate")
    # Cut before it is composed: that takes time with the square of a run of combining marks.
    text = unicodedata.normalize("NFC", " ".join(text.split())[:max_chars])[:max_chars].rstrip()
    if not text:
        raise BadRecord("empty text")
    return text


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold the string: Python's may contain lone surrogates, `json.loads('"\\ud800"')` makes one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
