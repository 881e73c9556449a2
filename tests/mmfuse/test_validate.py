"""What cannot be run is refused in one sentence, before anything is allocated."""

import functools
from operator import getitem

import pytest

from configs import parts, router_consensus
from mmfuse.types import ConfigError
from mmfuse.validate import validate
from tests import small, small_routed

ASKED = parts.answer_consensus(("image", "audio", "source"))

CONVNET = parts.convnet(64, (1, 1, 1), image=(64, 64), patch=(4, 4))
WRONG = [
    (
        {"model.towers.image": CONVNET | {"position": "rotary"}},
        "model.towers.image.position is 'rotary', and a convnet has no attention",
    ),
    (
        {"evaluators.retrieval.question_only": {"source": {"kind": "scenes", "split": "train"}, "records": 5}},
        "evaluators.retrieval.question_only: only 'answering' has it",
    ),
    (
        {"evaluators.vqa.question_only": {"source": {"kind": "scene", "split": "train"}, "records": 5}},
        "no source 'scene'; did you mean 'scenes'",
    ),
    (
        {"evaluators.vqa.question_only": {"source": {"kind": "scenes", "split": "train"}, "records": 0}},
        "question_only.records is 0: write a number above 0",
    ),
    ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate is nan: write a finite number"),
    ({"optimizer.clip": float("inf")}, "optimizer.clip is inf"),
    ({"optimizer.warmup": -1}, "optimizer.warmup is -1: it cannot be negative"),
    ({"model.dual.temperature": 0.0}, "model.dual.temperature is 0.0: write a number above 0"),
    ({"train.steps": 0}, "train.steps is 0: write a number above 0"),
    ({"optimizer.weight_decay": ((".*", float("nan")),)}, "optimizer.weight_decay is nan"),
    ({"model.towers.image.patch": (16, 0)}, "model.towers.image.patch is 0"),
    ({"tokenizer.vocabulary": 200}, "tokenizer.vocabulary is 200: every byte and the control tokens need 259"),
    ({"streams.pairs.rows": 10}, "streams.pairs.rows is 10, which does not divide by 4 .* write 8"),
    ({"evaluators.vqa.stream.rows": 3}, "evaluators.vqa.stream.rows is 3, .* write 4"),
    ({"streams.answers.accumulate": 3}, r"does not divide by 12 \(4 shards"),
    ({"streams.pairs.mixture": {"scene": 1.0}}, "no source in streams.pairs.mixture: 'scene'; did you mean 'scenes'"),
    ({"streams.pairs.mixture": {}}, "streams.pairs.mixture is empty"),
    ({"streams.pairs.mixture": {"scenes": 0.0}}, "take sources of weight 0 out"),
    ({"streams.pairs.signals.image": (32, 32)}, r"signals.image is \(32, 32\), and its tower reads \(64, 64\)"),
    ({"streams.pairs.signals": {"imgae": (64, 64)}}, "'imgae'; did you mean 'image'"),
    ({"streams.pairs.text.caption.length": 100}, "reads at most 40 tokens"),
    (
        {"streams.pairs.text.caption.packed": 2},
        "text.caption.packed is 2: write 1, or more for texts of the role 'target' alone",
    ),
    ({"streams.answers.augment": {"text": {}}}, "streams.answers.augment.text changes a signal that the stream lacks"),
    ({"streams.answers.augment": {"image": {"flipp": {}}}}, "no augmentation of images 'flipp'; did you mean 'flip'"),
    ({"streams.answers.augment": {"audio": {"gain_db": -1}}}, "cannot be negative"),
    (
        {"model.towers.image": CONVNET | {"width": 10}},
        r"image.width=10 does not halve 2 times: make it a multiple of 4",
    ),
    ({"model.towers.image": CONVNET | {"patch": (12, 4)}}, r"\(64, 64\) does not divide by \(48, 16\)"),
    ({"model.towers.image": CONVNET | {"blocks": ()}}, "image.blocks is empty"),
    ({"model.prefix": {"drop": 0.1}}, "model.single.memories go together: name 'prefix' among the memories"),
    ({"model.single.memories": ("prefix", "image")}, "there is no model.prefix for 'prefix' among the memories"),
    (
        {"model.prefix": {"drop": 1.0}, "model.single.memories": ("prefix", "image", "audio")},
        "model.prefix.drop is 1.0: write a share",
    ),
    ({"model.keep": {"picture": 3}}, "model.keep names 'picture', which no tower reads"),
    ({"model.keep": {"caption": 1}}, "model.keep.caption is 1: write how many tokens are read, 2 or more"),
    ({"model.towers.image": CONVNET | {"blocks": (1, 0)}}, "image.blocks is 0: write a number above 0"),
    ({"evaluators.vqa.stream.text.prompt.packed": 2}, "text.prompt.packed is 2"),
    ({"streams.answers.text.target.languages": ("en",)}, "a text of 'questions' does not say its language"),
    ({"streams.pairs.text.target.language": ("en",)}, "no setting of a text 'language'; did you mean 'languages'"),
    (
        {"streams.pairs.text.captoin": {"take": "captions", "number": 1, "length": 9}},
        "'captoin'; did you mean 'caption",
    ),
    ({"streams.pairs.objectives": {"contrastve": 1.0}}, "'contrastve'; did you mean 'contrastive'"),
    ({"streams.answers.objectives": {"contrastive": 1.0}}, "needs caption, which the stream lacks"),
    ({"streams.pairs.objectives": {}}, "streams.pairs.objectives is empty"),
    ({"objectives.contrastive.kind": "contrast"}, "kind of objective 'contrast'; did you mean 'contrastive'"),
    ({"objectives.contrastive.between": (("image", "text"),)}, "needs text, which the stream lacks"),
    ({"model.towers.image.kind": "vitt"}, "no tower 'vitt'; did you mean 'vit'"),
    ({"model.dual.projection": {"image": "linea"}}, "no projection 'linea'; did you mean 'linear'"),
    ({"model.dual.projection": {"imag": "none"}}, "'imag'; did you mean 'image'"),
    ({"model.dual.projection": {"image": "none"}}, "the tower is 16 wide where the shared space has 8"),
    ({"model.towers.image.pool": "end"}, "pool is 'end', which needs the setting 'eos', and a 'vit' has none"),
    ({"model.towers.image": CONVNET | {"norm": "instance"}}, "image.pool is 'mean', and an instance norm centres"),
    ({"model.towers.image": CONVNET | {"pool": "attention"}}, "needs the setting 'heads', and a 'convnet' has none"),
    ({"model.towers.image.heads": 3}, "model.towers.image.width=16 does not divide by heads=3"),
    ({"model.towers.text.key_heads": 3}, "model.towers.text.heads=2 does not divide by key_heads=3"),
    ({"model.towers.image.patch": (5, 5)}, r"model.towers.image.patch=\(5, 5\) does not divide \(64, 64\)"),
    ({"model.single.depth": 0}, "model.single.depth is 0: write a number above 0"),
    ({"model.single.cross_every": 3}, "make it a multiple of cross_every=3"),
    ({"objectives.answering.alone": 1.5}, "objectives.answering.alone is 1.5: write a weight from 0 to 1"),
    (
        {
            "objectives.answering.alone": 0.5,
            "model.prefix": {"drop": 0.1},
            "model.single.memories": ("prefix", "image", "audio"),
        },
        "objectives.answering.alone is 0.5: model.prefix would tell the decoder of what is taken from it",
    ),
    ({"model.single.pairs": 3}, "model.single.pairs is 3: write length=.*, a pair for each word, or more"),
    ({"model.single.memories": ("image", "video")}, "names 'video', which no tower makes"),
    ({"model.single.memories": ("source",)}, "has none of the signals that the decoder reads: source"),
    ({"model.single.width": 6}, "rotary positions turn pairs, and a head is 3 wide"),
    ({"evaluators.vqa.kind": "answers"}, "no evaluator 'answers'; did you mean 'answering'"),
    ({"train.steps": "many"}, "train.steps is 'many': write a number above 0"),
    ({"model.towers.image.patch": (16, None)}, "model.towers.image.patch is None"),
    ({"train.minutes": 10**400}, "the config cannot be read: .*configs/parts.py says what belongs there"),
    ({"streams": ()}, "the config cannot be read: 'tuple' object has no attribute 'items'"),
    ({"model.towers": {"text": "vit"}}, "model cannot be read: 'str' object has no attribute 'kind'"),
    ({"streams.pairs": {"rows": 8}}, "streams.pairs cannot be read: .*mixture"),
    ({"streams.pairs.mixture": {"scenes": None}}, "streams.pairs cannot be read"),
    ({"evaluators.vqa.stream.signals": 5}, "evaluators.vqa cannot be read"),
    ({"evaluators.vqa.stream.text": {}}, "evaluators.vqa.stream lacks prompt: say what it holds"),
    (
        {"evaluators.caption.stream.text": {"prompt": {"take": "captions", "number": 1, "length": 8}}},
        "evaluators.caption.stream lacks target",
    ),
    (
        {"evaluators.vqa.stream.text.prompt.take": "captions"},
        "vqa.stream.text.prompt takes 'captions', which 'answering' cannot use: take one of questions, whole_captions_",
    ),
    (
        {"evaluators.caption.stream.text.prompt.take": "questions"},
        "caption.stream.text.prompt takes 'questions', which 'captioning' cannot use: take one of captions, ",
    ),
    *(
        (
            {"evaluators.caption.stream.text.target.take": take},
            f"caption.stream.text.target takes '{take}', which 'captioning' cannot use: take one of captions, ",
        )
        for take in ("questions", "whole_captions_and_questions")
    ),
    (
        {"evaluators.vqa.tokens": 17},
        "evaluators.vqa writes 17 tokens behind prompts of 24, and the model reads at most 40 together: write fewer",
    ),
    ({"evaluators.caption.stream.text.prompt.length": 34}, "evaluators.caption writes 7 tokens behind prompts of 34"),
    ({"evaluators.retrieval.between": (("image", "source"),)}, "evaluators.retrieval.stream lacks source"),
    ({"evaluators.digits.signal": "audio"}, "evaluators.digits.stream lacks audio: say what it holds"),
    ({"evaluators.digits.classes": (("a", ("one",)), ("a", ("two",)))}, "1 different classes in 2: name two or more"),
    ({"evaluators.digits.classes": (("a", ("one",)),)}, "1 different classes in 1"),
    ({"evaluators.digits.classes": (("a", ("one",)), ("b", ("two", " ")))}, "the prompts of 'b' are .* write texts"),
    ({"evaluators.digits.classes": (("a", ("one",)), ("b", "two"))}, "the prompts of 'b' are 'two': write texts in a"),
    (
        {"evaluators.digits.classes": (("a", ("one", "\ud800")), ("b", ("two",)))},
        "the prompts of 'a' are .* write texts",
    ),
    ({"evaluators.digits.length": 41}, "length is 41: write 3 tokens or more, and at most 40"),
    ({"evaluators.digits.length": 2}, "length is 2: write 3 tokens or more, and at most 40"),
    ({"evaluators.vqa.called": {"accuracy": "classification/digits"}}, "2 numbers .* called 'classification/digits'"),
    ({"evaluators.vqa.decoding.beams": 0}, "decoding with beams=0.*: write beams=1 or more"),
    ({"evaluators.vqa.decoding": {"beam": 4}}, "no setting of decoding 'beam'; did you mean 'beams'"),
    ({"evaluators.vqa.source.kind": "scene"}, "no source 'scene'; did you mean 'scenes'"),
]


