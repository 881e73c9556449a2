"""The usual parts of a config, with the settings that most experiments share.

Every function but `matching` returns a plain dict; an experiment changes what it wants to change. What a key means is
said here, once.
"""

from ml_collections import ConfigDict

from input_pipeline.sources.digits import CAPTIONS
from mmfuse.inference.decoding import Decoding


def encoder(width: int, depth: int, heads: int, **changes) -> dict:
    """Settings of a stack of self-attention blocks."""
    return {
        "width": width,  # D of the tokens
        "depth": depth,  # blocks; a tower of 0 is a bag of tokens
        "heads": heads,  # of attention; D / heads wide
        "key_heads": heads,  # fewer: grouped queries
        "mlp": 4 * width,  # hidden width of the MLP
        "norm": "layer",  # layer | rms
        "epsilon": 1e-6,  # of the norms
        "activation": "gelu_tanh",  # gelu_tanh | gelu | quick_gelu | relu | silu
        "position": "learned",  # learned | resized (to the grid of each picture) | sincos | rotary
        "remat": False,  # recompute activations in the backward pass
        "unroll": False,  # write all layers out in the program
        **changes,
    }


def vit(width: int, depth: int, heads: int, *, image: tuple[int, int], patch: tuple[int, int], **changes) -> dict:
    """A vision transformer over images of `image` = (height, width) pixels."""
    own = {"kind": "vit", "image": image, "patch": patch, "class_token": False, "pool": "mean"}
    pixels = {"channels": 3, "center": 127.5, "scale": 127.5}  # enter as (value − center) / scale
    released = {
        "class_position": False,  # a learned position for the class token, too
        "pre_norm": False,  # a norm before the first block
        "patch_bias": True,
        "crop": False,  # leave out pixels that fill no patch, rather than refuse them
    }
    return encoder(width, depth, heads, **(own | pixels | released | changes))


def convnet(width: int, blocks: tuple[int, ...], *, image: tuple[int, int], patch: tuple[int, int], **changes) -> dict:
    """A residual network of 3×3 convolutions with so many `blocks` in each stage; the last has `width` channels."""
    own = {"kind": "convnet", "width": width, "blocks": blocks, "image": image, "patch": patch}
    position = "none"  # none | learned | resized | sincos: added to the tokens, for who asks where something is
    norm = "layer"  # layer: over the channels of a position; instance: over the positions of a channel
    return {**own, "norm": norm, "position": position, "pool": "mean", **changes}


def audio(width: int, depth: int, heads: int, *, samples: int, patch: tuple[int, int], **changes) -> dict:
    """A transformer over the log-mel spectrogram of `samples` samples; patches are (frames, bands)."""
    own = {"kind": "audio", "samples": samples, "patch": patch, "class_token": False, "pool": "mean"}
    spectrogram = {"bands": 64, "window": 1024, "hop": 320}  # samples of a frame, samples from one to the next
    return encoder(width, depth, heads, **(own | spectrogram | changes))


def text(width: int, depth: int, heads: int, *, length: int, **changes) -> dict:
    """A text tower over at most `length` tokens."""
    own = {"kind": "text", "length": length, "causal": False, "pool": "mean"}
    released = {
        "eos": 2,  # the id that the pools eos and end look for; None: end looks for the highest
        "packed": True,  # rows may hold several texts
    }
    return encoder(width, depth, heads, **(own | released | changes))


def decoder(width: int, depth: int, heads: int, *, length: int, memories: tuple[str, ...], **changes) -> dict:
    """A causal decoder that reads memories through gated cross-attention after every `cross_every` blocks.

    With `pairs`, a budget for a text of `length` tokens, a word reads only the blocks of the memories that it chooses.
    """
    return encoder(width, depth, heads, **({"length": length, "memories": memories, "cross_every": 1} | changes))


