"""SigLIP's sentencepiece by hand, and what is refused. That ids are those of the reference is shown in tests/parity."""

import json

import numpy as np
import pytest
import sentencepiece

from mmfuse.types import CheckpointError
from mmfuse.weights.texts import load_texts
from tests import small_released

END, UNKNOWN = 1, 2


@pytest.fixture(scope="module")
def files():
    return small_released.pieces()


@pytest.fixture
def folder(files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def says(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def plain(folder, text):
    """The pieces of a text that needs no cleaning."""
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).encode(text)


def test_texts_are_lower_case_without_punctuation_and_end_before_the_padding(folder):
    ids, mask = load_texts(folder, length=40)(["  The DIGIT-four,\n written 'by'  hand! ", ""])
    words = plain(folder, "the digitfour written by hand")
    assert ids.tolist() == [[*words, END, *[END] * (39 - len(words))], [END] * 40]
    assert mask.sum(axis=1).tolist() == [len(words) + 1, 1]


def test_a_text_that_is_cut_has_its_end(folder):
    words = plain(folder, "a picture of the number four")
    spell = load_texts(folder, length=4)
    assert spell(["a picture of the number four"])[0].tolist() == [[*words[:3], END]]
    says(folder, truncation_side="left", padding_side="left", do_lower_case=False, pad_token={"content": "<pad>"})
    ids, mask = load_texts(folder, length=4)(["a picture of the number four", "F"])
    assert ids.tolist() == [[*words[-3:], END], [0, *load_texts(folder, length=3)(["F"])[0][0]]]
    assert mask.tolist() == [[1] * 4, [0, 1, 1, 1]] and UNKNOWN in ids[1]


def test_ids_are_counted(folder):
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert load_texts(folder, length=4).vocab_size == model.get_piece_size()


def test_pieces_come_before_another_form_of_them(folder):
    (folder / "tokenizer.json").write_text("{}")
    np.testing.assert_array_equal(load_texts(folder, length=3)([""])[0], [[END] * 3])


@pytest.mark.parametrize(
    "break_it, said",
    [
        (lambda folder: (folder / "spiece.model").write_bytes(b"no model"), "spiece.model cannot be read"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer_config.json is missing"),
        (lambda folder: says(folder, pad_token="[PAD]"), r"spiece.model has no piece '\[PAD\]', which the settings"),
        (lambda folder: says(folder, eos_token=7), "tokenizer_config.json cannot be understood"),
        (
            lambda folder: (folder / "spiece.model.sha256").write_text("0" * 64),
            "spiece.model is not the file that was written",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(folder, break_it, said):
    break_it(folder)
    with pytest.raises(CheckpointError, match=said):
        load_texts(folder, length=4)
