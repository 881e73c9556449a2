"""Runs that begin with a released model: its numbers as they are, and what training changes of it."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from scipy.special import log_softmax, softmax

from configs import finetune, zero_shot
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.transforms.image import decode_image
from mmfuse.experiment import Experiment
from mmfuse.survey import fit_to_data
from mmfuse.training.rules import named_leaves
from mmfuse.types import CheckpointError, ConfigError
from mmfuse.weights import load_pretrained
from mmfuse.weights.__main__ import main
from mmfuse.weights.pixels import FlexiblePreprocessor
from mmfuse.weights.preprocessing import load_preprocessor
from mmfuse.weights.texts import load_texts
from tests import small_released

EXAMPLES, STEPS, ROWS = 40, 4, 8


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / request.param
    small_released.write_model(path, request.param)
    return path


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    return small_released.write_tar(tmp_path_factory.mktemp("tars") / "a.tar", range(3 * ROWS))


class ByHand:
    """What a folder's model says of pictures and texts; every place of a text is read, as it was trained."""

    def __init__(self, folder):
        self.model, config = load_pretrained(folder)
        self.prepare, self.spell = load_preprocessor(folder), load_texts(folder, length=config.model.towers.text.length)

    def images(self, images):
        made = [self.prepare(image) for image in images]
        if isinstance(self.prepare, FlexiblePreprocessor):
            return np.asarray(self.model.embed_patches(*(jnp.asarray(np.stack(part)) for part in zip(*made))))
        return np.asarray(self.model.embed_image(jnp.asarray(np.stack(made))))

    def texts(self, texts):
        return np.asarray(self.model.embed_text(jnp.asarray(self.spell(texts)[0])))

    def logits(self, images, texts):
        return np.asarray(self.model.similarity(jnp.asarray(self.images(images)), jnp.asarray(self.texts(texts))))


def zero_shot_of(folder, test=""):
    config = zero_shot.get_config(str(folder))
    config.data.test = test
    config.evaluators.digits.stream.examples = EXAMPLES
    return fit_to_data(config, {})


def finetune_of(folder, tar):
    config = finetune.get_config(str(folder))
    config.data.update(train=tar, test=tar)
    config.streams.pairs.rows = ROWS
    config.streams.pairs.augment = {}
    config.optimizer.update(warmup=1, learning_rate=1e-2)
    config.train.update(steps=STEPS, evaluate_every=STEPS)
    config.checkpoint.update(every=1, keep=STEPS)
    config.evaluators.retrieval.stream.rows = ROWS
    config.mesh.data = 1
    return config


def test_a_model_is_evaluated_as_it_is(folder, tar, tmp_path):
    Experiment(zero_shot_of(folder, tar), tmp_path).evaluate()
    found = json.loads((tmp_path / "summary.json").read_text())

    hand, source = ByHand(folder), Digits("test")
    classes = zero_shot_of(folder).evaluators.digits.classes
    means = np.stack([hand.texts(prompts).mean(axis=0) for _, prompts in classes])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = hand.images([source[index].signals["image"] for index in range(EXAMPLES)]) @ means.T
    likely = softmax(float(hand.model.dual.scale) * cosines, axis=1)
    label = np.array([int(source[index].concept[-1]) for index in range(EXAMPLES)])
    assert found["digits/accuracy"] == pytest.approx((likely.argmax(axis=1) == label).mean())
    brier = np.mean(((likely - np.eye(10)[label]) ** 2).sum(axis=1))
    assert found["digits/brier_score"] == pytest.approx(brier, rel=1e-4)

    source = Webdataset(tar)
    shown = [source[index] for index in range(len(source))]
    logits = hand.logits(*zip(*[(decode_image(it.signals["image"]), it.captions[0].text) for it in shown]))
    others = np.where(np.eye(len(shown), dtype=bool), -np.inf, logits).max(axis=1)
    first = (np.diag(logits) > others).mean()
    assert found["retrieval/image_to_text/recall_at_1"] == pytest.approx(first)
    assert found["retrieval/image_to_text/candidates"] == len(shown)
    assert (tmp_path / "report.html").exists()


def test_without_tars_only_the_digits_are_classified(folder, tmp_path):
    config = zero_shot_of(folder)
    assert list(config.evaluators) == ["digits"]
    with pytest.raises(ConfigError, match=r"no streams to learn from: evaluate what there is, --mode=evaluate"):
        Experiment(config, tmp_path / "none").train()
    assert not (tmp_path / "none").exists()


