"""Our tokenizer as other libraries read it, and theirs as a run keeps it."""

import json

import numpy as np
import pytest

from input_pipeline.texts import encode
from input_pipeline.tokenizers import train_tokenizer
from mmfuse.types import Caption, CheckpointError
from mmfuse.weights.tensors import write_files
from mmfuse.weights.texts import load_texts
from mmfuse.weights.tokenizer import ReleasedTokenizer, released_files
from tests import small_released

TEXTS = [
    "the handwritten digit four",
    "  A  Digit,\twritten\nby hand!  ",
    "<eos> <bos><pad> is text",
    "don't 3.14 naïve cafe\u0301 北京 नमस्ते 👍🏽",
    "tabs\x1cand\x85spaces\u3000of\u2028all kinds",
    "the digit " * 30,
    "x",
]


@pytest.fixture(scope="module")
def ours():
    return train_tokenizer(small_released.SENTENCES, vocab_size=303)


@pytest.mark.parametrize("length", [3, 11, 64])
def test_ids_of_ours_are_those_that_streams_use(ours, tmp_path, length):
    write_files(tmp_path, released_files(ours, length))
    ids, mask = load_texts(tmp_path, length=length)(TEXTS)
    for row, text in enumerate(TEXTS):
        expected = encode(Caption(text), "caption", length, ours).ids
        assert ids[row].tolist() == [*expected, *[0] * (length - len(expected))], repr(text)
        assert mask[row].sum() == len(expected)
    assert load_texts(tmp_path, length=length).vocab_size == ours.vocab_size
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == length and settings["pad_token"] == "<pad>"
    assert {path.name for path in tmp_path.glob("*.sha256")} == {
        "tokenizer.json.sha256",
        "tokenizer_config.json.sha256",
    }


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "released", small_released.pieces())
    return tmp_path / "released"


def test_a_released_one_fills_every_place_of_a_caption(folder):
    tokenizer = ReleasedTokenizer(folder)
    for length in (16, 4):
        ids, _ = load_texts(folder, length=length)(["The digit four!"])
        encoded = encode(Caption("The digit four!"), "caption", length, tokenizer)
        np.testing.assert_array_equal(encoded.ids, ids[0])
        assert not encoded.weight.any()


def test_a_released_one_is_kept_as_it_is(folder, tmp_path):
    tokenizer = ReleasedTokenizer(folder, most=90)
    tokenizer.save(tmp_path / "kept")
    kept = ReleasedTokenizer(tmp_path / "kept")
    assert kept.sha256 == tokenizer.sha256 and kept.files == tokenizer.files == released_files(kept, 5)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {path.name for path in folder.iterdir()}
    (tmp_path / "kept" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not the file that was written"):
        ReleasedTokenizer(tmp_path / "kept")
    (folder / "tokenizer_config.json").write_text('{"padding_side": "left"}')
    (folder / "tokenizer_config.json.sha256").unlink()
    assert ReleasedTokenizer(folder).sha256 != tokenizer.sha256


def test_one_with_more_ids_than_its_model_knows_is_refused(folder):
    most = ReleasedTokenizer(folder).vocab_size
    assert ReleasedTokenizer(folder, most=most)
    with pytest.raises(CheckpointError, match=f"has {most} ids, and the model knows {most - 1}"):
        ReleasedTokenizer(folder, most=most - 1)


def of_open_clip(folder, **text):
    """The folder with a config of open_clip that says this of its texts."""
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
    return folder


def test_a_folder_of_open_clip_says_how_texts_are_cleaned_before(ours, tmp_path):
    write_files(tmp_path / "released", released_files(ours, 16))
    texts = ["The_Digit, four </s>!", "the digit four s"]
    plain = load_texts(tmp_path / "released", length=16)(texts)[0].tolist()
    folder = of_open_clip(tmp_path / "released", tokenizer_kwargs={"clean": "canonicalize"})
    assert load_texts(folder, length=16)(texts)[0].tolist() == plain  # of CLIP's own tokenizer, which cleans by itself
    of_open_clip(folder, hf_tokenizer_name="any", tokenizer_kwargs={"clean": "canonicalize", "padding_side": "left"})
    ids = load_texts(folder, length=16)(texts)[0].tolist()
    assert ids[0] == ids[1] != plain[1] and ids[1] == plain[1][-plain[1].count(0) :] + plain[1][: -plain[1].count(0)]
    ReleasedTokenizer(folder).save(tmp_path / "kept")
    assert load_texts(tmp_path / "kept", length=16)(texts)[0].tolist() == ids
    assert ReleasedTokenizer(tmp_path / "kept").sha256 == ReleasedTokenizer(folder).sha256
    assert ReleasedTokenizer(folder).clean == "canonicalize"
    of_open_clip(folder, hf_tokenizer_name="any")
    assert ReleasedTokenizer(folder).clean == "whitespace"


@pytest.mark.parametrize(
    "text, said",
    [
        ({"tokenizer_mode": "clips"}, "text_cfg has a tokenizer with 'tokenizer_mode'"),
        ({"tokenizer_kwargs": {"strip_sep_token": True}}, "text_cfg has a tokenizer with 'strip_sep_token'"),
        ({"tokenizer_kwargs": {"clean": "wash"}}, "cleans texts by 'wash'; there are: whitespace, lower, canonicalize"),
    ],
)
def test_what_open_clip_does_besides_is_refused(folder, text, said):
    with pytest.raises(CheckpointError, match=said):
        load_texts(of_open_clip(folder, hf_tokenizer_name="any", **text), length=16)
