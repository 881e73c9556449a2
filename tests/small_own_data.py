"""`configs/own_data.py`, made so small that a real run of it is a test."""

from configs import own_data


def get_config():
    """Every part of it, each as small as it can be."""
    config = own_data.get_config("small")
    config.tokenizer.update(vocabulary=300, examples=20)
    for stack in (config.model.towers.audio, config.model.towers.text, config.model.single):
        stack.update(width=16, depth=1, heads=2, key_heads=1, mlp=24)
    config.model.towers.image.update(width=16, blocks=(1,), patch=(16, 16))
    config.model.towers.audio.patch = (40, 64)
    config.model.dual.embedding = 8
    config.streams.pairs.rows = 8
    config.train.update(steps=30, evaluate_every=30)
    config.checkpoint.every = 10
    config.optimizer.warmup = 4  # more than a tenth of the steps: a run by minutes has 3
    for evaluator in config.evaluators.values():
        evaluator.stream.rows = 16
    return config
