"""What a newcomer runs first: pictures that are found, asked about and described, in a quarter of an hour on two cores.

    python main.py --config=configs/quickstart.py --workdir=runs/quickstart

Scenes of coloured shapes, drawn as they are needed, and real handwritten digits. One picture tower serves two masters
in one pass: the contrastive loss, which matches pictures with captions that name every object, and a decoder that reads
the tokens of a picture, and writes captions and answers, several in one row. A text of the contrastive side is the mean
of its tokens, as in `configs/emoji.py`: it learns faster than a transformer, at less cost. Half of the scenes have one
object alone, from which it is easier to learn what a word means. docs/quickstart.md says what is reached and what was
tried; `configs/parts.py` says what each key means.
"""

from ml_collections import ConfigDict

from configs import parts

IMAGE = (64, 64)
CAPTION, TARGET, QUESTION = 48, 80, 24  # tokens of a caption, of a row of captions and answers, of a question
WIDTH, SEEN, HEADS = 64, 96, 4  # of the decoder's tokens and of the shared space; of a picture's tokens; of attention
# A tenth of the scenes is not shown: to answer without evidence, as the blind control does, is something it learns.
UNSEEN = {"missing": 0.1}
ENGLISH = {"languages": ("en",)}


def get_config() -> ConfigDict:
    """The experiment."""
    config = ConfigDict()
    config.seed = 0
    config.tokenizer = {"vocabulary": 1024, "examples": 2000}
    config.sources = {
        "scenes": {"kind": "scenes", "split": "train", "corruptions": UNSEEN},
        "single": {"kind": "scenes", "split": "train", "corruptions": UNSEEN, "objects": (1, 1), "seed": 1},
        "digits": {"kind": "digits", "split": "train"},
    }
    caption = {"take": "whole_captions", "number": 1, "length": CAPTION, **ENGLISH}
    target = {"take": "whole_captions_and_questions", "number": 1, "length": TARGET, "packed": 8, **ENGLISH}
    config.streams = {
        "pictures": {
            "rows": 32,
            "mixture": {"scenes": 0.45, "single": 0.45, "digits": 0.1},
            "signals": {"image": IMAGE},
            "text": {"caption": caption, "target": target},
            "objectives": {"contrastive": 0.1, "writing": 1.0},
            "accumulate": 1,
        }
    }
    pairs = (("image", "caption"),)
    config.objectives = {
        "contrastive": {"kind": "contrastive", "loss": "info_nce", "between": pairs},
        "writing": {"kind": "generation", "chunk": 16},
    }
    config.model = {
        "dtype": "float32",
        "towers": {
            "image": parts.convnet(
                SEEN, (1, 1, 1), image=IMAGE, patch=(2, 2), norm="instance", position="sincos", pool="max"
            ),
            "text": parts.text(2 * WIDTH, 0, HEADS, length=CAPTION),
        },
        "dual": {"embedding": WIDTH, "temperature": 0.07, "bias": -10.0},
        "single": parts.decoder(WIDTH, 2, HEADS, length=TARGET, memories=("image",), mlp=2 * WIDTH),
    }
    # tables and gates are one number deep: they may learn faster than what is stacked
    rates = ((r"gate$", 20.0), (r"towers/text", 10.0), (r"kernel$", 2.0), (".*", 1.0))
    config.optimizer = parts.optimizer(
        2e-3, warmup=50, learning_rate_scale=rates, orthogonal=((r"kernel$", True), (".*", False))
    )
    config.sharding = parts.sharding()
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    # the minutes become steps once; both are limits, and 0 minutes are none
    config.train = {"minutes": 11.5, "steps": 100_000, "evaluate_every": 100_000}
    config.checkpoint = {"every": 100, "keep": 2}
    config.log_every = 10
    config.loader = parts.loader()
    config.evaluators = _evaluators(pairs)
    config.eval = parts.evaluation()
    return config.lock()


def _evaluators(pairs):
    test = {"kind": "scenes", "split": "test"}
    signals = {"image": IMAGE}
    reader = {"source": {"kind": "scenes", "split": "train"}, "records": 2000}
    captions = {"take": "whole_captions", "number": 2, "length": CAPTION}
    return {
        "retrieval": parts.retrieval(
            test, signals=signals, caption={**captions, "number": 1}, between=pairs, examples=256
        ),
        "vqa": parts.answering(test, signals=signals, examples=512, length=QUESTION, question_only=reader),
        "systematic": parts.answering(
            {"kind": "scenes", "split": "test_systematic"},
            signals=signals,
            examples=256,
            length=QUESTION,
            question_only=reader,
            called=_called("vqa/systematic_accuracy", "blind", "majority", "chance"),
        ),
        "caption": parts.captioning(
            test,
            signals=signals,
            prompt={"take": "whole_captions", "number": 1, "length": 4},
            target=captions,
            examples=256,
            tokens=CAPTION,
            decoding=parts.decoding(beams=3),
        ),
        "digits": parts.digits("test", image=IMAGE, length=24, called=_called("classification/digits", "chance")),
        "digits_unseen": parts.digits(
            "test_unseen", image=IMAGE, length=24, called=_called("classification/digits_unseen", "chance")
        ),
    }


def _called(name, *controls):
    return {"accuracy": name, **{f"accuracy_{control}": f"{name}_{control}" for control in controls}}
