"""Whom to believe? Scenes of which a picture, a sound and a description tell; often one of them is of another scene.

    python main.py --config=configs/router_consensus.py --workdir=runs/asked        # each is asked alone
    python main.py --config=configs/router_consensus.py:gated --workdir=runs/gated  # heads compare their tokens
    python main.py --config=configs/router_consensus.py:dense --workdir=runs/dense  # all are believed

Towers and decoder are those of `configs/router.py:dense`, but for a wider tower of pictures: all four attributes are
asked for. In four of ten examples one modality is of another scene: nothing in it alone gives that away. Answers are to
be those of the other two. The model is not told which. `:asked` is trained as `:dense` is, and in the tests does not
believe what answers otherwise than the others; `:gated` learns what matches from batches that it mixes itself, and
from foils: descriptions with one attribute of the object changed. Near misses, of which one attribute of the object is
another, and all damage that could be seen in a signal alone, are in the tests only. docs/consensus.md says what is
reached.
"""

from itertools import combinations

from ml_collections import ConfigDict

from configs import parts, router

STEPS, SEEN, TARGET = 1200, 96, 40  # width of a picture's tokens; tokens of four questions and answers
ATTRIBUTES = ("colour", "shape", "size", "texture")
ALONE = 0.8  # weight of what is answered by one modality alone, or none: each tower is to learn to see
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


def get_config(which: str = "asked") -> ConfigDict:
    """The experiment: asked, gated or dense."""
    config = router.get_config("dense").unlock()
    config.model.towers.image.width = SEEN
    config.model.single.length = TARGET
    # a texture is told late, by kernels that have not settled
    rates = ((r"^towers/image/.*kernel$", 1.0), (r"^towers/.*kernel$", 2.0))
    config.optimizer.learning_rate_scale = (*rates, *config.optimizer.learning_rate_scale)
    config.train.steps = STEPS
    config.objectives.writing.alone = ALONE
    scenes = {**router.SCENES, "questions": ATTRIBUTES}
    config.sources.scenes = {**scenes, **SWAPPED, "split": "train"}
    stream = config.streams.scenes
    stream.text.target = {"take": "questions", "number": 1, "length": TARGET, "packed": len(ATTRIBUTES)}
    if which == "asked":
        config.model.consensus = parts.answer_consensus(router.MODALITIES)
    elif which == "gated":
        config.model.consensus = parts.consensus(router.MODALITIES)
        between = tuple(combinations(router.MODALITIES, 2))
        config.objectives.matching = {"kind": "matching", "between": between, "mates": 2}
        stream.objectives.matching = 0.5
        stream.text.foil = {**stream.text.source, "take": "foil"}
    test = {**scenes, "split": "test"}
    answering = config.evaluators.vqa
    answering.stream.text.prompt.number = len(ATTRIBUTES)
    config.evaluators = {name: {**answering, "source": {**test, **befalling}} for name, befalling in TESTS.items()}
    if which != "dense":
        for name, befalling in LOOKED_AT.items():
            looked_at = {"kind": "agreement", "source": {**test, **befalling}, "stream": answering.stream}
            config.evaluators[name] = looked_at
    return config.lock()
