"""How does text become ids, and ids text?

Byte-level BPE: any Unicode text round-trips exactly, and no text is out of vocabulary. The ids of padding, begin and
end lie outside the BPE, so that no text can contain them: "<eos>" in a caption is five plain characters.

    ids   0 padding   1 begin   2 end   3 … 258 the bytes   259 … the merges, most frequent first

Reference: Sennrich, Haddow & Birch 2016, arXiv 1508.07909; on bytes: Radford et al. 2019 (GPT-2).
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, models, pre_tokenizers, trainers

from input_pipeline.sources.contract import Source, spread
from input_pipeline.transforms import BadRecord
from input_pipeline.transforms.text import clean_text, is_unicode
from mmfuse.types import BOS, EOS, PAD, ConfigError, DataError, Rejected

# Merges stay within these pieces. They are GPT-2's, but words keep their marks and joiners: there every vowel sign of
# Hindi cuts its word.
LETTERS = r"\p{L}\p{M}\u200c\u200d"
WORDS = rf"'(?:[sdmt]|ll|ve|re)| ?[{LETTERS}]+| ?\p{{N}}+| ?[^\s\p{{N}}{LETTERS}]+|\s+(?!\S)|\s+"

CONTROLS = len((PAD, BOS, EOS))
MIN_VOCAB_SIZE = CONTROLS + 256

FILE = "tokenizer.json"
HASH_FILE = FILE + ".sha256"  # as `sha256sum --check` reads it


@runtime_checkable
class CaptionTokenizer(Protocol):
    """What streams of captions need of a tokenizer, ours or a released model's.

    Attributes:
      vocab_size: the number of ids.
      sha256: equal hashes mean equal ids.
    """

    vocab_size: int
    sha256: str

    def encode_whole(self, text: str, length: int) -> list[int]:
        """Returns the ids of a text with its begin and end, cut to `length`."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes it into a folder."""
        ...


class Tokenizer:
    """A trained byte-level BPE.

    Attributes:
      vocab_size: the number of ids, with the three of control.
      sha256: of the file that `save` writes: equal hashes mean equal ids.
      definition: what that file holds.
    """

    def __init__(self, definition: str):
        self._bpe = tokenizers.Tokenizer.from_str(definition)
        self.definition = definition
        self.vocab_size = CONTROLS + self._bpe.get_vocab_size()
        self.sha256 = hashlib.sha256(definition.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without begin and end. BadRecord("lone surrogate") where it is no Unicode."""
        if not is_unicode(text):
            raise BadRecord("lone surrogate")
        return [id + CONTROLS for id in self._bpe.encode(text).ids]

    def encode_whole(self, text: str, length: int) -> list[int]:
        """Returns BOS, the ids of a text, and EOS, at most `length` of them. BadRecord as `encode`."""
        return [BOS, *self.encode(text)[: length - 2], EOS]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, "t"]) -> str:
        """Returns the text of ids; control ids and ids beyond the vocabulary are left out, broken UTF-8 becomes �."""
        return self._bpe.decode([int(id) - CONTROLS for id in ids if id >= CONTROLS], skip_special_tokens=False)

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` and its hash into a folder."""
        os.makedirs(folder, exist_ok=True)
        _write(Path(folder, FILE), self.definition)
        _write(Path(folder, HASH_FILE), f"{self.sha256}  {FILE}\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
          DataError: a file is missing, or the tokenizer is not the one that was saved.
        """
        path, hash_path = Path(folder, FILE), Path(folder, HASH_FILE)
        for file in (path, hash_path):
            if not file.is_file():
                raise DataError(f"{file} is missing: train the tokenizer, or copy {FILE} and {HASH_FILE} together.")
        content = path.read_bytes()
        if hash_path.read_text().split()[:1] != [hashlib.sha256(content).hexdigest()]:
            raise DataError(f"{path} is not the tokenizer that was saved ({HASH_FILE} says another hash): restore it.")
        return cls(content.decode())


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE: the same texts give the same tokenizer, in whatever order.

    Arguments:
      vocab_size: the most ids, with 3 of control and 256 bytes; texts with little variety give fewer.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(f"vocab_size is {vocab_size}: {CONTROLS} control ids and 256 bytes need {MIN_VOCAB_SIZE}.")
    bpe = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - CONTROLS,
        min_frequency=2,  # a pair seen once is better spelt
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return Tokenizer(bpe.to_str())


def source_texts(sources: Iterable[Source], limit: int) -> Iterator[str]:
    """Yields the captions, descriptions, questions and answers of `limit` examples of each source, evenly spread.

    Build the sources with `signals=()`, so that nothing but text is made or read. Bad records and bad texts are passed
    over: the stream counts them.
    """
    for source in sources:
        for example in spread(source, limit):
            if isinstance(example, Rejected):
                continue
            yield from _clean(caption.text for caption in example.captions)
            yield from _clean(text for question in example.questions for text in (question.text, question.answer))
            yield from _clean([example.description] if example.description else [])


def _clean(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            yield clean_text(text)
        except BadRecord:
            continue


def _write(path: Path, content: str) -> None:
    # Renamed when whole: another process that starts at the same time never reads half of it.
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(content.encode())
    os.replace(part, path)
