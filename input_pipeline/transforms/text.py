"""What text of a record is fit to be used?

Cleaning is for captions as the web writes them. It does not normalise Unicode and does not lower case: the tokenizer
round-trips every string exactly, and what people wrote is what a model should learn.
"""

from input_pipeline.transforms import BadRecord

MAX_CHARS = 4_000  # more than any text length in tokens can hold


def clean_text(text: str, *, max_chars: int = MAX_CHARS) -> str:
    """Strips a text, makes one space of every run of white space, and cuts it at `max_chars` characters.

    A text that is clean already comes back as it is, so that character spans into it stay true.

    Raises:
      BadRecord: "lone surrogate" (no Unicode text: UTF-8 cannot hold it) or "empty text".
    """
    if not is_unicode(text):
        raise BadRecord("lone surrogate")
    text = " ".join(text.split())[:max_chars].rstrip()
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
