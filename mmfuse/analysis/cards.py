"""How do examples look on the page?

A card has the picture and the spectrogram, what was asked and what was written, word by word. Each word is a button:
pointing at it, or reaching it with the keyboard, lights up where the model looked, in every layer (`page.js`).
"""

from typing import Any

from mmfuse.analysis.charts import number
from mmfuse.analysis.html import Html, join, tag
from mmfuse.analysis.sections import table

OPEN = 2  # ways of retrieval that need no click
NOUNS = {"image": "picture", "audio": "spectrogram"}


class Looks(list):
    """What words looked at, by the number that stands on their buttons; goes to the page as data."""

    def add(self, word: dict[str, Any], boxes: list[Any]) -> int:
        """Keeps a word's maps and the boxes that its text is about; returns their number."""
        self.append({"text": word["text"], "probability": word["probability"], "looks": word["looks"], "boxes": boxes})
        return len(self) - 1


def answer_cards(cards: list[dict[str, Any]], looks: Looks, label: str) -> Html:
    """Cards of what was written, see `answers.py`; `label` begins the alternative texts."""
    return tag("div", *(_card(card, looks, f"{label} {index}") for index, card in enumerate(cards, 1)), class_="cards")


def _card(card, looks, label) -> Html:
    texts = [_text(text, looks) for text in card["texts"]]
    names = _layers(card)
    rows = [_memory(name, memory, names, label) for name, memory in card["memories"].items()]
    sounds = [
        tag("audio", controls=True, preload="none", src=memory["sound"], aria_label=f"{label}: the sound")
        for memory in card["memories"].values()
        if "sound" in memory
    ]
    told = tag("output", "", class_="told", aria_live="polite")
    left = tag("div", *rows, *sounds, *_gates(card["gates"]), class_="seen")
    right = tag("div", *texts, told, class_="written")
    return tag("article", tag("h3", card["key"]), left, right, class_="card")


def _gates(gates) -> list[Html]:
    """What took part, and how likely that was."""
    words = [
        f"{name} {'open' if gate['open'] else 'shut'} ({number(gate['probability'])})" for name, gate in gates.items()
    ]
    return [tag("p", "gates: " + " · ".join(words), class_="quiet gates")] if words else []


def _layers(card) -> list[str]:
    for text in card["texts"]:
        for word in text["words"]:
            number_of = max(len(maps) for maps in word["looks"].values())
            return [*(f"layer {index}" for index in range(1, number_of)), "rollout"]
    return []


def _memory(name, memory, layers, label) -> Html:
    """The picture alone, then once for each layer under a veil that opens where the model looked."""
    noun = NOUNS.get(name, name)
    plain = tag("img", src=memory["picture"], alt=f"{label}: {noun}")
    figures = [tag("figure", tag("div", plain, class_="frame"), tag("figcaption", noun))]
    for index, layer in enumerate(layers):
        canvas = tag(
            "canvas", data_memory=name, data_map=index, role="img", aria_label=f"{layer}, {noun}: no word chosen"
        )
        under = tag("img", src=memory["picture"], alt="")
        boxes = tag("svg", viewBox="0 0 1 1", preserveAspectRatio="none", aria_hidden="true", class_="boxes")
        share = tag("span", "", class_="share")
        frame = tag("div", under, canvas, boxes if name == "image" else Html(""), class_="frame")
        figures.append(tag("figure", frame, tag("figcaption", layer, share)))
    return tag("div", *figures, class_=f"looks {name}")


def _text(text, looks) -> Html:
    words = [
        tag("button", word["text"], type="button", class_="word", data_look=looks.add(word, text["boxes"]))
        for word in text["words"]
    ] or [tag("em", "nothing")]
    verdict = {True: "right", False: "wrong", None: "written"}[text["right"]]
    mark = {"right": "✓ right", "wrong": "✗ wrong", "written": "written"}[verdict]
    answer = [join(*(part for word in words for part in (word, " "))), tag("span", mark, class_=f"mark {verdict}")]
    expected = " / ".join(text["expected"])
    likely = f"probability {number(text['probability'])}"
    truth = likely if text["right"] else f"true: {expected} · {likely}"
    prompt = [tag("p", text["prompt"], class_="prompt")] if text["prompt"] else []
    return tag("div", *prompt, tag("p", *answer, class_="answer"), tag("p", truth, class_="truth"), class_="text")


def pointing_table(pointing: dict[str, dict[str, int | float]]) -> Html:
    """Hits of the pointing game beside chance."""
    played = {layer: game for layer, game in pointing.items() if game["games"]}
    if not played:
        return Html("")
    rows = [
        tag("tr", tag("th", layer, scope="row"), *(tag("td", number(game[key])) for key in ("hits", "chance", "games")))
        for layer, game in played.items()
    ]
    caption = "Pointing game: how often the patch looked at most lies on the object that was asked about"
    return table(caption, ["map", "hits", "chance", "answers"], rows)


def neighbour_rows(ways: list[dict[str, Any]]) -> Html:
    """What each query found, nearest first; see `neighbours.py`."""
    return join(*(_way(way, index < OPEN) for index, way in enumerate(ways)))


def _way(way, opened) -> Html:
    title = tag("summary", f"{way['from']} → {way['to']}", tag("span", f" among {way['candidates']}", class_="quiet"))
    return tag("details", title, *(_query(query) for query in way["queries"]), class_="way", open=opened)


def _query(query) -> Html:
    found = [
        tag(
            "li",
            _item(one["item"]),
            tag("span", ("✓ " if one["right"] else "") + number(one["cosine"]), class_="cosine"),
            class_="right" if one["right"] else None,
        )
        for one in query["found"]
    ]
    worst = "one of the worst: " if query["worst"] else ""
    rank = tag("p", f"{worst}the right one is at place {query['rank']}", class_="quiet")
    asked = tag("div", _item(query["item"]), rank, class_="asked")
    return tag("div", asked, tag("ol", *found, class_="found"), class_="query")


def _item(item) -> Html:
    return tag("img", src=item["picture"], alt=item["text"]) if "picture" in item else tag("q", item["text"])
