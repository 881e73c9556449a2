"""What does a released model want to be done to a text before it sees it?

    the tokenizer's ids, begin and end among them ─ cut and padded to the model's length

As `tokenizer.json` and `tokenizer_config.json` say; or, in older folders of CLIP, `vocab.json` and `merges.txt`. What
SigLIP's `spiece.model` says is read in `pieces.py`. open_clip cleans a text before; HTML and broken Unicode, which it
mends, are left as they are.

Reference: byte-level BPE as CLIP has it, Radford et al. 2021, arXiv 2103.00020, and `CLIPTokenizer` of transformers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import Regex, normalizers, pre_tokenizers, processors

from mmfuse.types import CheckpointError
from mmfuse.weights.pieces import WITHOUT_PUNCTUATION, Pieces, as_word, load_pieces
from mmfuse.weights.preprocessing import OPEN_CLIP
from mmfuse.weights.tensors import check_hash, read_json, understanding

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, MERGES, PIECES = "vocab.json", "merges.txt", "spiece.model"
CLIP_WORDS = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
CLIP_BEGIN, CLIP_END = "<|startoftext|>", "<|endoftext|>"
# Of SigLIP 2. Its texts were of lower case in training, which released files do not say, and so transformers' own class
# makes them; padding is at the left unless the settings say something else.
SIGLIP_2 = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")
# How open_clip cleans a text, by its names.
CLEAN = {
    "whitespace": lambda text: " ".join(text.split()),
    "lower": lambda text: " ".join(text.split()).lower(),
    "canonicalize": lambda text: " ".join(text.replace("_", " ").translate(WITHOUT_PUNCTUATION).lower().split()),
}


class Texts(NamedTuple):
    """From texts to ids and their mask, both (B, length).

    Attributes:
      bpe: the tokenizer; it puts begin and end around a text, cuts it and pads it.
    """

    bpe: tokenizers.Tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self.bpe.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
        """Ids, and 1 where they are not padding."""
        rows = self.bpe.encode_batch(list(texts))
        ids, mask = (np.array([getattr(row, part) for row in rows], np.int32) for part in ("ids", "attention_mask"))
        return ids, mask


class Cleaned(NamedTuple):
    """The same for texts that are cleaned first, as open_clip does it.

    Attributes:
      spell: from clean texts.
      clean: a key of `CLEAN`.
    """

    spell: Texts | Pieces
    clean: str

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self.spell.vocab_size

    def __call__(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
        """Ids, and 1 where they are not padding."""
        return self.spell([CLEAN[self.clean](text) for text in texts])


def load_texts(folder: str | Path, *, length: int) -> Texts | Pieces | Cleaned:
    """Reads the tokenizer, and from `tokenizer_config.json` what pads, where; `length` as the model has places.

    Where there are several, `spiece.model` comes first, as with SigLIP's own tokenizer, and `tokenizer.json` second.

    Raises:
      CheckpointError: a file is missing, or cannot be read.
    """
    settings = load_settings(Path(folder))
    spell = _load(Path(folder), settings, length)
    return Cleaned(spell, settings["clean"]) if "clean" in settings else spell


def load_settings(folder: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` says; in a folder of open_clip, with what it changes, and with "clean".

    Raises:
      CheckpointError: the file is missing, or open_clip does what we have no part for.
    """
    settings = read_json(folder / SETTINGS)
    if (folder / OPEN_CLIP).is_file():
        settings |= _changes_of_open_clip(folder / OPEN_CLIP)
    if settings.get("clean", "whitespace") not in CLEAN:
        raise CheckpointError(f"{folder} cleans texts by {settings['clean']!r}; there are: {', '.join(CLEAN)}.")
    return settings


def _changes_of_open_clip(path):
    config = read_json(path)
    with understanding(path):
        text = config["model_cfg"]["text_cfg"]
        keywords = {"tokenizer_mode": text.get("tokenizer_mode"), **(text.get("tokenizer_kwargs") or {})}
        named = bool(text.get("hf_tokenizer_name"))  # or it is CLIP's own, which cleans by itself
    for key in ("tokenizer_mode", "strip_sep_token", "language"):
        if keywords.pop(key, None):
            raise CheckpointError(f"{path}: text_cfg has a tokenizer with '{key}', for which mmfuse has no part.")
    return {"clean": "whitespace", **keywords} if named else {}


def _load(folder, settings, length):
    there = [folder / name for name in (PIECES, TOKENIZER, VOCABULARY) if (folder / name).exists()]
    path = there[0] if there else folder / TOKENIZER
    if path.name == PIECES:
        with understanding(path.with_name(SETTINGS)):
            return load_pieces(path, settings, length=length)
    bpe = _read(path)
    with understanding(path.with_name(SETTINGS)):
        word = as_word(settings["pad_token"])
        pad = bpe.token_to_id(word)
        if pad is None:
            raise CheckpointError(f"{path.with_name(SETTINGS)} pads with {word!r}, which is not in {path.name}.")
        bpe.enable_padding(length=length, pad_id=pad, pad_token=word, direction=_padding_side(settings, bpe))
        bpe.enable_truncation(length, direction=settings.get("truncation_side") or "right")
        bpe.encode_special_tokens = bool(settings.get("split_special_tokens"))
        if settings.get("tokenizer_class") in SIGLIP_2:
            then = [bpe.normalizer] if bpe.normalizer else []
            bpe.normalizer = normalizers.Sequence([normalizers.Lowercase(), *then])
    return Texts(bpe)


def _read(path):
    files = [path] if path.name == TOKENIZER else [path, path.with_name(MERGES)]
    for file in files:
        check_hash(file)
    try:
        if path.name == TOKENIZER:
            return tokenizers.Tokenizer.from_file(str(path))
        return _clip_bpe(*(str(file) for file in files))
    except Exception as error:  # the package raises plain Exception
        raise CheckpointError(f"{' and '.join(map(str, files))} cannot be read: {error}.") from error


def _clip_bpe(vocabulary, merges):
    """Lower case, single spaces, words and single digits, bytes, of which the last of a word is marked."""
    ending = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(vocabulary, merges, unk_token=CLIP_END, **ending))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(CLIP_WORDS, behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    begin, end = ((word, bpe.token_to_id(word)) for word in (CLIP_BEGIN, CLIP_END))
    bpe.add_special_tokens([CLIP_BEGIN, CLIP_END])
    bpe.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=False, add_prefix_space=False)
    return bpe


def _padding_side(settings, bpe):
    by_class = "left" if settings.get("tokenizer_class") in SIGLIP_2 else "right"
    return settings.get("padding_side") or (bpe.padding or {}).get("direction") or by_class
