"""The least of `tests/small.py` that learns and is measured: for sweeps, whose runs are many."""

from tests import small


def get_config():
    """Pairs of one source, and one evaluator."""
    config = small.get_config()
    with config.unlocked():
        config.streams = {"pairs": config.streams.pairs}
        config.streams.pairs.mixture = {"digits": 1.0}
        config.streams.pairs.objectives = {"contrastive": 1.0}
        config.streams.pairs.signals = {"image": config.streams.pairs.signals.image}
        del config.streams.pairs.text["target"]
        config.objectives.contrastive.between = (("image", "caption"),)
        config.sources = {"digits": config.sources.digits}
        config.evaluators = {"digits": config.evaluators.digits}
        del config.model["single"], config.model.towers["audio"]
    config.train.update(steps=60, evaluate_every=60)
    return config
