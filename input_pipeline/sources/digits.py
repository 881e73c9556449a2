"""What are real pictures with captions in many languages, with nothing to download?

The 1,797 handwritten digits that scikit-learn ships, 8×8 pixels each, with captions in sixteen languages and nine
scripts, and three questions. One class is held out: none of its samples are in `train`, `validation` or `test`, which
share the others class by class in the proportions 70 : 15 : 15, and all of them are in `test_unseen`.

Reference: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI machine learning repository.
"""

import functools
import operator
from collections.abc import Sequence
from importlib.metadata import distribution
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64, UInt8

from mmfuse.types import Caption, ConfigError, Example, Question

SPLITS = ("train", "validation", "test", "test_unseen")
SIGNALS = ("image",)
CUTS = (0.70, 0.85)  # of each class, where train and validation end

# Language → the names of 0 … 9, and sentences in which a name can stand as it is.
CAPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ar": (
        "صفر واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة",
        ("الرقم {} مكتوب بخط اليد", "الرقم {} بخط اليد", "هذا هو الرقم {}"),
    ),
    "de": (
        "null eins zwei drei vier fünf sechs sieben acht neun",
        ("die handgeschriebene Ziffer {}", "die Ziffer {}, von Hand geschrieben", "ein Bild der Zahl {}"),
    ),
    "el": (
        "μηδέν ένα δύο τρία τέσσερα πέντε έξι επτά οκτώ εννέα",
        ("το χειρόγραφο ψηφίο {}", "το ψηφίο {}, γραμμένο με το χέρι", "μια εικόνα του αριθμού {}"),
    ),
    "en": (
        "zero one two three four five six seven eight nine",
        ("the handwritten digit {}", "the digit {}, written by hand", "a picture of the number {}"),
    ),
    "es": (
        "cero uno dos tres cuatro cinco seis siete ocho nueve",
        ("el dígito {} escrito a mano", "el número {}, manuscrito", "una imagen del número {}"),
    ),
    "fr": (
        "zéro un deux trois quatre cinq six sept huit neuf",
        ("le chiffre {} écrit à la main", "le chiffre manuscrit {}", "une image du chiffre {}"),
    ),
    "hi": (
        "शून्य एक दो तीन चार पाँच छह सात आठ नौ",
        ("हाथ से लिखा अंक {}", "हाथ से लिखी संख्या {}", "अंक {} का चित्र"),
    ),
    "it": (
        "zero uno due tre quattro cinque sei sette otto nove",
        ("la cifra {} scritta a mano", "il numero {}, scritto a mano", "un'immagine del numero {}"),
    ),
    "ja": (
        "ゼロ 一 二 三 四 五 六 七 八 九",
        ("手書きの数字の{}", "手で書かれた数字「{}」", "数字の{}の画像"),
    ),
    "ko": (
        "영 일 이 삼 사 오 육 칠 팔 구",
        ("손으로 쓴 숫자 {}", "손글씨 숫자 {}", "숫자 {}의 이미지"),
    ),
    "nl": (
        "nul één twee drie vier vijf zes zeven acht negen",
        ("het handgeschreven cijfer {}", "het cijfer {}, met de hand geschreven", "een afbeelding van het getal {}"),
    ),
    "pl": (
        "zero jeden dwa trzy cztery pięć sześć siedem osiem dziewięć",
        ("odręcznie napisana cyfra {}", "cyfra {} napisana ręcznie", "obraz cyfry {}"),
    ),
    "pt": (
        "zero um dois três quatro cinco seis sete oito nove",
        ("o dígito {} escrito à mão", "o número {}, manuscrito", "uma imagem do número {}"),
    ),
    "ru": (
        "ноль один два три четыре пять шесть семь восемь девять",
        ("рукописная цифра {}", "цифра {}, написанная от руки", "изображение цифры {}"),
    ),
    "tr": (
        "sıfır bir iki üç dört beş altı yedi sekiz dokuz",
        ("el yazısıyla yazılmış {} rakamı", "elle yazılmış {} rakamı", "{} rakamının bir görüntüsü"),
    ),
    "zh": (
        "零 一 二 三 四 五 六 七 八 九",
        ("手写的数字{}", "用手写下的数字{}", "一张数字{}的图片"),
    ),
}


class Digits:
    """A source of handwritten digits. Concept: the class, such as "digits/3"; key: the row in scikit-learn's table.

    Arguments:
      split: train, validation, test or test_unseen. Which sample is in which depends on `held_out` alone.
      signals: the modalities to give, of those that there are: "image" alone. Without it there are texts only.
      held_out: the class that only test_unseen has.
      seed: draws the sentence of each caption.

    Raises:
      ConfigError: an unknown split, or a `held_out` that is no digit.
    """

    def __init__(self, split: str, *, signals: Sequence[str] = SIGNALS, held_out: int = 7, seed: int = 0):
        if split not in SPLITS:
            raise ConfigError(f"digits have no split {split!r}: choose from {', '.join(SPLITS)}.")
        if held_out not in range(10):
            raise ConfigError(f"held_out is {held_out}: choose a digit, 0 to 9.")
        images, self._labels = _load_digits()
        self._images = images if "image" in signals else None
        self._rows = split_rows(self._labels, split, held_out)
        self._stream = (seed, SPLITS.index(split))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Returns example `index`: an image (8 8 3) uint8, a caption in each language, three questions."""
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        row = int(self._rows[index])
        digit = int(self._labels[row])
        return Example(
            key=f"load_digits/{row}",
            concept=f"digits/{digit}",
            signals={} if self._images is None else {"image": self._images[row]},
            captions=caption_digit(digit, np.random.default_rng((*self._stream, index))),
            questions=ask_digit(digit),
            truth={"digit": digit},
        )


def split_rows(labels: Int64[np.ndarray, "n"], split: str, held_out: int) -> Int64[np.ndarray, "r"]:
    """The rows of one split: every class but `held_out` is shuffled, always in the same way, and cut in three."""
    if split == "test_unseen":
        return np.flatnonzero(labels == held_out)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    parts = []
    for digit in sorted(set(range(10)) - {held_out}):
        rows = shuffled[labels[shuffled] == digit]
        ends = [round(cut * len(rows)) for cut in CUTS]
        parts.append(np.split(rows, ends)[SPLITS.index(split)])
    return np.sort(np.concatenate(parts))


def caption_digit(digit: int, generator: np.random.Generator) -> tuple[Caption, ...]:
    """One caption in each language, its sentence drawn."""
    return tuple(
        Caption(frames[generator.integers(len(frames))].format(names.split()[digit]), language)
        for language, (names, frames) in CAPTIONS.items()
    )


def ask_digit(digit: int) -> tuple[Question, ...]:
    return (
        Question("which digit is this?", CAPTIONS["en"][0].split()[digit], "digit"),
        Question("is this digit even or odd?", "odd" if digit % 2 else "even", "parity"),
        Question("is this digit larger than four?", "yes" if digit > 4 else "no", "comparison"),
    )


@functools.cache
def _load_digits() -> tuple[UInt8[np.ndarray, "n 8 8 3"], Int64[np.ndarray, "n"]]:
    # the table is read as the file that it is: importing sklearn.datasets takes over a second
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",", dtype=np.int64)
    grey = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    images.setflags(write=False)  # examples are views
    return images, table[:, -1]
