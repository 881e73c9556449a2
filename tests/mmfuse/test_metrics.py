"""Tests of mmfuse.training.metrics, with real files and real kills."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mmfuse.training.metrics import MetricWriter, format_progress
from mmfuse.types import CheckpointError

FILES = ("metrics.jsonl", "evaluation.jsonl", "timing.jsonl")


def record(writer, step):
    """What a run writes at one step; a checkpoint could follow."""
    writer.write_step(step, {"loss": np.float32(1 / step), "rows": 7 * step})
    if step % 3 == 0:
        writer.write_evaluation(step, {"recall": jnp.float32(0.1 * step)})
    writer.write_timing(step, {"seconds": 0.5})
    writer.flush()


def run(workdir, first, last):
    writer = MetricWriter(workdir)
    writer.rewind(first - 1)
    for step in range(first, last + 1):
        record(writer, step)
    writer.close()


def contents(workdir):
    return {path.name: path.read_bytes() for path in workdir.iterdir() if path.is_file()}


def steps(workdir, name="metrics.jsonl"):
    return [json.loads(line)["step"] for line in (workdir / name).read_text().splitlines()]


def test_numbers_are_read_back_exactly(tmp_path):
    numbers = np.float32([0.1, 1 / 3, 1e-45, 3.4e38, -0.0])
    with_names = {str(i): number for i, number in enumerate(numbers)}
    writer = MetricWriter(tmp_path)
    writer.write_step(1, with_names | {"count": 2**60, "half": jnp.bfloat16(1 / 3), "python": 0.1})
    writer.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    read = np.float32([line[str(i)] for i in range(5)])
    assert read.tobytes() == numbers.tobytes()
    assert (line["step"], line["count"], line["python"]) == (1, 2**60, 0.1)
    assert jnp.bfloat16(line["half"]) == jnp.bfloat16(1 / 3)


def test_what_json_has_no_word_for_is_valid_json(tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    writer = MetricWriter(tmp_path)
    writer.write_step(1, {"a": math.nan, "b": jnp.float32(-np.inf), "c": np.inf})
    writer.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "a": "nan", "b": "-inf", "c": "inf"}
    assert math.isnan(float(line["a"])) and float(line["b"]) == -math.inf


def test_the_record_does_not_depend_on_the_clock(tmp_path):
    run(tmp_path / "a", 1, 7)
    time.sleep(0.01)
    run(tmp_path / "b", 1, 7)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_vector_is_no_number(tmp_path):
    with pytest.raises(ValueError):
        MetricWriter(tmp_path).write_step(1, {"loss": jnp.ones(2)})


@pytest.mark.parametrize("saved", [0, 4, 11])
def test_rewind_drops_what_came_after(tmp_path, saved):
    run(tmp_path / "whole", 1, 11)
    run(tmp_path / "resumed", 1, 11)
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    writer = MetricWriter(tmp_path / "resumed")
    writer.rewind(saved)
    for name in FILES:
        assert steps(tmp_path / "resumed", name) == [s for s in steps(tmp_path / "whole", name) if s <= saved]
    for step in range(saved + 1, 12):
        record(writer, step)
    writer.close()
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_rewind_of_a_half_line_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1')
    MetricWriter(tmp_path).rewind(0)
    assert contents(tmp_path) == {"metrics.jsonl": b""}


@pytest.mark.parametrize(
    "lines, message",
    [
        ([1, 2, 3], "line 4 should be step 4"),
        ([1, 2, 4], "line 3 should be step 3"),
        ([2, 3, 4], "line 1 should be step 1"),
        ([1, 2, 2, 3, 4], "line 3 should be step 3"),
        ([1, 2, 3, 4, 3], "line 5 should be step 5"),
        ([], "line 1 should be step 1"),
    ],
)
def test_missing_lines_are_refused_and_nothing_is_dropped(tmp_path, lines, message):
    text = "".join(f'{{"step": {step}}}\n' for step in [*lines, 5])
    (tmp_path / "metrics.jsonl").write_text(text)
    (tmp_path / "timing.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match=f"metrics.jsonl does not hold every step up to 4.*{message}"):
        MetricWriter(tmp_path).rewind(4)
    assert contents(tmp_path) == {"metrics.jsonl": text.encode(), "timing.jsonl": text.encode()}


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="every step up to 3"):
        MetricWriter(tmp_path).rewind(3)


@pytest.mark.parametrize("line", ["\0\0\0", '{"loss": 1}', "[1]"])
def test_a_broken_line_in_the_middle_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl, line 2, is no record"):
        MetricWriter(tmp_path).rewind(1)


def test_flush_makes_files_and_their_names_durable(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
    writer = MetricWriter(tmp_path)
    record(writer, 1)
    # and in between the events of TensorBoard
    wanted = [path.stat().st_ino for path in (tmp_path / FILES[0], tmp_path / FILES[2], tmp_path)]
    assert [number for number in synced if number in wanted] == wanted
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.stat().st_ino in synced
    writer.close()


def test_steps_follow_one_another(tmp_path):
    run(tmp_path, 1, 2)
    with pytest.raises(ValueError, match="Step 3 cannot follow step 0"):
        MetricWriter(tmp_path).write_step(3, {})
    writer = MetricWriter(tmp_path)
    writer.rewind(2)
    with pytest.raises(ValueError, match="Step 2 cannot follow step 2"):
        writer.write_step(2, {})


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    run(tmp_path / "workdir", 1, 3)
    assert not (tmp_path / "workdir").exists()


def read_events(path):
    """Yields the events of a TensorBoard file: length (8 bytes), checksum (4), event, checksum (4)."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_tensorboard_has_the_same_numbers_and_is_told_what_is_rewound(tmp_path):
    run(tmp_path, 1, 6)
    run(tmp_path, 5, 5)
    first, second = ([*read_events(path)] for path in sorted((tmp_path / "tensorboard").iterdir()))
    loss = [(event.step, v.simple_value) for event in first for v in event.summary.value if v.tag == "metrics/loss"]
    assert loss == [(step, np.float32(1 / step)) for step in range(1, 7)]
    assert {v.tag for e in first for v in e.summary.value} == {
        "metrics/loss",
        "metrics/rows",
        "evaluation/recall",
        "timing/seconds",
    }
    # TensorBoard hides the steps of earlier files from a session's start on.
    starts = [event.step for event in second if event.session_log.status == SessionLog.START]
    assert starts == [5]
    assert {event.step for event in second if event.summary.value} == {5}


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
import test_metrics
from mmfuse.training.metrics import MetricWriter

writer = MetricWriter(sys.argv[1])
writer.rewind(int(sys.argv[3]))
for step in range(int(sys.argv[3]) + 1, 10**6):
    test_metrics.record(writer, step)
    print(step, flush=True)  # stands for a checkpoint: the lines are durable
"""


@pytest.mark.processes
def test_a_killed_run_leaves_the_lines_of_every_checkpoint(tmp_path, request):
    killed, saved = tmp_path / "killed", 0
    for lines in (20, 37):
        command = [sys.executable, "-c", KILLED, str(killed), str(request.path.parent), str(saved)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=request.config.rootpath)
        for _ in range(lines):
            saved = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
        process.stdout.close()
        process.wait()
        assert len(steps(killed)) >= saved
    run(killed, saved + 1, 60)
    run(tmp_path / "whole", 1, 60)
    assert contents(killed) == contents(tmp_path / "whole")


def test_progress_reads_well():
    line = format_progress(120, 2000, 0.12345, 1234.56, 0.4321, 0.012, 3 * 3600 + 61.7)
    assert line == ("step 120/2000  loss 0.1235  1,234.6 examples/s  MFU 43.2%  waiting for data 1.2%  3:01:02 left")
