"""How near are written captions to those of people?

Two scores of a whole set, over n-grams of words, n = 1 … 4. BLEU-4 asks how many of the n-grams stand in a reference;
CIDEr-D weighs them, so that what is said of few examples counts more than what is said of all. Which words there are is
decided by `split_words`, which is not the Penn Treebank tokenizer of the COCO server: numbers differ a little from
those that were made with it.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0  # words by which lengths may differ, in CIDEr-D
# Thai and Lao, Burmese, Khmer, Chinese and Japanese; Korean has spaces
WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)

Words = Sequence[str]


def split_words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and the marks upon them; punctuation is left out.

    Letters are composed (NFC), as in the texts that a model learns from. Scripts that are written without spaces are
    split into their characters. Python's `\\w+` leaves out combining marks, which would cut words of Hindi or Tamil at
    their vowels.
    """
    spaced = WITHOUT_SPACES.sub(r" \g<0> ", unicodedata.normalize("NFC", text).lower())
    kept = (
        character if character.isalnum() or unicodedata.category(character).startswith("M") else " "
        for character in spaced
    )
    return "".join(kept).split()


def bleu_4(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """BLEU of a corpus, without smoothing.

        BLEU = min(1, exp(1 − r / c)) · (p₁ p₂ p₃ p₄)^¼

    pₙ is the share of all n-grams of candidates that stand in a reference of their example, each counted no more often
    than the reference that has it most often; c words are in all candidates, r in the references nearest to each in
    length, the shorter of two that are as near.

    Args:
      candidates: words of one caption for each example.
      references: words of at least one true caption for each.

    Returns:
      0 … 1; 0 where no 4-gram is right.

    Source: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation".
    """
    right, written = Counter(), Counter()
    length = nearest = 0
    for candidate, its in zip(candidates, references, strict=True):
        length += len(candidate)
        nearest += min(map(len, its), key=lambda size: (abs(size - len(candidate)), size))
        for n in ORDERS:
            grams, allowed = _ngrams(candidate, n), reduce(or_, (_ngrams(reference, n) for reference in its))
            right[n] += (grams & allowed).total()
            written[n] += grams.total()
    if not all(right[n] for n in ORDERS):
        return 0.0
    precision = sum(math.log(right[n] / written[n]) for n in ORDERS) / len(ORDERS)
    return math.exp(min(0.0, 1 - nearest / length) + precision)


def cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """CIDEr-D, the mean over examples, over the references of each, and over n of

        10 · exp(−(|c| − |r|)² / 2σ²) · Σ_g min(c_g, r_g) r_g / (‖c‖ ‖r‖)

    c_g and r_g are how often the n-gram g stands in the candidate and in the reference, times log(N / how many of the N
    examples have g in a reference). As in the authors' program, counts are not divided by the length of the caption.

    Args:
      candidates: words of one caption for each example.
      references: words of at least one true caption for each.

    Returns:
      0 … 10. It is 0 for a single example, whose n-grams stand in all examples; and captions shorter than four words
      have no 4-grams, so that they cannot reach 10.

    Source: Vedantam, Zitnick & Parikh 2015, arXiv 1411.5726, sections 3 and 7.
    """
    return _mean(each_cider_d(candidates, references))


def each_cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each example, 0 … 10; see `cider_d`, which is their mean."""
    return [10 * _mean(orders) for orders in zip(*(_similarities(candidates, references, n) for n in ORDERS))]


def _similarities(candidates, references, n):
    examples_with = Counter(
        gram for its in references for gram in reduce(or_, (_ngrams(reference, n) for reference in its))
    )

    def weigh(words):
        return {
            gram: count * math.log(len(references) / max(1, examples_with[gram]))
            for gram, count in _ngrams(words, n).items()
        }

    scores = []
    for candidate, its in zip(candidates, references, strict=True):
        weights = weigh(candidate)
        near = [math.exp(-((len(candidate) - len(reference)) ** 2) / (2 * SIGMA**2)) for reference in its]
        scores.append(_mean([factor * _cosine(weights, weigh(reference)) for factor, reference in zip(near, its)]))
    return scores


def _cosine(candidate: Mapping[tuple, float], reference: Mapping[tuple, float]) -> float:
    """Of two weightings, the candidate's clipped; 0 where one of them is nothing."""
    norms = math.hypot(*candidate.values()) * math.hypot(*reference.values())
    product = sum(min(candidate[gram], reference[gram]) * reference[gram] for gram in candidate if gram in reference)
    return product / norms if norms else 0.0


def _ngrams(words: Words, n: int) -> Counter:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
