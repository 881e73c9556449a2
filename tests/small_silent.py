"""`tests/small.py` without its sound, which is a third of what there is to compile, and without evaluators."""

from tests import small


def get_config(streams=("pairs", "answers")):
    """Pairs and answers, or one of them; on one device."""
    config = small.get_config()
    with config.unlocked():
        config.streams = {name: config.streams[name] for name in streams}
        del config.model.towers.audio
        config.model.single.memories = ("image",)
        config.objectives.contrastive.between = (("image", "caption"),)
        for stream in config.streams.values():
            stream.signals = {"image": stream.signals.image}
        config.evaluators = {}
    config.mesh.data = 1
    return config
