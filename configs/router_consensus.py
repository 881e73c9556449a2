"""Whom to believe? Scenes of which a picture, a sound and a description tell; often one of them is of another scene.

    python main.py --config=configs/router_consensus.py --workdir=runs/consensus        # the odd one is not believed
    python main.py --config=configs/router_consensus.py:watched --workdir=runs/watched  # compared, and all believed
    python main.py --config=configs/router_consensus.py:dense --workdir=runs/dense      # never compared

Towers, decoder and questions are those of `configs/router.py:dense_40`, the optimizer is Adam. In four of ten examples
one modality is of another scene: nothing in it alone gives that away. Answers are to be those of the other two. The
model is not told which: it learns what matches from batches that it mixes itself. Near misses, of which one attribute
of the object is another, and all damage that could be seen in a signal alone, are in the tests only.
docs/consensus.md says what is reached.
"""

from itertools import combinations

from ml_collections import ConfigDict

from configs import parts, router

STEPS = 2000
ALONE = 0.4  # share of the examples of which the decoder reads one modality alone: each tower is to learn to see
# What befalls a modality that is not left as it is, and how often that is none, one or two of the three.
SWAPPED = {"corruptions": {"swap": 1.0}, "reliable": (0.0, 0.4, 0.6)}
TESTS = {
    "vqa": {"corruptions": {"swap": 1.0}, "reliable": (0.0, 1.0, 0.0)},
    "altered": {"corruptions": {"alter": 1.0}, "reliable": (0.0, 1.0, 0.0)},
    "spoiled": router.ONE_SPOILED,
    "clean": {"corruptions": {"swap": 1.0}, "reliable": (0.0, 0.0, 1.0)},
}
LOOKED_AT = {
    "agreement": {"corruptions": {"swap": 0.5, "alter": 0.5}, "reliable": (0.0, 0.7, 0.3)},
    "agreement_spoiled": router.ONE_SPOILED,
}


def get_config(which: str = "gated") -> ConfigDict:
    """The experiment: gated, watched or dense."""
    config = router.get_config("dense_40").unlock()
    config.optimizer = parts.optimizer(2e-3, warmup=50, learning_rate_scale=((r"gate$", 20.0), (".*", 1.0)))
    config.train.steps = STEPS
    config.objectives.writing.alone = ALONE
    config.sources.scenes = {**router.SCENES, **SWAPPED, "split": "train"}
    if which != "dense":
        config.model.consensus = parts.consensus(router.MODALITIES, threshold=0.5 if which == "gated" else 1.0)
        between = tuple(combinations(router.MODALITIES, 2))
        config.objectives.matching = {"kind": "matching", "between": between, "mates": 2}
        config.streams.scenes.objectives.matching = 0.5
    test = {**router.SCENES, "split": "test"}
    answering = config.evaluators.vqa
    config.evaluators = {name: {**answering, "source": {**test, **befalling}} for name, befalling in TESTS.items()}
    if which != "dense":
        stream = {**answering.stream, "text": {"source": answering.stream.text.source}}
        for name, befalling in LOOKED_AT.items():
            config.evaluators[name] = {"kind": "agreement", "source": {**test, **befalling}, "stream": stream}
    return config.lock()
