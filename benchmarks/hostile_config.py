"""The tiny experiment, smaller still, on the sources of `benchmarks/hostile_input.py`.

    python main.py --config=benchmarks/hostile_config.py:FOLDER --workdir=DIR

FOLDER holds `sources.json`, name → a source as in any config.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from configs import tiny

ROWS = 50
IMAGE, SAMPLES = (16, 16), 3_200


def get_config(folder: str) -> ConfigDict:
    """One stream over all sources in equal shares, images and sounds with captions."""
    sources = json.loads(Path(folder, "sources.json").read_text())
    config = tiny.get_config().unlock()
    config.sources = sources
    config.tokenizer.update(vocabulary=300, examples=50)
    config.model.towers.image.update(image=IMAGE, patch=(8, 8))
    config.model.towers.audio.update(samples=SAMPLES, patch=(5, 16))
    for tower in (*config.model.towers.values(), config.model.single):
        tower.update(width=16, depth=1, heads=2, key_heads=1, mlp=24)
    config.model.dual.embedding = 8
    del config.streams["answers"], config.objectives["answering"], config.evaluators["vqa"]
    config.streams.pairs.update(rows=ROWS, text=captions())
    for stream in (config.streams.pairs, config.evaluators.retrieval.stream):
        stream.signals = {"image": IMAGE, "audio": (SAMPLES,)}
    config.streams.pairs.mixture = dict.fromkeys(sources, 1.0)
    config.train.update(steps=200, evaluate_every=200)
    config.checkpoint.update(every=20, keep=2)
    config.evaluators.retrieval.stream.update(rows=16, examples=16)
    return config.lock()


def captions() -> dict:
    """The texts of the stream."""
    one = {"take": "captions", "number": 1, "length": 40}
    return {"caption": one, "target": one}
