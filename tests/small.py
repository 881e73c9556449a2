"""`configs/tiny.py`, made so small that real runs of it are tests."""

from configs import parts, tiny


def get_config(tars: str = ""):
    """Every part of the tiny experiment, each as small as it can be."""
    config = tiny.get_config(tars)
    config.tokenizer.update(vocabulary=300, examples=20)
    for tower in (*config.model.towers.values(), config.model.single):
        tower.update(width=16, depth=2, heads=2, key_heads=1, mlp=24)
    config.model.towers.image.patch = (16, 16)
    config.model.towers.audio.update(patch=(25, 32), window=640)
    config.model.dual.embedding = 8
    for stream in config.streams.values():
        stream.rows = 8
    config.streams.answers.text.target.update(number=2, length=32)
    config.optimizer.warmup = 2
    config.optimizer.orthogonal = ((r"attention/.*kernel$", True), (".*", False))
    config.train.update(steps=12, evaluate_every=6)
    config.checkpoint.update(every=3, keep=2)
    config.log_every = 4
    for evaluator in config.evaluators.values():
        evaluator.stream.update(rows=16, examples=24)
    config.evaluators.vqa.stream.text.prompt.number = 2
    config.evaluators.vqa.decoding.update(temperature=0.7, top_p=0.9)
    with config.unlocked():
        config.evaluators.caption = _captioning(config.evaluators.vqa)
    return config


def _captioning(like):
    """What `configs/tiny.py` does not measure: its captions."""
    config = like.copy_and_resolve_references().unlock()
    prompt = {"take": "captions", "number": 1, "length": 8}
    config.stream.text = {"prompt": prompt, "target": {"take": "captions", "number": 11, "length": 40}}
    config.update(kind="captioning", tokens=7)
    config.decoding = parts.decoding(beams=2, length_penalty=0.6)
    return config
