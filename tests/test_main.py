"""The program as people start it: real processes, killed, resumed, refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from PIL import Image

from input_pipeline.prepare.shards import write_shards
from input_pipeline.sources.scenes import Scenes
from mmfuse.types import AUDIO_RATE
from tests.running import ROOT, SMALL, finish, last_checkpoint, metrics, start, wait_for_step

STEPS = 12

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(workdir)
    return workdir


def test_a_run_writes_a_line_for_every_step_and_a_summary(uninterrupted):
    lines = metrics(uninterrupted)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert all(isinstance(line["loss"], float) for line in lines)
    summary = json.loads((uninterrupted / "summary.json").read_text())
    assert summary["step"] == STEPS
    recalls = "retrieval/image_to_text/recall_at_1", "retrieval/text_to_image/recall_at_1"
    for key in (*recalls, "vqa/accuracy", "vqa/accuracy_blind", "caption/attribute_f1", "classification/digits"):
        assert 0 <= summary[key] <= 1
    answers = json.loads((uninterrupted / "results" / "vqa.json").read_text())
    assert len(answers) == summary["vqa/questions"] > 0
    assert [json.loads(line)["step"] for line in (uninterrupted / "evaluation.jsonl").read_text().splitlines()] == [
        6,
        12,
    ]
    timing = [json.loads(line) for line in (uninterrupted / "timing.jsonl").read_text().splitlines()]
    assert len(timing) == STEPS and all(0 <= line["wait_share"] <= 1 and line["mfu"] > 0 for line in timing)
    assert list((uninterrupted / "tensorboard").iterdir())
    page = (uninterrupted / "report.html").read_text()
    for part in ('id="vqa"', 'id="caption"', 'id="retrieval"', 'id="numbers"', 'id="curves"', 'class="word"'):
        assert part in page, part
    read = lines[-1]["data/scenes/read"] + lines[-1]["data/digits/read"]
    assert read == STEPS * 16  # two streams of eight rows
    rejected = sum(count for name, count in lines[-1].items() if name.startswith("data/scenes/rejected/"))
    assert lines[-1]["data/scenes/read"] == lines[-1]["data/scenes/used"] + rejected


def reached(workdir):
    """The summary without what depends on how fast the machine was."""
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary.pop("time/wall_seconds") > 0 and 0 <= summary.pop("data/wait_share") <= 1
    return summary


def test_killed_or_stopped_at_any_moment_it_goes_on_bit_for_bit(tmp_path, uninterrupted):
    draw = random.Random(0)
    workdir = tmp_path / "interrupted"
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGKILL):
        process = start(workdir)
        wait_for_step(process, workdir, min(STEPS, len(metrics(workdir)) + draw.randint(1, 3)))
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
        if number == signal.SIGTERM:
            assert process.returncode == 75, output
            assert "the same command goes on from there" in output
            assert last_checkpoint(workdir)[0] == len(metrics(workdir)) < STEPS
    # another number of threads that prepare data changes nothing
    finish(workdir, "--config.loader.workers=0")
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        assert (workdir / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    assert reached(workdir) == reached(uninterrupted)
    assert last_checkpoint(workdir) == last_checkpoint(uninterrupted)


def test_a_finished_run_is_done(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    assert "complete" in finish(uninterrupted)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_a_report_of_a_step_on_the_way_is_made_anew_at_the_end(uninterrupted):
    page, step = uninterrupted / "report.html", '<meta name="step" content="{}">'
    at_the_end = page.read_text()
    page.write_text(at_the_end.replace(step.format(STEPS), step.format(6)))  # as --mode=evaluate left it
    finish(uninterrupted)
    assert step.format(STEPS) in at_the_end and step.format(STEPS) in page.read_text()


def test_evaluate_gives_the_numbers_of_the_end(uninterrupted):
    before = json.loads((uninterrupted / "summary.json").read_text())
    (uninterrupted / "summary.json").unlink()
    finish(uninterrupted, "--mode=evaluate")
    assert json.loads((uninterrupted / "summary.json").read_text()) == before


def test_evaluate_on_something_else_finds_the_config_in_the_workdir(uninterrupted):
    before = (uninterrupted / "summary.json").read_bytes()
    changes = "--config.eval.name=other", "--config.evaluators.retrieval.stream.examples=5"
    finish(uninterrupted, "--mode=evaluate", *changes, config=None)
    other = json.loads((uninterrupted / "summary-other.json").read_text())
    assert other["retrieval/text_to_image/candidates"] == 5
    assert json.loads(before)["retrieval/text_to_image/candidates"] == 24
    assert (uninterrupted / "summary.json").read_bytes() == before
    output = finish(uninterrupted, "--mode=evaluate", "--config.seed=3", config=None, code=2)
    assert "seed: 0 there, 3 now" in output


def test_a_finished_run_speaks_of_a_persons_own_files(uninterrupted, tmp_path):
    scene = Scenes("test")[0]
    image, audio = tmp_path / "scene.png", tmp_path / "scene.wav"
    Image.fromarray(np.asarray(scene.signals["image"])).save(image)
    soundfile.write(audio, scene.signals["audio"], AUDIO_RATE)
    flags = f"--image={image}", f"--audio={audio}", "--prompt=What is left of the red circle?", "--decoding.beams=3"
    output = finish(uninterrupted, "--mode=generate", *flags, config=None)
    assert output.splitlines()[-1].startswith("probability") and "not finished" not in output
    output = finish(uninterrupted, "--mode=generate", f"--image={audio}", config=None, code=2)
    assert f"--image={audio} cannot be used: not JPEG, PNG or WEBP" in output


def test_evaluate_needs_a_run(tmp_path):
    assert "there is no run in" in finish(tmp_path / "none", "--mode=evaluate", code=2)
    assert not (tmp_path / "none").exists()


def test_dry_run_leaves_nothing_behind(tmp_path):
    output = finish(tmp_path / "dry", "--mode=dry_run")
    assert not (tmp_path / "dry").exists()
    for words in (
        "towers/image/embed/kernel",
        "trainable parameters",
        "FLOPs a step",
        "pairs/signals/image/values",
        "temporary",
    ):
        assert words in output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.optimizer.learningrate=1e-3"], 'Did you mean "learning_rate"'),
        (["--config.optimizer.learning_rate=nan"], "optimizer.learning_rate is nan: write a finite number"),
        (["--config.streams.pairs.rows=12", "--cpu_devices=8"], "streams.pairs.rows is 12, which does not divide by 8"),
        (["--config.mesh.data=3"], "needs 3 devices, and there are 1"),
        (["--config.model.towers.image.pool=meen"], "there is no pool 'meen'; did you mean 'mean'?"),
        (["--config.objectives.contrastive.loss=infonce"], "did you mean 'info_nce'?"),
        (["--mode=trian"], "trian"),
        (["--image=a.jpg", "--prompt=what?"], "--image, --prompt: for --mode=generate alone"),
        (["--processes=2", "--process=0"], "--processes and --process need --coordinator"),
        (["--mode=dry_run", "--decoding.beams=3"], "--decoding.beams: for --mode=generate alone"),
    ],
    ids=lambda value: value[0][2:] if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path, flags, words):
    output = finish(tmp_path / "refused", *flags, code=2)
    assert words in output
    assert not (tmp_path / "refused").exists()


def test_other_configs_and_other_shapes_are_refused(uninterrupted):
    output = finish(uninterrupted, "--config.optimizer.learning_rate=1e-4", code=2)
    assert "optimizer.learning_rate: 0.002 there, 0.0001 now" in output


def test_shards_that_are_not_there_are_refused(tmp_path):
    output = finish(tmp_path / "refused", config=f"{SMALL}:{tmp_path}/none-*.tar", code=2)
    assert "none-*.tar" in output
    assert not (tmp_path / "refused").exists()


def test_what_a_run_is_to_be_measured_on_is_there_before_it_begins(tmp_path):
    write_shards(Scenes("train"), tmp_path, count=8, per_shard=8)
    flags = f"--config.data.train={tmp_path}/*.tar", f"--config.data.test={tmp_path}/none-*.tar"
    output = finish(tmp_path / "refused", *flags, config="tests/small_own_data.py", code=2)
    assert "none-*.tar" in output and not (tmp_path / "refused").exists()


def test_own_data_by_minutes(tmp_path):
    for split in ("train", "test"):
        write_shards(Scenes(split), tmp_path / split, count=20, per_shard=10)
    flags = [f"--config.data.{split}={tmp_path}/{split}/*.tar" for split in ("train", "test")]
    config, workdir = "tests/small_own_data.py", tmp_path / "run"
    process = start(workdir, *flags, "--config.train.minutes=5", config=config)
    wait_for_step(process, workdir, 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert "30 steps in 5 minutes" in output and process.returncode == 75
    output = finish(workdir, *flags, "--config.train.minutes=5", config=config)
    assert "going on from step" in output and "steps in 5 minutes" not in output
    assert len(metrics(workdir)) == 30
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["retrieval/audio_to_text/candidates"] > 20 == summary["retrieval/text_to_audio/candidates"]
    assert 0 <= summary["caption/cider"] <= 10 and summary["caption/candidates"] == 20

    for tar in (tmp_path / "train").glob("*.tar"):
        tar.unlink()  # a finished run is evaluated without them
    other = tmp_path / "test" / "00001.tar"
    finish(workdir, "--mode=evaluate", f"--config.data.test={other}", "--config.eval.name=other", config=None)
    numbers = json.loads((workdir / "summary-other.json").read_text())
    assert numbers["retrieval/text_to_image/candidates"] == 10 and numbers["rejected/total"] == 0


def test_a_persons_own_tars_are_part_of_the_mixture(tmp_path):
    shards = tmp_path / "shards"
    prepare = [
        sys.executable,
        "-m",
        "input_pipeline.prepare",
        "shards",
        f"--out={shards}",
        "--count=20",
        "--per-shard=2",
    ]
    subprocess.run(prepare, cwd=ROOT, check=True, capture_output=True)
    for tar in shards.glob("*.tar"):
        os.truncate(tar, tar.stat().st_size // 2)  # a copy that broke off
    finish(tmp_path / "run", "--config.train.steps=4", config=f"{SMALL}:{shards}/*.tar")
    last = metrics(tmp_path / "run")[-1]
    rejected = {name: count for name, count in last.items() if name.startswith("data/tars/rejected/")}
    assert last["data/tars/used"] > 0 and rejected
    assert last["data/tars/read"] == last["data/tars/used"] + sum(rejected.values())
