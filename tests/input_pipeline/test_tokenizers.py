"""Does every text survive the tokenizer, and is the tokenizer always the same?"""

import hashlib
import random
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from input_pipeline.sources.digits import CAPTIONS, Digits
from input_pipeline.tokenizers import WORDS, Tokenizer, source_texts, train_tokenizer
from input_pipeline.transforms import BadRecord
from mmfuse.types import BOS, EOS, PAD, Caption, ConfigError, DataError, Example, Question, Rejected

TEXTS = list(source_texts([Digits("validation", signals=())], 61))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=601)


@settings(max_examples=300)
@given(text=st.text(st.characters(blacklist_categories=("Cs",))))
def test_any_unicode_round_trips(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(EOS < id < tokenizer.vocab_size for id in ids)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "  a  ", "\0\x01\x7f\x85", "a\r\nb\n\n", "<eos> <s>[PAD]", "\u0120Ġ"),
        *("\u2028\ufeff\ufffe\uffff", "e\u0301 é", "👩‍👩‍👧 🏴\U000e0067", "שלום \u202eמ", "\U0010ffff"),
    ],
)
def test_odd_texts_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_lone_surrogate_is_a_bad_record(tokenizer):
    with pytest.raises(BadRecord, match="lone surrogate"):
        tokenizer.encode("a\ud83d")


def test_control_ids_are_out_of_reach_of_text(tokenizer):
    assert (PAD, BOS, EOS) == (0, 1, 2)
    ids = tokenizer.encode("<eos>")
    assert len(ids) > 1 and min(ids) > EOS
    assert tokenizer.decode([BOS, *ids, EOS, PAD, PAD]) == "<eos>"
    assert tokenizer.decode(np.array([*ids, 10_000, -1], np.int32)) == "<eos>"


def test_bytes_come_first_and_merges_shorten(tokenizer):
    untrained = train_tokenizer([], vocab_size=259)
    assert untrained.vocab_size == 259 and tokenizer.vocab_size == 601
    assert {id for byte in range(128) for id in untrained.encode(chr(byte))} < set(range(3, 259))
    assert untrained.encode("Ziffer") == tokenizer.encode("Z") + tokenizer.encode("i") + untrained.encode("ffer")
    assert len(untrained.encode("手写")) == 6
    length = sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert length < 0.35 * sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("word", ["हिन्दी", "தமிழ்", "ภาษาไทย", "می\u200cروم", "naïve"])
def test_a_word_with_marks_can_become_one_token(word):
    tokenizer = train_tokenizer([f"{word} {word}"] * 3, vocab_size=400)
    assert len(tokenizer.encode(word)) == 1 and len(tokenizer.encode(f"{word} {word}")) == 2


def test_words_of_english_are_cut_as_gpt_2_cuts_them():
    text = "It's 24 o'clock,  we'll go... \n\n (don't) x²+y=10  "
    ours, theirs = Regex(WORDS), pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = pre_tokenizers.Split(ours, behavior="isolated").pre_tokenize_str(text)
    assert [span for _, span in cut] == [span for _, span in theirs.pre_tokenize_str(text)]


def test_same_texts_same_tokenizer_in_any_order(tokenizer):
    assert train_tokenizer(random.Random(1).sample(TEXTS, len(TEXTS)), vocab_size=601).sha256 == tokenizer.sha256
    assert train_tokenizer(TEXTS[:100], vocab_size=601).sha256 != tokenizer.sha256


def test_vocabulary_without_room():
    with pytest.raises(ConfigError, match="vocab_size is 258: 3 control ids and 256 bytes need 259"):
        train_tokenizer(TEXTS, vocab_size=258)


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "run")
    loaded = Tokenizer.load(tmp_path / "run")
    assert (loaded.sha256, loaded.vocab_size) == (tokenizer.sha256, tokenizer.vocab_size)
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    content = (tmp_path / "run" / "tokenizer.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == tokenizer.sha256
    check = ["sha256sum", "--check", "tokenizer.json.sha256"]
    assert subprocess.run(check, cwd=tmp_path / "run", capture_output=True).returncode == 0
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_a_changed_tokenizer_is_not_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b'"a":', b'"a" :', 1))
    with pytest.raises(DataError, match=r"tokenizer\.json is not the tokenizer that was saved"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json.sha256").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json\.sha256 is missing: train"):
        Tokenizer.load(tmp_path)


class Spread(list):
    """A source of ten records, every third of them bad."""

    def __init__(self):
        super().__init__(Rejected("bad", str(i)) if i % 3 == 1 else self.example(i) for i in range(10))

    def example(self, i):
        questions = (Question(f"q{i}", f"a{i}", "kind"),)
        return Example(str(i), str(i), {}, (Caption(f" c{i} "), Caption("\ud800"), Caption("")), questions, f"d{i}")


def test_source_texts_are_spread_and_clean():
    texts = list(source_texts([Spread()], 3))
    records = [int(text[1:]) for text in texts[::4]]
    assert texts == [f"{kind}{record}" for record in records for kind in "cqad"]
    thirds = [(record >= 3) + (record >= 6) for record in records]
    assert len(records) > 1 and thirds == sorted(set(thirds))  # one of each, where that is not bad
    assert len(list(source_texts([Spread(), Spread()], 99))) == 2 * 7 * 4
    assert list(source_texts([Spread()], 0)) == []


def test_texts_of_digits_hold_every_language():
    texts = " ".join(TEXTS)
    assert all(names.split()[0] in texts for names, _ in CAPTIONS.values())