def test_a_workdir_keeps_what_was_evaluated(folder, tar, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    Experiment(zero_shot_of(copy), tmp_path / "run").restore()
    Experiment(zero_shot_of(copy, tar), tmp_path / "run").restore()  # on what it is measured may be another thing
    weights = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["weights"]
    assert weights == {"model.safetensors": (folder / "model.safetensors.sha256").read_text().split()[0]}
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    (copy / "model.safetensors.sha256").unlink()
    with pytest.raises(CheckpointError, match=r"found.weights.model.safetensors: \w{64} there, \w{64} now"):
        Experiment(zero_shot_of(copy), tmp_path / "run").restore()


@pytest.fixture(scope="module")
def trained(folder, tar, tmp_path_factory):
    """The workdir of a run of a few steps."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    Experiment(finetune_of(folder, tar), workdir).train()
    return workdir


def loss_by_hand(model, logits):
    """Zhai et al. 2023, equation 1; Radford et al. 2021, figure 3."""
    if model.dual.logit_bias is not None:
        return np.logaddexp(0, -logits * (2 * np.eye(len(logits)) - 1)).sum() / len(logits)
    return -(np.diag(log_softmax(logits, axis=1)) + np.diag(log_softmax(logits, axis=0))).mean() / 2


def test_training_starts_at_the_loss_of_the_folder(folder, tar, trained):
    experiment, source = Experiment(finetune_of(folder, tar), trained), Webdataset(tar)
    batch = experiment.streams["pairs"][0].batch
    shown = [source[int(index)] for index in batch.origin[:, 1]]
    hand = ByHand(folder)
    logits = hand.logits(*zip(*[(decode_image(it.signals["image"]), it.captions[0].text) for it in shown]))
    first = json.loads((trained / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(loss_by_hand(hand.model, logits), rel=2e-5)


def test_the_locked_tower_stays_and_the_other_learns(folder, tar, trained):
    state = Experiment(finetune_of(folder, tar), trained).restore()
    before = named_leaves(nnx.state(load_pretrained(folder)[0]))
    frozen, learned = named_leaves(state.frozen), named_leaves(state.trainable)
    assert frozen.keys() | learned.keys() == before.keys()
    assert {name.split("/")[1] for name in frozen} <= {"image", "projections"}
    assert not any("image" in name for name in learned)
    for name, leaf in frozen.items():
        np.testing.assert_array_equal(leaf, before[name], err_msg=name)
    still = [name for name, leaf in learned.items() if np.array_equal(leaf, before[name])]
    assert all(name.endswith("bias") for name in still)  # of keys: they change no attention


def test_a_run_goes_on_bit_for_bit(folder, tar, trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    for step in range(STEPS // 2 + 1, STEPS + 1):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    (workdir / "report.html").unlink()
    Experiment(finetune_of(folder, tar), workdir).train()
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        assert (workdir / name).read_bytes() == (trained / name).read_bytes()
    states = [named_leaves(Experiment(finetune_of(folder, tar), run).restore()) for run in (workdir, trained)]
    for name, leaf in states[0].items():
        np.testing.assert_array_equal(leaf, states[1][name], err_msg=name)


def test_what_was_trained_is_exported_with_its_tokenizer_and_preprocessing(folder, trained, tmp_path):
    main(["export", f"--workdir={trained}", str(tmp_path / "out")])
    ours, theirs = ByHand(tmp_path / "out"), ByHand(folder)
    assert ours.prepare == theirs.prepare
    texts = ["the digit four, written by hand", "", "FOUR <eos> </s> fours!", "four " * 30]
    np.testing.assert_array_equal(ours.spell(texts)[0], theirs.spell(texts)[0])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in folder.iterdir()}


def test_dry_runs_write_nothing(folder, tar, tmp_path, capsys):
    Experiment(zero_shot_of(folder), tmp_path / "none").describe()
    said = capsys.readouterr().out
    assert "0 trainable parameters" in said
    Experiment(finetune_of(folder, tar), tmp_path / "none").describe()
    said = capsys.readouterr().out
    assert "towers/image/embed/kernel (frozen)" in said and "FLOPs a step" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("get_config", [zero_shot.get_config, finetune.get_config])
def test_a_wrong_folder_is_refused_at_once(folder, get_config, tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json is missing: copy the whole folder"):
        get_config(str(tmp_path / "nowhere"))
    for missing in ("preprocessor_config.json", "tokenizer_config.json", "model.safetensors"):
        copy = shutil.copytree(folder, tmp_path / missing)
        (copy / missing).unlink()
        with pytest.raises(CheckpointError, match=r"is missing|neither model.safetensors nor"):
            get_config(str(copy))


def test_a_folder_whose_pictures_do_not_fit_its_model_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "preprocessor_config.json.sha256").unlink()
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    settings = {key: value for key, value in settings.items() if key != "max_num_patches"}
    (copy / "preprocessor_config.json").write_text(json.dumps(settings | {"do_center_crop": False, "size": 9}))
    with pytest.raises(CheckpointError, match="makes pictures of None, and its model reads"):
        zero_shot.get_config(str(copy))


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda stream: stream.signals.update(image=(9, 9)),
            r"resize makes pictures of .*, and signals.image is \(9, 9\)|\(9, 9\): write multiples of 4, with room for",
        ),
        (
            lambda stream: setattr(stream, "resize", ConfigDict({"patch": 4, "places": 5})),
            r"resize makes grids: its tower's '(patch' is \(5, 5\)|places' is (None|7)), and has to be",
        ),
        (lambda stream: stream.text.update(target=stream.text.caption), "which writes in our own ids"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused(folder, tar, tmp_path, change, said):
    config = finetune_of(folder, tar).unlock()
    change(config.streams.pairs)
    with pytest.raises(ConfigError, match=said):
        Experiment(config, tmp_path)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder, tar, tmp_path):
    config = finetune_of(folder, tar)
    config.tokenizer.vocabulary = 40
    with pytest.raises(CheckpointError, match=r"has \d+ ids, and the model knows 40"):
        Experiment(config, tmp_path).train()
    assert not list(tmp_path.iterdir())
