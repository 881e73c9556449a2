"""Are the scores of captions those that one gets by hand, and those of dense matrices?"""

import itertools
import math

import numpy as np
import pytest

from mmfuse.evaluators.caption_scores import bleu_4, cider_d, split_words

OTHER = "p q r s"  # an example that shares no word with the first


def split(examples):
    """Words of `(candidate, references)`, single letters."""
    return [candidate.split() for candidate, _ in examples], [[r.split() for r in its] for _, its in examples]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog, 3 m HIGH!", ["a", "man", "s", "dog", "3", "m", "high"]),
        ("Straße über-quert", ["straße", "über", "quert"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा"]),  # vowels are marks upon letters
        ("개가 달린다", ["개가", "달린다"]),
        ("狗在跑。", ["狗", "在", "跑"]),
        ("「3匹の犬」 and ラーメン", ["3", "匹", "の", "犬", "and", "ラ", "ー", "メ", "ン"]),
        ("กขค ใจ", ["ก", "ข", "ค", "ใ", "จ"]),
        ("cafe\u0301", ["caf\u00e9"]),  # written with two characters, or with one
        ("\u30ab\u3099", ["\u30ac"]),
        ("!? …", []),
    ],
)
def test_words(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ([("a b c d", ["a b c d"])], 1),
        ([("a b c d", ["p q", "a b c d"])], 1),
        ([("a b c d e", ["a b c d f g"])], math.exp(-1 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ([("a b c d d d", ["a b c d"])], (4 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25),  # clipped at one d
        ([("a b c d d d", ["a b c d", "d d"])], (5 / 6 * 4 / 5 * 2 / 4 * 1 / 3) ** 0.25),  # the most of one reference
        ([("a b c d e", ["a b c d", "a b c d e f"])], 1),  # of two lengths as near, the shorter
        ([("a b c d e", ["a b c d e f g h i", "a b c d e f"])], math.exp(-1 / 5)),
        # of the whole corpus: counts are added up, and so are lengths
        ([("a b c d e", ["a b c d e"]), ("x y z", ["p q r"])], (5 / 8 * 4 / 6 * 3 / 4 * 2 / 2) ** 0.25),
        ([("a b c d e f", ["a b c d"]), ("p q r s", ["p q r s t u"])], (8 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** 0.25),
        ([("d c b a", ["a b c d"])], 0),  # the order counts
        ([("a b c", ["a b c"])], 0),  # has no 4-gram
        ([("", ["a b c d"])], 0),
    ],
)
def test_bleu_by_hand(examples, expected):
    assert bleu_4(*split(examples)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ([("a b c d", ["a b c d"]), (OTHER, [OTHER])], 10),
        ([("a b c d", [OTHER]), (OTHER, ["a b c d"])], 0),
        ([("", ["a b c d"]), (OTHER, [OTHER])], 5),
        ([("a b c", ["a b c"]), (OTHER, [OTHER])], (7.5 + 10) / 2),  # three words have no 4-gram
        ([("d c b a", ["a b c d"]), (OTHER, [OTHER])], (2.5 + 10) / 2),  # of all n-grams the words alone are right
        ([("a b c d", ["a b c d", "e f g h"]), (OTHER, [OTHER])], (5 + 10) / 2),  # the mean of its references
        ([("a b c d", ["a b c d", "a b c d"]), (OTHER, [OTHER])], 10),  # rare is what few examples have
        ([("b", ["a b"]), ("a", ["a c"])], 2.5 * math.exp(-1 / 72) / 2),  # what all examples have is worth nothing
        ([("b b b", ["b x"]), ("", [OTHER])], 2.5 * math.exp(-1 / 72) / (3 * math.sqrt(2)) / 2),  # clipped
        ([("a b c d", ["a b c d"])], 0),  # alone, all that it says is what all examples say
    ],
)
def test_cider_by_hand(examples, expected):
    assert cider_d(*split(examples)) == pytest.approx(expected)


def dense_cider(candidates, references, n):
    """CIDEr-D of one n, with a column for every n-gram that there could be."""
    letters = sorted({word for words in [*candidates, *itertools.chain(*references)] for word in words})
    columns = {gram: i for i, gram in enumerate(itertools.product(letters, repeat=n))}

    def counts(words):
        vector = np.zeros(len(columns))
        for gram in zip(*(words[i:] for i in range(n))):
            vector[columns[gram]] += 1
        return vector

    present = np.array([np.max([counts(words) for words in its], axis=0) > 0 for its in references])
    rarity = np.log(len(references)) - np.log(np.maximum(present.sum(axis=0), 1))
    scores = []
    for words, its in zip(candidates, references):
        c, r = counts(words) * rarity, np.array([counts(reference) for reference in its]) * rarity[None]
        norms = np.linalg.norm(c) * np.linalg.norm(r, axis=1)
        cosine = (np.minimum(c, r) * r).sum(axis=1) / np.where(norms > 0, norms, 1)
        apart = len(words) - np.array([len(reference) for reference in its])
        scores.append(np.mean(cosine * np.exp(-(apart**2) / 72)))
    return 10 * np.mean(scores)


def test_cider_is_that_of_dense_matrices():
    random = np.random.default_rng(0)

    def sentence():
        return random.choice(list("abcde"), random.integers(1, 14)).tolist()

    references = [[sentence() for _ in range(random.integers(1, 5))] for _ in range(23)]
    candidates = [its[0][:5] + sentence() for its in references]
    found = cider_d(candidates, references)
    expected = np.mean([dense_cider(candidates, references, n) for n in (1, 2, 3, 4)])
    assert found == pytest.approx(expected) and 1 < found < 9


def test_every_caption_has_its_references():
    for score in (bleu_4, cider_d):
        with pytest.raises(ValueError, match="shorter"):
            score([["a"], ["b"]], [[["a"]]])