def router(capacity: dict[str, float], **changes) -> dict:
    """Gates for the modalities that `capacity` names: the share of examples that each tower reads in training."""
    return {
        "gate": "threshold",  # threshold | binary_concrete | hard_concrete | top_1 | top_2 | random, by capacity
        "capacity": capacity,
        "dense_steps": 0,  # of training at first, whose towers read every example, some of them dimmed (`gates.Dimmed`)
        "falling": (),  # (last step, share) after these: up to that step each capacity is that share at least
        "learns": True,  # False: the router stays what the dense steps made of it
        "ladder": (0.0, 0.25, 0.5, 1.0),  # shares, of which evaluation takes the lowest that has room
        "at_most": len(capacity),  # modalities that evaluation reads of an example
        "groups": 1,  # of a batch, or of each piece of it, with a capacity of their own; a multiple of the shards
        "hidden": 16,  # width of the router's networks
        "temperature": {"start": 1.0, "end": 1.0, "steps": 1},  # falls by the same factor each step
        "open_at_first": 2.0,  # logit of a gate before anything is learned
        **changes,
    }


def consensus(between: tuple[str, ...], **changes) -> dict:
    """After the towers: which of the modalities disagrees with the others, and is not believed."""
    return {
        "between": between,  # three or more, or nothing is ever shut
        "width": 32,  # in which their tokens are compared
        "hidden": 16,  # width of the heads
        "threshold": 0.5,  # probability of being the odd one above which a modality is shut; 1: none is
        **changes,
    }


def answer_consensus(between: tuple[str, ...], **changes) -> dict:
    """After the towers, in evaluation: which modality answers otherwise than the others, and is not believed."""
    return {
        "between": between,  # three or more, or nothing is ever shut
        "questions": 4,  # the most of a row that are looked at
        "slip": 0.02,  # how often an answer is one that was given without looking
        "threshold": 0.5,  # probability of being the odd one above which a modality is shut; 1: none is
        **changes,
    }


def prefix(**changes) -> dict:
    """Tokens that say which modalities there are and how far they go; `memories` of the decoder names them `prefix`."""
    return {"drop": 0.1, **changes}  # share of the examples in training that are told nothing


def optimizer(learning_rate: float, *, warmup: int, **changes) -> dict:
    """AdamW, or Muon for kernels; the `(regex, rule)` lists go by parameters' names, and the first match counts."""
    return {
        "schedule": "cosine",  # cosine | constant | rsqrt, after a linear warm-up
        "learning_rate": learning_rate,
        "warmup": warmup,  # steps
        "final": 0.0,  # share of the learning rate at the last step, for cosine
        "b1": 0.9,
        "b2": 0.98,
        "eps": 1e-8,
        "clip": 1.0,  # of the gradient's global norm
        "weight_decay": ((r"(bias|scale|gate|log_scale|logit_bias)$", 0.0), (".*", 0.05)),
        "learning_rate_scale": ((".*", 1.0),),
        "orthogonal": ((".*", False),),  # true of kernels: Muon, in place of Adam
        "frozen": ((".*", False),),
        **changes,
    }


def decoding(**changes) -> dict:
    """How an evaluator has texts written; greedily, if nothing is changed. `Decoding` says what each setting means."""
    return {**Decoding()._asdict(), **changes}


def loader(**changes) -> dict:
    """How records are read; all of it may change when a run goes on."""
    return {
        "workers": 1,  # threads; 0 reads between the steps
        "memory": 0,  # MB; a source whose records take no more decoded is decoded once, else in each epoch
        "rejected_share": 0.1,  # the run stops when more of a source's records cannot be used
        **changes,
    }


def evaluation(**changes) -> dict:
    """Of `--mode=evaluate`."""
    return {"name": "", **changes}  # numbers go to summary-{name}.json, or to summary.json


