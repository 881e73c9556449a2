"""Does a run speak of a person's files as it does of its own records, and say in a sentence what cannot be used?"""

import io
import re

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict
from PIL import Image

from configs import quickstart
from input_pipeline.sources.files import MAX_FILE_BYTES
from input_pipeline.sources.scenes import Scenes
from input_pipeline.streams import evaluation_stream
from input_pipeline.texts import TextSpec
from input_pipeline.transforms.resizing import Resizing
from mmfuse import build_data, build_goals
from mmfuse.ask import Wish, ask, in_words, load_example, understand
from mmfuse.experiment import Experiment
from mmfuse.inference.decoding import Decoding
from mmfuse.training.checkpoint import Checkpointer
from mmfuse.training.workdir import claim
from mmfuse.types import AUDIO_RATE, EOS, Caption, CheckpointError, ConfigError, DataError, Example, Question
from tests import small

QUESTION = "What is left of the red circle?"
FILES = {"image": "scene.png", "audio": "scene.wav"}


def config():
    made = small.get_config()
    made.mesh.data = 1
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scene as files, and files that are none."""
    folder = tmp_path_factory.mktemp("files")
    scene = next(record for record in Scenes("test") if {"image", "audio"} <= record.signals.keys())
    Image.fromarray(np.asarray(scene.signals["image"])).resize((90, 70)).save(folder / "scene.png")
    soundfile.write(folder / "scene.wav", scene.signals["audio"], AUDIO_RATE)
    (folder / "cut.png").write_bytes((folder / "scene.png").read_bytes()[:-1000])
    (folder / "cut.wav").write_bytes((folder / "scene.wav").read_bytes()[:-1000])
    (folder / "note.txt").write_text("a picture")
    (folder / "empty").touch()
    with open(folder / "huge.png", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    large = io.BytesIO()
    Image.new("1", (6000, 5000)).save(large, "PNG")
    (folder / "large.png").write_bytes(large.getvalue())
    return folder


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A run that has saved the state that it began with, as its third step."""
    experiment = Experiment(config(), tmp_path_factory.mktemp("run"))
    claim(experiment.workdir, experiment.config, {})
    experiment.tokenizer.save(experiment.workdir / "tokenizer")
    checkpointer = Checkpointer(experiment.workdir / "checkpoints", every=3, keep=1)
    checkpointer.save(3, experiment.maker.create(0), {"tally": {}})
    checkpointer.close()
    return experiment


class OneRecord:
    """The files as a record of a source."""

    def __init__(self, folder):
        signals = {name: (folder / path).read_bytes() for name, path in FILES.items()}
        self.record = Example("files", "files", signals, questions=(Question(QUESTION, "a square", "open"),))

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.record


@pytest.fixture(scope="module")
def stream(folder, experiment):
    """What an evaluator would read."""
    settings = ConfigDict(experiment.config.evaluators.vqa.stream.to_dict())
    settings.text.prompt.update(number=1, length=experiment.config.streams.answers.text.target.length)
    recipe = build_data.make_recipe(settings, experiment.tokenizer)
    return evaluation_stream("own", OneRecord(folder), recipe, rows=2)


def paths(folder, files=FILES):
    return {name: str(folder / path) for name, path in files.items()}


def test_an_example_is_that_of_a_record(folder, experiment, stream):
    wish = understand(experiment.config, FILES, QUESTION)
    loaded = load_example(wish, paths(folder), experiment.tokenizer, rows=2)
    wanted = stream[0].batch
    assert wanted.valid.tolist() == [True, False]
    np.testing.assert_equal(loaded.batch._replace(concept=wanted.concept), wanted)


