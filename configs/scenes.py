"""What two hours on two cores can learn: scenes that are seen and heard, found, asked about and described.

    python main.py --config=configs/scenes.py --workdir=runs/scenes

The recipe of `configs/quickstart.py`, longer, and with sound: the objects of a scene sound one after another, from left
to right, and a sound tells all of an object but its height. The run may be stopped and given again at any moment.
docs/quickstart.md says what is reached.
"""

from ml_collections import ConfigDict

from configs import parts, quickstart

SAMPLES = 32_000  # two seconds
SIGNALS = {"image": quickstart.IMAGE, "audio": (SAMPLES,)}
PAIRS = (("image", "caption"), ("audio", "caption"), ("image", "audio"))


def get_config() -> ConfigDict:
    """The experiment."""
    config = quickstart.get_config()
    with config.unlocked():
        # scenes of which one signal is missing are many; of a tenth both are, for the sake of the blind control
        config.sources.unseen = {"kind": "scenes", "split": "train", "corruptions": {"missing": 1.0}, "seed": 2}
        stream = config.streams.pictures
        stream.mixture = {"scenes": 0.4, "single": 0.4, "unseen": 0.1, "digits": 0.1}
        stream.signals = SIGNALS
        config.objectives.contrastive.between = PAIRS
        # frames short enough to hear the beats that tell a texture
        hearing = {"samples": SAMPLES, "window": 512, "hop": 160, "patch": (8, 64), "position": "sincos", "pool": "max"}
        config.model.towers.audio = parts.audio(quickstart.WIDTH, 2, quickstart.HEADS, **hearing)
        config.model.single.memories = ("image", "audio")
        config.optimizer.warmup = 200
        # steps rather than minutes, so that what is learned does not depend on the machine
        config.train = {"minutes": 0.0, "steps": 12_000, "evaluate_every": 6000}
        config.evaluators.retrieval.between = PAIRS
        for name in ("retrieval", "vqa", "systematic", "caption"):
            config.evaluators[name].stream.signals = SIGNALS
    return config