def changed(changes):
    config = small.get_config()
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            *path, last = name.split(".")
            node = config
            for part in path:
                node = node[part]
            node[last] = value
    return config


MIXED = {f"evaluators.{name}.stream.text.prompt.take": "whole_captions_and_questions" for name in ("vqa", "caption")}


@pytest.mark.parametrize("changes", [{}, {"evaluators.vqa.tokens": 16}, MIXED])
def test_a_right_config_passes(changes):
    validate(changed(changes), shards=4)


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[next(iter(changes)) for changes, _ in WRONG])
def test_a_wrong_config_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        validate(changed(changes), shards=4)


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        ("retrieval", "model.dual", "evaluators.retrieval compares embeddings: it needs model.dual"),
        ("digits", "model.dual", "evaluators.digits compares embeddings: it needs model.dual"),
        ("digits", "model.towers.text", "evaluators.digits reads its prompts by the tower 'text'"),
    ],
)
def test_an_evaluator_needs_its_part_of_the_model(name, part, words):
    config = small.get_config()
    *path, last = part.split(".")
    with config.unlocked():
        config.streams = {"answers": config.streams.answers}
        config.evaluators = {name: config.evaluators[name]}
        if name == "retrieval":
            config.evaluators.retrieval.update(between=(("image", "audio"),))
            config.evaluators.retrieval.stream.text = {}
        del functools.reduce(getitem, path, config)[last]
    with pytest.raises(ConfigError, match=words):
        validate(config, shards=1)


