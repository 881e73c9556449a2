"""What does a released SigLIP want to be done to a text?

    lower case, no punctuation, single spaces ─ sentencepiece ─ cut ─ the end ─ padded to the model's length

As `spiece.model` and `tokenizer_config.json` say. Words such as "</s>" in a text are what the tokenizer means by them.

Reference: sentencepiece, Kudo & Richardson 2018, arXiv 1808.06226; `SiglipTokenizer` of transformers.
"""

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from sentencepiece import SentencePieceProcessor

from mmfuse.types import CheckpointError
from mmfuse.weights.tensors import check_hash

SPACE = "▁"  # how pieces write it
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Pieces(NamedTuple):
    """From texts to ids and their mask, both (B, length).

    Attributes:
      model: cuts words into pieces.
      controls: word → id of what stands for itself in a text.
      unknown: the word for what has no piece.
      end, pad: ids.
      length: places of a text.
      lower: whether texts are brought to lower case.
      pads_left, cuts_left: whether padding stands before a text, and whether its beginning is cut off.
    """

    model: SentencePieceProcessor
    controls: Mapping[str, int]
    unknown: str
    end: int
    pad: int
    length: int
    lower: bool = True
    pads_left: bool = False
    cuts_left: bool = False

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return max(self.model.get_piece_size(), *(id + 1 for id in self.controls.values()))

    def __call__(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
        """Ids, and 1 where they are not padding."""
        ids = np.full((len(texts), self.length), self.pad, np.int32)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            found = self._encode(text)
            place = slice(self.length - len(found), None) if self.pads_left else slice(len(found))
            ids[row, place], mask[row, place] = found, 1
        return ids, mask

    def _encode(self, text):
        """The ids of a text with its end, not yet padded."""
        found, words = [], re.compile("(" + "|".join(map(re.escape, self.controls)) + ")")
        for part in words.split(SPACE + text.replace(SPACE, " ")):
            found += [self.controls[part]] if part in self.controls else self._spell(part)
        found = found[max(0, len(found) + 1 - self.length) :] if self.cuts_left else found[: self.length - 1]
        return found if found[-1:] == [self.end] else [*found, self.end]

    def _spell(self, text):
        text = (text.lower() if self.lower else text).translate(WITHOUT_PUNCTUATION)
        text = re.sub(r"\s+", " ", text).strip()
        # behind a word that is taken off again, since a space is put before the first
        return self.model.encode(self.unknown + text)[len(self.model.encode(self.unknown)) :]


def load_pieces(path: Path, settings: Mapping[str, Any], *, length: int) -> Pieces:
    """Reads a sentencepiece model; `settings` are those of `tokenizer_config.json`.

    Raises:
      CheckpointError: it cannot be read, or lacks a word that pads or ends.
    """
    check_hash(path)
    model = SentencePieceProcessor()
    try:
        model.load(str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    named = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    words = {name: as_word(settings.get(name) or word) for name, word in named.items()}
    ids = {word: model.piece_to_id(word) for word in words.values()}
    for word, id in ids.items():
        if model.id_to_piece(id) != word:
            raise CheckpointError(f"{path.name} has no piece {word!r}, which the settings beside it name: copy both.")
    return Pieces(
        model,
        ids,
        words["unk_token"],
        end=ids[words["eos_token"]],
        pad=ids[words["pad_token"]],
        length=length,
        lower=settings.get("do_lower_case", True),
        pads_left=settings.get("padding_side") == "left",
        cuts_left=settings.get("truncation_side") == "left",
    )


def as_word(token: str | Mapping[str, Any]) -> str:
    """A token of the settings, which is a word, or says its word as "content"."""
    return token["content"] if isinstance(token, Mapping) else token
