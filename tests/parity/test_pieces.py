"""Sentencepiece as SigLIP has it: the same ids as by its own tokenizer, whatever the text."""

import random

import numpy as np
import pytest
from transformers import AutoTokenizer, SiglipTokenizer

from mmfuse.weights.texts import load_texts
from tests.small_released import train_pieces

WORDS = (
    *("a", "photo", "of", "the", "toy", "cat,", "two", "DOGS;", "naïve", "café", "über", "den", "Fluß", "北京"),
    *("москва", "ελλάδα", "नमस्ते", "don't", "3.14", "e-mail"),
)
ODD = [
    "",
    " ",
    "\t\n",
    "!?",
    "_",
    "a",
    "A Photo of the TOY cat.",
    "  a   photo \t of\n\nthe toy  ",
    "don't, can't; e-mail@toy.cat #1 (50%)",
    "ＦＵＬＬ ｗｉｄｔｈ ① ﬁne ½ №",
    "e\u0301te\u0301 and \u0130stanbul Ａ\u0301 ẞ ǅ",
    "zero\u200bwidth \u00ad soft \ufeff mark \u00a0 hard\u3000wide \x85 \x1c",
    "▁a▁photo ▁ of",
    "👍🏽 👨\u200d👩\u200d👧 cat 🐈!",
    "the </s> toy",
    "</s>",
    "</s> a toy",
    "a toy </s>",
    "a </s></s> <unk> b <unk>",
    "</S> <pad> <s>",
    "the toy " * 40,
    "x" * 300,
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u1112\u1161\u11ab 한 \u0e33",
]


def odd_texts(number):
    """Texts drawn of words, pieces of the texts above, and any characters."""
    draw = random.Random(0)
    parts = [*WORDS, *ODD[4:-3], "</s>", "<unk>", " ", "▁", "\n"]
    letters = [chr(code) for code in range(1, 0x3100) if not 0xD800 <= code < 0xE000] + ["𝔸", "𐍈", "🎉"]
    texts = []
    for _ in range(number):
        words = [draw.choice(parts) if draw.random() < 0.7 else "".join(draw.choices(letters, k=3)) for _ in range(6)]
        texts.append(draw.choice(["", " "]).join(words))
    return texts


pytestmark = pytest.mark.filterwarnings("ignore:This sequence already has")


@pytest.fixture(scope="module", params=["unigram", "bpe", "bytes"])
def model(request):
    """A tiny model with the ids of the released one."""
    return train_pieces(
        [" ".join(WORDS), "a photo of the toy cat", "two toy cats of the photo"] * 20,
        vocab_size=390 if request.param == "bytes" else 110,
        model_type="bpe" if request.param == "bpe" else "unigram",
        byte_fallback=request.param == "bytes",
    )


@pytest.mark.parametrize(
    "length, settings",
    [(64, {}), (7, {}), (1, {}), (16, {"do_lower_case": False, "pad_token": "<pad>"}), (9, {"padding_side": "left"})],
)
def test_ids_are_those_of_the_reference(model, tmp_path, length, settings):
    (tmp_path / "given.model").write_bytes(model)
    tokenizer = SiglipTokenizer(str(tmp_path / "given.model"), **settings)
    tokenizer.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"spiece.model", "tokenizer_config.json"}
    spell = load_texts(tmp_path, length=length)
    for text in [*ODD, *odd_texts(100)]:
        theirs = tokenizer(text, padding="max_length", truncation=True, max_length=length)
        ids, mask = spell([text])
        assert ids[0].tolist() == theirs["input_ids"], repr(text)
        assert mask[0].tolist() == theirs["attention_mask"], repr(text)


def test_a_folder_is_read_as_transformers_finds_its_tokenizer(model, tmp_path):
    (tmp_path / "spiece.model").write_bytes(model)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer", "model_max_length": 16}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)(ODD, padding="max_length", truncation=True, return_tensors="np")
    ids, mask = load_texts(tmp_path, length=16)(ODD)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, theirs["attention_mask"])