@pytest.mark.parametrize("head", ["dual", "single"])
def test_an_objective_needs_its_head(head):
    config = small.get_config()
    with config.unlocked():
        del config.model[head]
    with pytest.raises(ConfigError, match=f"needs model.{head}|read by '{head}', which the model does not have"):
        validate(config, shards=1)


@pytest.mark.parametrize(
    ("room", "changes", "words"),
    [
        ("model.consensus", {"threshold": 0.4}, "consensus.threshold is 0.4: write 0.5"),
        ("model.consensus", {"between": ("image",)}, "consensus.between: name two modalities or more"),
        ("model.consensus", {"between": ("image", "depth")}, "names 'depth', which no tower reads"),
        ("objectives.matching", {"between": (("source", "image"),)}, "matching.between has .*: the pairs of model"),
        ("objectives.matching", {"mates": 16}, "mates is 16, and streams.answers has 16 rows: write fewer"),
        ("objectives.matching", {"mates": 0}, "mates is 0: write a number above 0"),
        (
            "streams.answers.objectives",
            {"matching": None},
            "text.foil is a mate of what is matched with 'source'",
        ),
        ("model", {"consensus": None}, "the objective 'matching' needs model.consensus"),
        ("model", {"consensus": ASKED}, "objectives.matching teaches heads, and model.consensus has none"),
        ("model", {"consensus": {**ASKED, "slip": 1.0}}, "consensus.slip is 1.0: write a share of the answers"),
        ("model", {"consensus": {**ASKED, "questions": 0}}, "consensus.questions is 0: write a number above 0"),
        ("model.router", {"at_most": 0}, "router.at_most is 0: write 1 or more"),
        ("model.router", {"learns": False, "dense_steps": 0}, "its gates would never learn anything"),
        ("model.router", {"falling": ((9, 0.5), (5, 0.4))}, r"\(last step, share\) with steps that rise"),
        ("model.router", {"falling": ((9, 0.5), (12, 0.6))}, "shares of 1 at most that do not"),
        ("model.router", {"dense_steps": 9, "falling": ((9, 0.5),)}, "beyond dense_steps=9"),
        ("model.router.temperature", {"start": 0.0}, "router.temperature.start is 0.0: write a number above 0"),
        ("model.router.temperature", {"end": 0.0}, "router.temperature.end is 0.0: write a number above 0"),
        ("model.router", {"ladder": (0.5, 0.25)}, "write rising shares of which the last is 1.0"),
        ("model.router", {"capacity": {"image": 1.5}}, "capacity.image is 1.5: write a share above 0"),
        ("model.router", {"capacity": {}}, "router.capacity is empty: name a modality"),
        ("loader", {"memory": "lots"}, "loader.memory is 'lots': write a whole number"),
    ],
)
def test_what_is_routed_and_compared_can_be(room, changes, words):
    config = small_routed.get_config()
    with config.unlocked(), config.ignore_type():
        node = functools.reduce(getitem, room.split("."), config)
        for name, value in changes.items():
            node[name] = value
            if value is None:
                del node[name]
    with pytest.raises(ConfigError, match=words):
        validate(config, shards=1)


def test_a_value_in_the_place_of_a_part_is_refused():
    config = small.get_config()
    with config.unlocked(), config.ignore_type():
        config.eval = "other"
    with pytest.raises(ConfigError, match="eval cannot be read"):
        validate(config, shards=1)


@pytest.mark.parametrize(
    ("room", "changes", "words"),
    [
        ("objectives.writing", {"alone": 0.0}, "asks each modality alone, and no objective teaches that"),
        ("evaluators.agreement.stream", {"text": {}}, "agreement.stream lacks prompt: model.consensus compares what"),
        ("model.single", {"memories": ("image",)}, "model.consensus asks audio, source, which the decoder does not"),
    ],
)
def test_who_is_asked_alone_has_learned_to_answer(room, changes, words):
    config = router_consensus.get_config("asked").unlock()
    validate(config, shards=1)
    for name, value in changes.items():
        functools.reduce(getitem, room.split("."), config)[name] = value
    with pytest.raises(ConfigError, match=words):
        validate(config, shards=1)
