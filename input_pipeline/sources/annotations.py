"""What do the texts of a record say: its captions, questions, description and foil?

A record's texts are a `txt` with one caption, a `json`, or both; or the cells of a row of a table. Of the json, or of
the row, these fields are read, all optional:

    caption       a caption or a list of them, where there is no txt or a blank one
    captions      more captions: texts, or {"text": …, "language": …, "whole": …}; the first may be among them
    language      language code of the captions that do not name their own; "en" if absent
    question, answer    one question with its answer
    questions     more questions: {"question": …, "answer": …, "kind": …}
    description   a text that is an input, not a caption
    foil          a text like it, which is wrong in a detail
    concept       a text or whole number; records that share it show the same thing

A blank caption is no caption; a question that is blank, or whose answer is, is no question. Every other field is left
alone. What is too large to be the texts of one record is refused before it is taken apart: a MiB of json can become
25 MB of objects in 25 ms, and 64 MiB of it 1.6 GB.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.text import is_unicode
from mmfuse.types import Caption, Example, Question

OPEN = "open"  # the kind of a question that does not say its kind
MAX_BYTES = 1 << 20  # of a txt, or of a json
MAX_TEXTS = 10_000  # captions, or questions, of one record
MAX_LABEL = 64  # characters of a language or of a kind of question: numbers are counted by them


class Annotations(NamedTuple):
    """The texts of one record, as in `Example`."""

    captions: tuple[Caption, ...] = ()
    questions: tuple[Question, ...] = ()
    description: str | None = None
    foil: str | None = None
    concept: str | None = None


def parse_annotations(txt: bytes | None, sidecar: bytes | None) -> Annotations:
    """Reads the texts of a record from its txt and its json.

    Raises:
      BadRecord: a reason of `parse_json` or of `parse_fields`.
    """
    fields = {} if sidecar is None else parse_json(sidecar)
    caption = "" if txt is None else _decode(txt)
    return parse_fields({**fields, "caption": caption} if caption.strip() else fields)


def parse_fields(fields: Mapping[str, Any]) -> Annotations:
    """Reads the texts of a record from the fields above.

    Raises:
      BadRecord: as `wrong_type` says, "text too long", "too many texts", "lone surrogate" (in a language or a kind
        of question: clean_text minds those in texts).
    """
    language = _label(fields, "language") or "en"
    captions = [_caption(entry, language) for entry in _list(fields, "captions")]
    known = {caption.text for caption in captions}
    first = [_caption(entry, language) for entry in _list(fields, "caption", str)]
    captions = [caption for caption in first if caption.text not in known] + captions
    single = [fields] if (_field(fields, "question", str) or "").strip() else []
    questions = [_question(entry) for entry in [*single, *_list(fields, "questions")]]
    questions = [question for question in questions if question.text.strip() and question.answer.strip()]
    captions = [caption for caption in captions if caption.text.strip()]
    concept = _field(fields, "concept", str, int)
    description, foil = (_field(fields, name, str) for name in ("description", "foil"))
    return Annotations(tuple(captions), tuple(questions), description, foil, None if concept is None else str(concept))


def parse_json(text: bytes) -> dict[str, Any]:
    """Reads one json object.

    Raises:
      BadRecord: "text too long", "text is not UTF-8", "json does not parse", "json is not an object".
    """
    try:
        fields = json.loads(_decode(text))
    except (ValueError, RecursionError):
        raise BadRecord("json does not parse") from None
    if not isinstance(fields, dict):
        raise BadRecord("json is not an object")
    return fields


def format_annotations(example: Example) -> dict[str, Any]:
    """Returns the json fields from which `parse_annotations` reads the texts of `example`, object links apart."""
    return {
        "captions": [{"text": text, "language": code, "whole": whole} for text, code, whole, _ in example.captions],
        "questions": [{"question": text, "answer": to, "kind": kind} for text, to, kind, _ in example.questions],
        "description": example.description,
        "foil": example.foil,
        "concept": example.concept,
    }


def _decode(text: bytes) -> str:
    if len(text) > MAX_BYTES:
        raise BadRecord("text too long")
    try:
        return text.decode("utf-8-sig")  # some editors begin a text with a byte order mark
    except UnicodeDecodeError:
        raise BadRecord("text is not UTF-8") from None


def wrong_type(field: str) -> str:
    """The reason that names a field of ours: it holds what it must not, or a label that is too long."""
    return f"field {field} of a wrong type"


def _field(fields: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """The field, or None where it is absent or null."""
    value = fields.get(name)
    if value is not None and not isinstance(value, kinds):
        raise BadRecord(wrong_type(name))
    return _short(value) if isinstance(value, str) else value


def _short(text: str) -> str:
    """A text that came from a table may have any length."""
    if len(text) > MAX_BYTES:
        raise BadRecord("text too long")
    return text


def _list(fields: Mapping[str, Any], name: str, *one: type) -> list[Any]:
    """The entries of a field that is a list, or one entry alone; empty where it is absent, null or an empty text."""
    value = _field(fields, name, list, *one) or []
    entries = value if isinstance(value, list) else [value]
    if len(entries) > MAX_TEXTS:
        raise BadRecord("too many texts")
    return entries


def _label(fields: Mapping[str, Any], name: str) -> str | None:
    """A field that becomes a part of the names of numbers, or None where it is absent or null."""
    label = _field(fields, name, str)
    if label is None:
        return None
    if not is_unicode(label):
        raise BadRecord("lone surrogate")
    if len(label) > MAX_LABEL:
        raise BadRecord(wrong_type(name))
    return label


def _required(fields: Any, name: str) -> str:
    text = _field(fields, name, str) if isinstance(fields, Mapping) else None
    if text is None:
        raise BadRecord(wrong_type(name))
    return text


def _caption(entry: Any, language: str) -> Caption:
    if isinstance(entry, str):
        return Caption(_short(entry), language)
    text, whole = _required(entry, "text"), _field(entry, "whole", bool)
    return Caption(text, _label(entry, "language") or language, True if whole is None else whole)


def _question(entry: Any) -> Question:
    return Question(_required(entry, "question"), _required(entry, "answer"), _label(entry, "kind") or OPEN)
