"""Everything at once, in a minute: both ways of training in one step, on a mixture, on two cores.

    python main.py --config=configs/tiny.py --workdir=runs/tiny
    python main.py --config=configs/tiny.py:'shards/*.tar' --workdir=runs/tiny    # and a person's own webdataset tars

Under a million parameters, 200 steps. It shows that everything works; the numbers that it reaches are above chance and
no more. `configs/parts.py` says what each key means.
"""

from ml_collections import ConfigDict

from configs import parts

IMAGE, SAMPLES = (64, 64), 32_000


def get_config(tars: str = "") -> ConfigDict:
    """The experiment; `tars` is a pattern of webdataset shards to mix in, or empty."""
    config = ConfigDict()
    config.seed = 0
    config.tokenizer = {"vocabulary": 1024, "examples": 500}  # learned from so many examples of each source
    config.sources = {"scenes": {"kind": "scenes", "split": "train"}, "digits": {"kind": "digits", "split": "train"}}
    shares = {"scenes": 0.7, "digits": 0.3}
    if tars:
        config.sources.tars = {"kind": "webdataset", "shards": tars}
        shares = {"scenes": 0.6, "digits": 0.2, "tars": 0.2}
    scenes_and_digits = {name: shares[name] for name in ("scenes", "digits")}

    both = {"image": IMAGE, "audio": (SAMPLES,)}
    captions = {
        "caption": {"take": "whole_captions", "number": 1, "length": 40},  # matched with the signals
        "target": {"take": "captions", "number": 1, "length": 40},  # generated from the same towers' tokens
    }
    questions = {"target": {"take": "questions", "number": 3, "length": 24}}
    config.streams = {
        "pairs": _stream(24, shares, both, captions, {"contrastive": 1.0, "captioning": 1.0}),
        "answers": _stream(16, scenes_and_digits, both, questions, {"answering": 1.0}),
    }
    pairs = (("image", "caption"), ("audio", "caption"), ("image", "audio"))
    config.objectives = {
        "contrastive": {"kind": "contrastive", "loss": "info_nce", "between": pairs},
        "captioning": {"kind": "generation", "chunk": 16},
        "answering": {"kind": "generation", "chunk": 16},
    }
    config.model = _model()
    config.optimizer = parts.optimizer(2e-3, warmup=20)
    config.sharding = parts.sharding()
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.train = {"steps": 200, "evaluate_every": 200}
    config.checkpoint = {"every": 10, "keep": 2}
    config.log_every = 10
    config.loader = parts.loader()
    config.evaluators = _evaluators(pairs)
    config.eval = parts.evaluation()
    return config.lock()


def _stream(rows, mixture, signals, text, objectives):
    return {
        "rows": rows,
        "mixture": mixture,
        "signals": signals,
        "text": text,
        "objectives": objectives,
        "accumulate": 1,  # pieces that the rows are cut into, where no objective compares them
    }


def _model():
    width, heads = 64, 4
    return {
        "dtype": "float32",
        "towers": {
            "image": parts.vit(width, 2, heads, image=IMAGE, patch=(8, 8), position="sincos"),
            "audio": parts.audio(width, 2, heads, samples=SAMPLES, patch=(20, 16)),
            "text": parts.text(width, 2, heads, length=40, causal=True, pool="eos"),
        },
        "dual": {"embedding": 64, "temperature": 0.07, "bias": -10.0},
        "single": parts.decoder(
            width, 2, heads, length=40, memories=("image", "audio"), key_heads=2, norm="rms", position="rotary"
        ),
    }


def _evaluators(pairs):
    test = {"kind": "scenes", "split": "test"}
    both = {"image": IMAGE, "audio": (SAMPLES,)}
    return {
        "retrieval": parts.retrieval(
            test,
            signals=both,
            caption={"take": "whole_captions", "number": 2, "length": 40},
            between=pairs,
            examples=256,
            chunk=128,
        ),
        "vqa": parts.answering(test, signals=both, examples=128, length=24),
        "digits": parts.digits("test", image=IMAGE, length=24, called={"accuracy": "classification/digits"}),
    }