def test_an_answer_is_that_of_an_evaluation(folder, experiment, stream, caplog):
    caplog.set_level("INFO", "mmfuse")
    found = ask(experiment, paths(folder), QUESTION, Decoding())
    assert "is not finished: this is step 0 of 12" in caplog.text  # by what the state says of itself
    wish = understand(experiment.config, FILES, QUESTION)
    prompt = stream[0].batch.text["prompt"]
    settings = ConfigDict({"kind": "answering", "tokens": wish.spec.length - int(prompt.segment.sum())})
    evaluator = build_goals.make_evaluator(
        settings, stream, experiment.maker.merge, experiment.mesh, tokenizer=experiment.tokenizer, workers=0
    )
    (written,) = evaluator.written(experiment.restore(), Question)
    said, numbers = found.split("\n")
    assert said.removesuffix(" …") == (" ".join(written.text.split()) or "(nothing)")
    assert re.match(r"probability [\d.e-]+: ", numbers)


def test_words_have_the_probability_of_their_tokens_together(tokenizer):
    ids = np.array([*tokenizer.encode("a red circlezz"), EOS, 0, 0])
    chances = np.linspace(0.5, 0.9, len(ids) - 2)
    log_prob = np.log([*chances, 1, 1]).astype(np.float32)
    text, numbers = in_words(ids, log_prob, tokenizer).split("\n")
    assert text == "a red circlezz"
    words, end = {"a": 1.0, "red": 1.0, "circlezz": 1.0}, 0
    for word in words:
        tokens = len(tokenizer.encode(word if word == "a" else f" {word}"))
        words[word], end = np.prod(chances[end : end + tokens]), end + tokens
    assert end == len(chances) - 1 > 3
    each = ", ".join(f"{word} {chance:.2g}" for word, chance in [*words.items(), ("(end)", chances[-1])])
    assert numbers == f"probability {np.prod(chances):.2g}: {each}"
    assert in_words(ids[:2], log_prob[:2], tokenizer).split("\n")[0].endswith(" …")
    assert in_words(ids[-3:], log_prob[-3:], tokenizer) == f"(nothing)\nprobability {chances[-1]:.2g}: (end) 0.9"


BOTH = {"image": (64, 64), "audio": (32_000,)}


@pytest.mark.parametrize(
    ("prompt", "files", "languages", "piece", "stream"),
    [
        (QUESTION, FILES, (), Question(QUESTION, "", ""), "answers"),
        ("is it: red?", ["audio"], (), Question("is it: red?", "", ""), "answers"),
        (None, ["image"], (), Caption("", "en"), "pairs"),
        (" de: ", FILES, (), Caption("", "de"), "pairs"),
        ("zh-Hant:", FILES, (), Caption("", "zh-Hant"), "pairs"),
        (None, FILES, ("sw", "de"), Caption("", "sw"), "pairs"),
        (None, FILES, ("sw", "en"), Caption("", "en"), "pairs"),
    ],
)
def test_a_prompt_means_what_the_streams_hold(prompt, files, languages, piece, stream):
    made = config()
    with made.unlocked():
        made.streams.pairs.text.target["languages"] = languages
    spec = build_data.make_text_specs(made.streams[stream])["target"]._replace(number=1)
    wanted = Wish(piece, spec, {name: BOTH[name] for name in files})
    assert understand(made, dict.fromkeys(files, "file"), prompt) == wanted


def test_a_stream_of_captions_and_questions_teaches_both():
    made = quickstart.get_config()
    asked, described = (understand(made, {"image": "file"}, prompt) for prompt in ("What colour is it?", None))
    assert asked.piece == Question("What colour is it?", "", "") and described.piece == Caption("", "en")
    assert asked.spec == described.spec and asked.spec.take == "whole_captions_and_questions"


def test_the_stream_that_reads_the_files_teaches_and_resizes():
    made = config()
    with made.unlocked():
        made.streams.also = made.streams.answers.copy_and_resolve_references()
        made.streams.also.signals = {"audio": (32_000,)}  # the first by its name
        made.streams.answers.resize = {"size": 64, "crop": (64, 64)}
    heard, seen = (understand(made, {name: "file"}, QUESTION) for name in ("audio", "image"))
    assert heard.signals == {"audio": (32_000,)} and heard.resizing is None
    assert seen.signals == {"image": (64, 64)} and seen.resizing == Resizing(64, crop=(64, 64))
    assert set(understand(made, FILES, QUESTION).signals) == set(FILES)