def matching(*, image: tuple[int, int], length: int, loss: str, augment: dict) -> ConfigDict:
    """What pretraining on tars of captioned pictures has in common, but for the model, its tokenizer and its steps."""
    config = ConfigDict()
    config.seed = 0
    config.data = {"train": "", "test": ""}  # patterns of tars
    config.sources = {"train": {"kind": "webdataset", "shards": config.data.get_ref("train")}}
    pairs, caption = (("image", "caption"),), {"take": "captions", "number": 1, "length": length}
    config.streams = {
        "pairs": {
            "rows": 32_768,
            "mixture": {"train": 1.0},
            "signals": {"image": image},
            "augment": {"image": augment},
            "text": {"caption": caption},
            "objectives": {"contrastive": 1.0},
            "accumulate": 1,
        }
    }
    config.objectives = {"contrastive": {"kind": "contrastive", "loss": loss, "between": pairs}}
    config.sharding = sharding(PATCHES)
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.checkpoint = {"every": 1000, "keep": 2}
    config.log_every = 10
    config.loader = loader()
    test, several = {"kind": "webdataset", "shards": config.data.get_ref("test")}, {**caption, "number": 5}
    config.evaluators = {
        "retrieval": retrieval(
            test, signals={"image": image}, caption=several, between=pairs, examples=10_000, rows=1024
        )
    }
    config.eval = evaluation()
    return config


def retrieval(
    source: dict,
    *,
    signals: dict,
    caption: dict,
    between: tuple,
    examples: int,
    rows: int = 64,
    chunk: int = 256,
    optional: bool = False,
) -> dict:
    """Counterparts that are looked for among so many examples."""
    return {
        "kind": "retrieval",
        "source": source,
        "stream": {"rows": rows, "examples": examples, "signals": signals, "text": {"caption": caption}},  # at most
        "between": between,  # pairs of names; both ways
        "at": (1, 5, 10),  # K of recall@K
        "chunk": chunk,  # queries whose scores are in memory at once
        **({"optional": True} if optional else {}),  # left out where no shards are named
    }


def captioning(
    source: dict, *, signals: dict, prompt: dict, target: dict, examples: int, tokens: int, **changes
) -> dict:
    """Captions that are written for prompts, and compared with those that people have written, the targets."""
    text = {"prompt": prompt, "target": target}
    return {
        "kind": "captioning",
        "source": source,
        "stream": {"rows": 64, "examples": examples, "signals": signals, "text": text},  # at most
        "tokens": tokens,  # of the longest caption
        "decoding": decoding(),
        **changes,
    }


def answering(source: dict, *, signals: dict, examples: int, length: int, **changes) -> dict:
    """Questions of a source that are answered in words."""
    prompt = {"take": "questions", "number": 4, "length": length}
    return {
        "kind": "answering",
        "source": source,
        "stream": {"rows": 64, "examples": examples, "signals": signals, "text": {"prompt": prompt}},  # at most
        "tokens": 6,  # of the longest answer
        # "question_only": {"source": …, "records": …}: a control that only reads is trained on these records' questions
        "decoding": decoding(),
        "called": {},  # number → its key in the summary, where that is not evaluator/number
        **changes,
    }


def digits(split: str, *, image: tuple[int, int], length: int, **changes) -> dict:
    """Zero-shot classification of handwritten digits by what they are called in English, in several sentences."""
    names, frames = CAPTIONS["en"]
    return {
        "kind": "classification",
        "source": {"kind": "digits", "split": split},
        "stream": {"rows": 64, "examples": 300, "signals": {"image": image}, "text": {}},
        "signal": "image",
        # the concept of each class, and its prompts
        "classes": tuple(
            (f"digits/{digit}", tuple(frame.format(name) for frame in frames))
            for digit, name in enumerate(names.split())
        ),
        "length": length,  # tokens of a prompt
        "called": {},
        **changes,
    }


# A patch of a released model has 14 · 14 · 3 numbers, which do not divide by 8; the width does.
PATCHES = (r"embed/kernel$", (None, "fsdp"))


def sharding(*own: tuple) -> tuple:
    """Which mesh axes split which axes of a parameter, aligned at the right; scanned layers add an axis at the left.

    `own` rules come first.
    """
    return (
        *own,
        (r"(query|key|value|up)/kernel$", ("fsdp", "tensor")),
        (r"(attention/out|down)/kernel$|embed/embedding$", ("tensor", "fsdp")),
        (r"kernel$", ("fsdp", None)),
        (".*", ()),
    )
