"""What do the texts of a record say: its captions, questions and description?

A record's texts are a `txt` with one caption, a `json`, or both. Of the json these fields are read, all optional:

    caption       a caption, where there is no txt
    captions      more captions: texts, or {"text": …, "language": …, "whole": …}; the first may be among them
    language      language code of the captions that do not name their own; "en" if absent
    question, answer    one question with its answer
    questions     more questions: {"question": …, "answer": …, "kind": …}
    description   a text that is an input, not a caption

A blank caption is no caption. Everything else in the json is left alone.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from input_pipeline.transforms import BadRecord
from mmfuse.types import Caption, Example, Question

OPEN = "open"  # the kind of a question that does not say its kind


class Annotations(NamedTuple):
    """The texts of one record, as in `Example`."""

    captions: tuple[Caption, ...] = ()
    questions: tuple[Question, ...] = ()
    description: str | None = None


def parse_annotations(txt: bytes | None, sidecar: bytes | None) -> Annotations:
    """Reads the texts of a record from its txt and its json.

    Raises:
      BadRecord: "text is not UTF-8", "json does not parse", "json is not an object", "json field of a wrong type".
    """
    fields = {} if sidecar is None else _parse_json(sidecar)
    caption = _field(fields, "caption", str) if txt is None else _decode(txt)
    language = _field(fields, "language", str) or "en"
    captions = [_caption(entry, language) for entry in _field(fields, "captions", list) or []]
    if caption is not None and caption not in [other.text for other in captions]:
        captions.insert(0, Caption(caption, language))
    single = [fields] if fields.get("question") is not None else []
    questions = [_question(entry) for entry in [*single, *(_field(fields, "questions", list) or [])]]
    captions = [caption for caption in captions if caption.text.strip()]
    return Annotations(tuple(captions), tuple(questions), _field(fields, "description", str))


def format_annotations(example: Example) -> dict[str, Any]:
    """Returns the json fields from which `parse_annotations` reads the texts of `example`, object links apart."""
    return {
        "captions": [{"text": text, "language": code, "whole": whole} for text, code, whole, _ in example.captions],
        "questions": [{"question": text, "answer": to, "kind": kind} for text, to, kind, _ in example.questions],
        "description": example.description,
    }


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")  # some editors begin a text with a byte order mark
    except UnicodeDecodeError:
        raise BadRecord("text is not UTF-8") from None


def _parse_json(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(_decode(text))
    except (ValueError, RecursionError):
        raise BadRecord("json does not parse") from None
    if not isinstance(fields, dict):
        raise BadRecord("json is not an object")
    return fields


def _field(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    """The field, or None where it is absent or null."""
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRecord("json field of a wrong type")
    return value


def _required(fields: Any, name: str) -> str:
    text = _field(fields, name, str) if isinstance(fields, dict) else None
    if text is None:
        raise BadRecord("json field of a wrong type")
    return text


def _caption(entry: Any, language: str) -> Caption:
    if isinstance(entry, str):
        return Caption(entry, language)
    text, whole = _required(entry, "text"), _field(entry, "whole", bool)
    return Caption(text, _field(entry, "language", str) or language, True if whole is None else whole)


def _question(entry: Any) -> Question:
    return Question(_required(entry, "question"), _required(entry, "answer"), _field(entry, "kind", str) or OPEN)
