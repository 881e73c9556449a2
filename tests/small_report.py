"""A finished run's workdir, written by hand; every text of its data tries to become a part of a page."""

import base64
import json

import numpy as np

from mmfuse.analysis.pictures import heat_bytes, picture_uri, spectrogram_uri

HOSTILE = '<script>alert("owned")</script><img src=x onerror=alert(1)>&amp;'
WORDS, MAPS, GRID = ("red", "circle"), 3, (5, 7)


def heat(seed):
    """Some map of attention."""
    return np.random.default_rng(seed).uniform(size=GRID).astype(np.float32)


def look(seed):
    """What a word looked at in one map."""
    return {"share": 0.25, "grid": list(GRID), "heat": heat_bytes(heat(seed))}


def card(key, right, words=WORDS):
    """An example with a picture, a sound, and two texts about it."""
    pixels = np.random.default_rng(len(key)).integers(0, 255, (30, 42, 3), np.uint8)
    memories = {
        "image": {"picture": picture_uri(pixels)},
        "audio": {
            "picture": spectrogram_uri(heat(99)),
            "sound": "data:audio/mpeg;base64," + base64.b64encode(b"").decode(),
        },
    }
    texts = [
        {
            "prompt": HOSTILE,
            "probability": 0.5,
            "expected": [HOSTILE],
            "right": right,
            "boxes": [[0.1, 0.2, 0.4, 0.5]],
            "words": [
                {
                    "text": word,
                    "probability": 0.25,
                    "looks": {
                        name: [look(100 * number + 10 * at + index) for index in range(MAPS)]
                        for number, name in enumerate(memories)
                    },
                }
                for at, word in enumerate(words)
            ],
        }
    ]
    gates = {"image": {"open": True, "probability": 0.97}, "audio": {"open": False, "probability": 0.125}}
    return {"key": key, "memories": memories, "gates": gates, "texts": texts}


def write_workdir(folder, *, loss=1.0, rate=0.1):
    """Fills a folder; `loss` scales its curve, `rate` is a setting of its config."""
    folder.mkdir()
    summary = {
        "step": 40,
        "vqa/accuracy": 0.75,
        "vqa/accuracy_blind": 0.5,
        "vqa/accuracy_majority": 0.375,
        "vqa/accuracy/colour": 0.625,
        "vqa/accuracy_blind/colour": 0.125,
        "vqa/questions": 8.0,
        "retrieval/image_to_text/recall_at_1": 0.0625,
        "retrieval/image_to_text/recall_at_1_chance": 0.03125,
        "caption/cider": 1.5,
        "rejected/total": 3.0,
    }
    lines = {
        "metrics": [
            {"step": n, "loss": loss / n, "data/scenes/read": 4 * n, "data/scenes/used": 3 * n} for n in range(1, 41)
        ],
        "timing": [{"step": n, "seconds": 0.5, "examples_per_second": 8.0, "wait_share": 0.125} for n in range(1, 41)],
        "evaluation": [{"step": n, "vqa/accuracy": n / 50} for n in (20, 40)],
    }
    picture = card("x", None)["memories"]["image"]["picture"]
    item, text = {"picture": picture, "text": HOSTILE}, {"text": HOSTILE}
    found = [{"item": item, "cosine": 0.5, "right": False}, {"item": item, "cosine": 0.25, "right": True}]
    query = {"item": text, "rank": 2, "worst": True, "found": found}
    examples = {
        "vqa": {
            "answers": {
                "shown": [card(HOSTILE, True), card("second", None, words=())],
                "examples": 2,
                "worst": [card("worst", False)],
                "pointing": {"layer 1": {"hits": 0.625, "chance": 0.1875, "games": 16}, "rollout": {"games": 0}},
            }
        },
        "retrieval": {"neighbours": [{"from": "caption", "to": "image", "candidates": 9, "queries": [query]}]},
    }
    objects = {
        "summary": summary,
        "config": {"config": {"optimizer": {"learning_rate": rate}, "seed": 0}, "data": {}},
        "provenance": {"git": "0123abc", "flags": [f"--config={HOSTILE}"]},
        "examples": examples,
    }
    for name, value in objects.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