def test_a_picture_is_resized_as_in_the_stream_that_taught(tmp_path, tokenizer):
    image = np.random.default_rng(0).integers(0, 256, (40, 96, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "wide.png")
    resizing = Resizing(32, crop=(32, 32))
    wish = Wish(Question(QUESTION, "", ""), TextSpec("questions", 1, 24), {"image": (32, 32)}, resizing)
    loaded = load_example(wish, {"image": str(tmp_path / "wide.png")}, tokenizer, rows=1)
    np.testing.assert_array_equal(loaded.batch.signals["image"].values[0, 0], resizing(image))


@pytest.mark.parametrize(
    ("without", "files", "prompt", "words"),
    [
        ("", FILES, "  ", "--prompt is empty: write a question, or leave it out"),
        ("", {}, QUESTION, "nothing to look at or to hear: name a file, --audio=… or --image=…"),
        ("answers", FILES, QUESTION, "learned to caption, not to answer: leave --prompt out"),
        ("pairs", FILES, None, "learned to answer, not to caption: write a question"),
        ("pairs", FILES, "de:", "learned to answer, not to caption: write a question"),
        ("both", FILES, None, "matches and does not write"),
        ("audio", FILES, None, "--image, --audio: what the decoder learned to read is image."),
        ("memory", FILES, None, "--image, --audio: what the decoder learned to read is image."),
        ("languages", FILES, "fr:", "learned to caption in de, sw alone"),
    ],
)
def test_what_was_not_learned_is_refused(without, files, prompt, words):
    made = config()
    with made.unlocked():
        for name in {"both": ("answers", "pairs")}.get(without, (without,)):
            if name in made.streams:
                del made.streams[name]
        if without == "audio":
            del made.streams.pairs.signals.audio
        if without == "memory":
            made.model.single.memories = ("image",)
        if without == "languages":
            made.streams.pairs.text.target["languages"] = ("de", "sw")
    with pytest.raises(ConfigError, match=re.escape(words)):
        understand(made, files, prompt)


@pytest.mark.parametrize(
    ("files", "prompt", "words"),
    [
        ({"image": "none.png"}, QUESTION, "none.png cannot be read: No such file"),
        ({"image": "."}, QUESTION, "cannot be read: Is a directory"),
        ({"image": "empty"}, QUESTION, "empty cannot be used: not JPEG, PNG or WEBP"),
        ({"image": "note.txt"}, QUESTION, "note.txt cannot be used: not JPEG, PNG or WEBP"),
        ({"image": "scene.wav"}, QUESTION, "scene.wav cannot be used: not JPEG, PNG or WEBP"),
        ({"image": "cut.png"}, QUESTION, "cut.png cannot be used: damaged image"),
        ({"image": "huge.png"}, QUESTION, "huge.png cannot be used: it has more than 64 MiB"),
        ({"image": "large.png"}, QUESTION, "large.png cannot be used: too many pixels"),
        ({"image": "scene.png", "audio": "cut.wav"}, QUESTION, "--audio=.*cut.wav cannot be used: truncated audio"),
        ({"audio": "scene.png"}, QUESTION, "scene.png cannot be used: not WAV, FLAC or Ogg"),
        (FILES, "Is it? " * 30, "--prompt cannot be used: prompt too long; with its answer it has at most 32 tokens"),
        (FILES, "\ud800?", "--prompt cannot be used: lone surrogate"),
    ],
)
def test_files_that_cannot_be_used_are_named(folder, experiment, files, prompt, words):
    with pytest.raises(DataError, match=words):
        ask(experiment, paths(folder, files), prompt, Decoding())


def test_there_has_to_be_a_run_that_has_saved_something(folder, experiment, tmp_path):
    with pytest.raises(CheckpointError, match="there is no run"):
        ask(Experiment(config(), tmp_path / "none"), paths(folder), QUESTION, Decoding())
    fresh = Experiment(config(), tmp_path / "fresh")
    claim(fresh.workdir, fresh.config, {})
    fresh.tokenizer = experiment.tokenizer
    with pytest.raises(CheckpointError, match="has saved nothing yet"):
        ask(fresh, paths(folder), QUESTION, Decoding())
