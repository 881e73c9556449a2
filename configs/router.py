"""Which modalities are worth reading? Scenes of which a picture, a sound and a description tell, most of them spoiled.

    python main.py --config=configs/router.py --workdir=runs/router                # routed
    python main.py --config=configs/router.py:routed_37 --workdir=runs/routed_37   # towers read 37 % in training
    python main.py --config=configs/router.py:frugal_50 --workdir=runs/frugal_50   # 50 %, and one at most in the test
    python main.py --config=configs/router.py:dense --workdir=runs/dense           # every tower reads every example
    python main.py --config=configs/router.py:dense_16 --workdir=runs/dense_16     # the same, 16 wide
    python main.py --config=configs/router.py:random_37 --workdir=runs/random      # gates are open by lot
    python main.py --config=configs/router.py:image,audio --workdir=runs/two       # a fixed subset of the modalities

Each example has one, two or three modalities that can be relied on, each of them as often as the others; the rest is
spoiled, in ways that show in the raw signal. So no fixed subset is enough, and to read all is more than is needed. The
router is told only what the towers' answers are worth (through the gates) and what they cost. docs/routing.md says what
is reached.
"""

from ml_collections import ConfigDict

from configs import parts

IMAGE, SAMPLES = (64, 64), 32_000
SIGNALS = {"image": IMAGE, "audio": (SAMPLES,)}
DESCRIPTION, TARGET, QUESTION, CAPTION = 24, 32, 16, 20  # tokens
WIDTH, HEADS = 24, 4
MODALITIES = ("image", "audio", "source")
STEPS, DENSE_STEPS = 3200, 400
ROUTED = {  # settings of the router, by the kind of run
    "routed": {"gate": "binary_concrete"},
    "frugal": {"gate": "binary_concrete", "at_most": 1},
    "random": {"gate": "random"},
}
# How a modality is spoiled that cannot be relied on: what share of it each kind has, and the level.
DAMAGE = {
    "darkness": (0.3, 1.0),
    "noise": (0.3, 0.9),
    "occlusion": (0.3, 1.0),
    "audio_noise": (1.0, 0.9),
    "gaps": (1.0, 1.0),
}
SCENES = {
    "kind": "scenes",
    "objects": (1, 1),
    "questions": ("colour", "shape"),
    "corruptions": DAMAGE,
    "reliable": (0.8, 0.15, 0.05),
}
# One modality is spoiled, at any level, and now and then it is missing, as it never was in training.
ONE_SPOILED = {
    **SCENES,
    "corruptions": {**dict.fromkeys(DAMAGE, 0.25), "missing": 0.25},
    "reliable": (0.0, 1.0, 0.0),
}


def get_config(which: str = "routed_50") -> ConfigDict:
    """The experiment.

    Args:
      which: dense, or dense_W for another width; routed_N or random_N, where N is the percentage of the examples that
        each tower reads in training; frugal_N, which is routed_N but for the tests, where one modality at most is
        read of an example; or some of `MODALITIES`, which alone are read then.
    """
    kind, _, number = which.partition("_")
    read = MODALITIES if kind in ("dense", *ROUTED) else tuple(which.split(","))
    width = int(number) if kind == "dense" and number else WIDTH
    config = ConfigDict()
    config.seed = 0
    config.tokenizer = {"vocabulary": 512, "examples": 2000}
    config.sources = {"scenes": {**SCENES, "split": "train"}}
    signals = {name: shape for name, shape in SIGNALS.items() if name in read}
    source = {"source": {"take": "description", "number": 1, "length": DESCRIPTION}} if "source" in read else {}
    target = {"take": "whole_captions_and_questions", "number": 1, "length": TARGET, "packed": 4, "languages": ("en",)}
    config.streams = {
        "scenes": {
            "rows": 32,
            "mixture": {"scenes": 1.0},
            "signals": signals,
            "text": {**source, "target": target},
            "objectives": {"writing": 1.0},
            "accumulate": 1,
        }
    }
    config.objectives = {"writing": {"kind": "generation", "chunk": 16}}
    config.model = {"dtype": "float32", "towers": _towers(read, width)}
    config.model.single = parts.decoder(width, 1, HEADS, length=TARGET, memories=read, mlp=2 * width)
    # towers as fast as they bear; of the decoder, attention that is sure too soon never finds the rest
    rates = ((r"gate$", 20.0), (r"^towers/.*kernel$", 5.0), (r"kernel$", 2.0), (".*", 1.0))
    config.optimizer = parts.optimizer(
        2e-3, warmup=50, learning_rate_scale=rates, orthogonal=((r"kernel$", True), (".*", False))
    )
    config.sharding = parts.sharding()
    config.mesh = {"data": 1, "fsdp": 1, "tensor": 1}  # one group of 32 rows; more devices ask for more of both
    config.train = {"minutes": 0.0, "steps": STEPS, "evaluate_every": 100_000}
    config.checkpoint = {"every": 500, "keep": 1}
    config.log_every = 10
    config.loader = parts.loader()
    config.evaluators = _evaluators(signals, source)
    config.eval = parts.evaluation()
    if kind in ROUTED:
        _route(config, int(number) / 100, ROUTED[kind])
    return config.lock()


