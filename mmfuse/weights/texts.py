"""What does a released model want to be done to a text before it sees it?

    the tokenizer's ids, begin and end among them ─ cut and padded to the model's length

As `tokenizer.json` and `tokenizer_config.json` say.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int

from mmfuse.types import CheckpointError
from mmfuse.weights.tensors import check_hash, read_json, understanding

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
# Of transformers; they pad at the left unless their settings say something else.
PAD_LEFT = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")


class Texts(NamedTuple):
    """From texts to ids and their mask, both (B, length).

    Attributes:
      bpe: the tokenizer; it puts begin and end around a text, cuts it and pads it.
    """

    bpe: tokenizers.Tokenizer

    def __call__(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
        """Ids, and 1 where they are not padding."""
        rows = self.bpe.encode_batch(list(texts))
        ids, mask = (np.array([getattr(row, part) for row in rows], np.int32) for part in ("ids", "attention_mask"))
        return ids, mask


def load_texts(folder: str | Path, *, length: int) -> Texts:
    """Reads `tokenizer.json`, and from `tokenizer_config.json` what pads, where; `length` as the model has places.

    Raises:
      CheckpointError: a file is missing, or cannot be read.
    """
    path = Path(folder) / TOKENIZER
    check_hash(path)
    settings = read_json(path.with_name(SETTINGS))
    try:
        bpe = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    with understanding(path.with_name(SETTINGS)):
        word = settings["pad_token"]
        word = word["content"] if isinstance(word, Mapping) else word
        pad = bpe.token_to_id(word)
        if pad is None:
            raise CheckpointError(f"{path.with_name(SETTINGS)} pads with {word!r}, which is not in {path.name}.")
        bpe.enable_padding(length=length, pad_id=pad, pad_token=word, direction=_padding_side(settings, bpe))
        bpe.enable_truncation(length, direction=settings.get("truncation_side") or "right")
    return Texts(bpe)


def _padding_side(settings, bpe):
    by_class = "left" if settings.get("tokenizer_class") in PAD_LEFT else "right"
    return settings.get("padding_side") or (bpe.padding or {}).get("direction") or by_class
