"""Which modalities are worth reading? Scenes of which a picture, a sound and a description tell, not all of them well.

    python main.py --config=configs/router.py --workdir=runs/router              # routed
    python main.py --config=configs/router.py:dense --workdir=runs/dense         # every tower reads every example
    python main.py --config=configs/router.py:image,audio --workdir=runs/two     # a fixed subset of the modalities

Each example has one, two or three modalities that can be relied on, each of them as often as the others; the rest is
spoiled, in ways that show in the raw signal. So no fixed subset is enough, and to read all is more than is needed. The
router is told only what the towers' answers are worth (through the gates) and what they cost. docs/routing.md says what
is reached.
"""

from ml_collections import ConfigDict

from configs import parts

IMAGE, SAMPLES = (64, 64), 32_000
SIGNALS = {"image": IMAGE, "audio": (SAMPLES,)}
DESCRIPTION, TARGET, QUESTION, CAPTION = 40, 64, 24, 32  # tokens
WIDTH, HEADS = 96, 4
MODALITIES = ("image", "audio", "source")
# How a modality is spoiled that cannot be relied on; what share of it each kind has.
DAMAGE = {
    "darkness": (0.3, 1.0),
    "noise": (0.3, 0.9),
    "occlusion": (0.3, 1.0),
    "audio_noise": (1.0, 0.9),
    "gaps": (1.0, 1.0),
}
SCENES = {"kind": "scenes", "objects": (1, 2), "corruptions": DAMAGE, "reliable": (0.6, 0.3, 0.1)}


def get_config(which: str = "routed") -> ConfigDict:
    """The experiment; `which` is routed, dense, or some of `MODALITIES`, which alone are read then."""
    read = MODALITIES if which in ("routed", "dense") else tuple(which.split(","))
    config = ConfigDict()
    config.seed = 0
    config.tokenizer = {"vocabulary": 512, "examples": 2000}
    config.sources = {"scenes": {**SCENES, "split": "train"}}
    signals = {name: shape for name, shape in SIGNALS.items() if name in read}
    source = {"source": {"take": "description", "number": 1, "length": DESCRIPTION}} if "source" in read else {}
    target = {"take": "whole_captions_and_questions", "number": 1, "length": TARGET, "packed": 6, "languages": ("en",)}
    config.streams = {
        "scenes": {
            "rows": 40,
            "mixture": {"scenes": 1.0},
            "signals": signals,
            "text": {**source, "target": target},
            "objectives": {"writing": 1.0},
            "accumulate": 1,
        }
    }
    config.objectives = {"writing": {"kind": "generation", "chunk": 16}}
    config.model = {"dtype": "float32", "towers": _towers(read)}
    config.model.single = parts.decoder(WIDTH, 1, HEADS, length=TARGET, memories=read, mlp=2 * WIDTH)
    config.optimizer = parts.optimizer(2e-3, warmup=50, learning_rate_scale=((r"gate$", 20.0), (".*", 1.0)))
    config.sharding = parts.sharding()
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.train = {"minutes": 0.0, "steps": 1000, "evaluate_every": 100_000}
    config.checkpoint = {"every": 200, "keep": 1}
    config.log_every = 10
    config.loader = parts.loader()
    config.evaluators = _evaluators(signals, source)
    config.eval = parts.evaluation()
    if which == "routed":
        _route(config)
    return config.lock()


def _towers(read):
    towers = {
        "image": parts.convnet(
            WIDTH, (1, 1, 1), image=IMAGE, patch=(2, 2), norm="instance", position="sincos", pool="max"
        ),
        "audio": parts.audio(WIDTH, 2, HEADS, samples=SAMPLES, patch=(4, 64), position="sincos", pool="max"),
        "text": parts.text(WIDTH, 2, HEADS, length=DESCRIPTION),
    }
    return {name: tower for name, tower in towers.items() if name in read or (name == "text" and "source" in read)}


def _route(config):
    """A router, the price of reading, and what is measured of both."""
    config.sharding = parts.sharding((r"router/", ()))  # a few hundred numbers, whole on every device
    config.model.router = parts.router(dict.fromkeys(MODALITIES, 0.6), groups=8)
    config.objectives.cost = {"kind": "expected_cost"}
    config.streams.scenes.objectives.cost = 0.3
    stream = {**config.evaluators.vqa.stream, "text": {"source": config.streams.scenes.text.source}}
    config.evaluators.gating = {"kind": "gating", "source": {**SCENES, "split": "test"}, "stream": stream}


def _evaluators(signals, source):
    test = {**SCENES, "split": "test"}
    vqa = parts.answering(test, signals=signals, examples=512, length=QUESTION)
    vqa["stream"]["text"] |= source
    prompt = {"take": "whole_captions", "number": 1, "length": 4}
    target = {"take": "whole_captions", "number": 2, "length": CAPTION}
    caption = parts.captioning(test, signals=signals, prompt=prompt, target=target, examples=256, tokens=CAPTION)
    caption["stream"]["text"] |= source
    return {"vqa": vqa, "caption": caption}
