"""How does a run use the tokenizer of a released model, and other libraries that of a run?

A released one is kept as it is: its files are those of its folder. Of ours, which has no such files, they are made: the
same ids, cleaning, begin and end, in the words of the `tokenizers` library.
"""

import functools
import hashlib
import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, normalizers, processors

from input_pipeline.tokenizers import CaptionTokenizer, Tokenizer
from mmfuse.types import BOS, EOS, PAD, CheckpointError
from mmfuse.weights.preprocessing import OPEN_CLIP
from mmfuse.weights.tensors import as_json, write_files
from mmfuse.weights.texts import MERGES, PIECES, SETTINGS, TOKENIZER, VOCABULARY, load_settings, load_texts

FILES = (TOKENIZER, SETTINGS, VOCABULARY, MERGES, PIECES, "special_tokens_map.json", "added_tokens.json")
WORDS = {PAD: "<pad>", BOS: "<bos>", EOS: "<eos>"}  # of our control ids
WHITE = Regex(r"[\s\x1c-\x1f]+")  # what `str.split` splits at
LEAST_LENGTH = 3


class ReleasedTokenizer:
    """The tokenizer of a folder. Of its texts every place is read, padding too: its model was trained so.

    Attributes:
      vocab_size: the number of ids.
      sha256: of its files.
      clean: how texts are cleaned before, a key of `CLEAN`; None: by the tokenizer itself.
    """

    def __init__(self, folder: str | Path, *, most: int | None = None):
        """Reads a folder; `most` is how many ids its model knows.

        Raises:
          CheckpointError: a file is missing, or cannot be read; or there are more ids.
        """
        self._at_length = functools.cache(functools.partial(_load, Path(folder)))
        self.files = {name: (Path(folder) / name).read_bytes() for name in FILES if (Path(folder) / name).is_file()}
        settings = load_settings(Path(folder))
        self.clean = settings.get("clean")
        if (Path(folder) / OPEN_CLIP).is_file():  # which stays behind, and has a say in this
            self.files[SETTINGS] = as_json(settings)
        self.vocab_size = self._at_length(LEAST_LENGTH).vocab_size
        if most is not None and self.vocab_size > most:
            raise CheckpointError(f"the tokenizer in {folder} has {self.vocab_size} ids, and the model knows {most}.")
        hashes = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in self.files.items()]
        self.sha256 = hashlib.sha256("".join(hashes).encode()).hexdigest()

    def encode_whole(self, text: str, length: int) -> list[int]:
        """Returns the `length` ids of a text, its begin, end and padding among them."""
        ids, _ = self._at_length(length)([text])
        return ids[0].tolist()

    def save(self, folder: str | Path) -> None:
        """Writes its files, each with its hash."""
        write_files(Path(folder), self.files)


def released_files(tokenizer: CaptionTokenizer, length: int) -> dict[str, bytes]:
    """What other libraries read a tokenizer from, name → content; `length` is how many places its model has."""
    if isinstance(tokenizer, ReleasedTokenizer):
        return tokenizer.files
    assert isinstance(tokenizer, Tokenizer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": WORDS[BOS],
        "eos_token": WORDS[EOS],
        "pad_token": WORDS[PAD],
        "model_max_length": length,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": True,  # "<eos>" in a text is five characters
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return {TOKENIZER: _definition(tokenizer, length).encode(), SETTINGS: as_json(settings)}


def _definition(tokenizer, length):
    """Our BPE with its control ids, what `clean_text` does before, and begin and end."""
    ours = json.loads(tokenizer.definition)
    model = ours["model"]
    shifted = {piece: id + len(WORDS) for piece, id in model["vocab"].items()}
    model["vocab"] = {word: id for id, word in WORDS.items()} | shifted
    bpe = tokenizers.Tokenizer.from_str(json.dumps(ours))
    bpe.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in WORDS.values()])
    bpe.normalizer = normalizers.Sequence([normalizers.Replace(WHITE, " "), normalizers.Strip(), normalizers.NFC()])
    around = [(WORDS[id], id) for id in (BOS, EOS)]
    bpe.post_processor = processors.TemplateProcessing(f"{WORDS[BOS]} $A {WORDS[EOS]}", special_tokens=around)
    bpe.enable_truncation(length)
    bpe.enable_padding(length=length, pad_id=PAD, pad_token=WORDS[PAD])
    return bpe.to_str(pretty=True)


def _load(folder, length):
    return load_texts(folder, length=length)