def _towers(read, width):
    towers = {
        # a norm over the positions of a channel, and the highest value: shapes are told much sooner
        "image": parts.convnet(
            width, (1, 1, 1), image=IMAGE, patch=(2, 2), norm="instance", position="sincos", pool="max"
        ),
        "audio": parts.audio(width, 3, HEADS, samples=SAMPLES, window=512, hop=160, patch=(8, 64), position="sincos"),
        "text": parts.text(width, 3, HEADS, length=DESCRIPTION),
    }
    return {name: tower for name, tower in towers.items() if name in read or (name == "text" and "source" in read)}


def _route(config, capacity, gates):
    """A router, the price of reading, and what is measured of both."""
    config.model.router = parts.router(
        dict.fromkeys(MODALITIES, capacity), **gates, dense_steps=DENSE_STEPS, learns=False, open_at_first=0.0
    )
    # few numbers: whole on every device, and to be learned sooner than a tower
    config.sharding = parts.sharding((r"router/", ()))
    config.optimizer.learning_rate_scale = ((r"^router/", 5.0), *config.optimizer.learning_rate_scale)
    config.optimizer.orthogonal = ((r"^router/", False), *config.optimizer.orthogonal)
    config.optimizer.weight_decay = ((r"^router/", 0.0), *config.optimizer.weight_decay)
    # while towers know nothing, every gate would shut for good
    config.objectives.floor = {"kind": "entropy_floor", "floor": 0.9}
    config.objectives.cost = {"kind": "expected_cost"}
    config.streams.scenes.objectives.update(cost=0.02, floor=1.0)
    stream = config.evaluators.vqa.stream  # with its questions: what is asked for is evidence, too
    for name, test in (("gating", SCENES), ("gating_spoiled", ONE_SPOILED)):
        config.evaluators[name] = {"kind": "gating", "source": {**test, "split": "test"}, "stream": stream}


def _evaluators(signals, source):
    test = {**SCENES, "split": "test"}
    evaluators = {
        "vqa": parts.answering(test, signals=signals, examples=1024, length=QUESTION),
        "spoiled": parts.answering({**ONE_SPOILED, "split": "test"}, signals=signals, examples=2048, length=QUESTION),
        "caption": parts.captioning(
            test,
            signals=signals,
            prompt={"take": "whole_captions", "number": 1, "length": 4},
            target={"take": "whole_captions", "number": 2, "length": CAPTION},
            examples=512,
            tokens=CAPTION,
            # greedily, half of the orange things are "a …" and then need a size, whether it was told or not
            decoding=parts.decoding(beams=3),
        ),
    }
    for evaluator in evaluators.values():
        evaluator["stream"]["text"] |= source
        if evaluator["kind"] == "answering":
            evaluator["stream"]["text"]["prompt"]["number"] = len(SCENES["questions"])
    return evaluators
