"""What did the model write, and where did it look for each word?

The first batch of an evaluator of generated text, as plain data for `examples.json` and the page that is made of it:

    {"examples": how many, "shown": [card], "worst": [card], "pointing": {map: {"hits", "chance", "games"}}}
    card = {"key", "memories": {name: {"picture", "sound"?}}, "gates": {name: {"open", "probability"}}, "texts": [text]}
    text = {"prompt", "expected", "right", "probability", "boxes", "words": [word]}
    word = {"text", "probability", "looks": {name: [{"share", "grid"?, "heat"?} by map]}}

The worst texts are wrong answers that the model was sure of, and captions that are least like the true ones.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from input_pipeline.collate import Loaded
from input_pipeline.sources.contract import Source
from input_pipeline.texts import Piece, prompt_of
from input_pipeline.tokenizers import Tokenizer
from mmfuse.analysis import pictures
from mmfuse.analysis.pointing import Box, Pointed, point, score
from mmfuse.analysis.reading import Reading
from mmfuse.evaluators.answering import one_spaced
from mmfuse.evaluators.caption_scores import WITHOUT_SPACES, each_cider_d
from mmfuse.evaluators.caption_scores import split_words as words_of
from mmfuse.evaluators.damage import damage_of
from mmfuse.inference.generate import Generated
from mmfuse.types import EOS, MODALITIES, PAD, Caption, Example, Question, Rejected

SHOWN, WORST = 6, 6  # cards
# What stands between spaces; of scripts that are written without them, a character.
WORD = re.compile(rf"{WITHOUT_SPACES.pattern}|(?:(?!{WITHOUT_SPACES.pattern})\S)+")


def show_answers(
    loaded: Loaded, written: Generated, read: Reading, source: Source, tokenizer: Tokenizer
) -> dict[str, Any]:
    """What was written for a batch, as plain data.

    Args:
      loaded: a batch with texts of the role `prompt`.
      written: what an evaluator had the model write.
      read: where the model looked for it.
      source: where the records come from, with their truth.
      tokenizer: reads what was written.
    """
    # a model that has diverged has a page too
    written = written._replace(log_prob=np.nan_to_num(written.log_prob, nan=-np.inf))
    read = read._replace(heat={name: np.nan_to_num(part) for name, part in read.heat.items()})
    maps = len(next(iter(read.heat.values())))
    cards, games = [], [[] for _ in range(maps)]
    for row, example in _rows(loaded, source):
        texts = []
        for place, piece in enumerate(loaded.pieces[row].get("prompt", ())):
            text = _text(written, read, row, place, tokenizer)
            said = tokenizer.decode(written.ids[row, place])
            text |= _judged(said, piece, loaded.pieces[row].get("target", ()))
            text["boxes"] = true_boxes(piece, example)
            texts.append(text)
            for played, pointed in zip(games, _play(read, row, place, text["boxes"])):
                played.append(pointed)
        gates = {
            name: {"open": bool(opened[row]), "probability": float(np.nan_to_num(soft[row]))}
            for name, (opened, soft) in read.decided.items()
        }
        memories = _memories(loaded, read, row)
        cards.append({"key": example.key, "memories": memories, "gates": gates, "texts": texts})
    names = [f"layer {number}" for number in range(1, maps)] + ["rollout"]
    return {
        "examples": len(cards),
        "shown": cards[:SHOWN],
        "worst": [{**card, "texts": [text]} for card, text in _worst(cards)[:WORST]],
        "pointing": {name: score(played) for name, played in zip(names, games)},
    }


def _worst(cards):
    """Each a card and one of its texts, the worst first: of answers where there are any, and else of captions."""
    texts = [(card, text) for card in cards for text in card["texts"]]
    wrong = [(card, text) for card, text in texts if text["right"] is False]
    if wrong or any(text["right"] for _, text in texts):
        return sorted(wrong, key=lambda pair: -pair[1]["probability"])
    said = [words_of(" ".join(word["text"] for word in text["words"])) for _, text in texts]
    likeness = each_cider_d(said, [[words_of(caption) for caption in text["expected"]] for _, text in texts])
    return [texts[index] for index in np.argsort(likeness, kind="stable")]


def true_boxes(piece: Piece, example: Example) -> list[Box]:
    """Where the things stand that a question is about, if the record knows: not in a picture of another scene."""
    objects, image = example.truth.get("objects", ()), example.signals.get("image")
    other = damage_of(example, "image")[0] in ("swap", "alter")
    if other or not isinstance(piece, Question) or not isinstance(image, np.ndarray):
        return []
    height, width = image.shape[:2]
    boxes = [objects[index].box for index in piece.about]
    return [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in boxes]


def split_words(ids: Int[np.ndarray, "t"], tokenizer: Tokenizer) -> list[tuple[str, slice]]:
    """The words of a text, and the tokens with which each of them is written; EOS is part of none."""
    places = np.flatnonzero(ids > EOS)
    ends = [len(tokenizer.decode(ids[: place + 1])) for place in places]
    # a token that only completes a character stands where that character does
    spans = [(min(start, end - 1), end) for start, end in zip([0, *ends[:-1]], ends)]
    words = []
    for word in WORD.finditer(tokenizer.decode(ids)):
        at = [index for index, (start, end) in enumerate(spans) if start < word.end() and end > word.start()]
        words.append((word.group(), slice(places[at[0]], places[at[-1]] + 1)))
    return words


def _rows(loaded, source) -> Iterator[tuple[int, Example]]:
    for row in np.flatnonzero(loaded.batch.valid):
        example = source[int(loaded.batch.origin[row, 1])]
        if not isinstance(example, Rejected):
            yield int(row), example


def _text(written, read, row, place, tokenizer) -> dict[str, Any]:
    ids, probability = written.ids[row, place], np.exp(written.log_prob[row, place])
    number = int((ids != PAD).sum())
    words = [
        {
            "text": word,
            "probability": float(probability[at].prod()),
            "looks": {
                name: [_look(read, name, row, one) for one in _heat(read, name, row, place, at)] for name in read.heat
            },
        }
        for word, at in split_words(ids[:number], tokenizer)
    ]
    return {"probability": float(probability[:number].prod()), "words": words}


def _judged(said, piece, targets) -> dict[str, Any]:
    """What was asked, what should have been written, and whether it was; a caption is not simply right or wrong."""
    if isinstance(piece, Caption):
        same = [target.text for target in targets if target.language == piece.language]
        return {"prompt": prompt_of(piece), "expected": same or [piece.text], "right": None}
    right = one_spaced(said) == one_spaced(piece.answer)
    return {"prompt": prompt_of(piece), "expected": [piece.answer], "right": right}


def _heat(read, name, row, place, at):
    """Over the tokens of a memory, in every map; the mean over the tokens of a word."""
    return read.heat[name][:, row, place, at].mean(axis=1)


def _look(read, name, row, heat) -> dict[str, Any]:
    grid = read.upright(name, row, heat)
    share = {"share": float(heat.sum())}
    return share if grid is None else {**share, "grid": grid.shape, "heat": pictures.heat_bytes(grid)}


def _play(read, row, place, boxes) -> Iterator[Pointed | None]:
    """The pointing game of the text's first token, in every map."""
    if "image" in read.heat and boxes:
        for heat in _heat(read, "image", row, place, slice(0, 1)):
            yield point(read.upright("image", row, heat), boxes)


def _memories(loaded, read, row) -> dict[str, Any]:
    """The pictures of what there was to look at, of the first item."""
    found = {}
    for name in sorted(loaded.batch.signals, key=MODALITIES.index):
        signal = loaded.batch.signals[name]
        if name not in read.heat or not signal.item_mask[row, 0]:
            continue
        values, size = signal.values[row, 0], signal.size[row, 0]
        if name == "audio" and read.spectrogram is not None:
            picture = pictures.spectrogram_uri(read.spectrogram[row])
            found[name] = {"picture": picture, "sound": pictures.sound_uri(values[: size[0]])}
        elif name == "image":
            found[name] = {"picture": pictures.picture_uri(values[: size[0], : size[1]])}
    return found
