"""Several processes are one run, and what a process asks of its machine."""

import json
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from input_pipeline.prepare.shards import write_shards
from input_pipeline.sources.scenes import Scenes
from tests.running import finish, metrics, start, wait_for_step

pytestmark = pytest.mark.processes


def address():
    """Where two processes may find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start_two(workdir, *flags, config, own=("", "")):
    """Two processes of one run, each with a flag of its own."""
    shared = f"--coordinator={address()}", "--processes=2", "--cpu_devices=2"
    each = [[f"--process={index}", *filter(None, [flag])] for index, flag in enumerate(own)]
    return [start(workdir, *flags, *shared, *mine, config=config) for mine in each]


def test_one_process_that_reads_too_much_that_is_bad_stops_both_at_the_same_step(tmp_path):
    shards, workdir = tmp_path / "shards", tmp_path / "run"
    write_shards(Scenes("train"), shards, count=20, per_shard=10)
    first = sorted(shards.glob("*.tar"))[0]
    first.write_bytes(first.read_bytes()[:-20_000])  # a copy that broke off
    own = "--config.loader.rejected_share=1.0", "--config.loader.rejected_share=0.0"
    flags = f"--config.data.train={shards}/*.tar", f"--config.data.test={shards}/*.tar", "--config.train.steps=2000"
    both = start_two(workdir, *flags, config="tests/small_own_data.py", own=own)
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [75, 2], outputs
    assert "records read from the source 'train' were rejected" in outputs[1]
    lines = metrics(workdir)
    assert (workdir / "checkpoints" / str(len(lines))).is_dir()


def test_two_processes_take_over_from_one_and_route_as_it_would(tmp_path):
    steps = "--config.train.steps=40"
    config, whole, moved = "tests/small_routed.py:nothing", tmp_path / "whole", tmp_path / "moved"
    finish(whole, steps, config=config)
    process = start(moved, steps, config=config)
    wait_for_step(process, moved, 4)  # all is read up to step 2, less from then on
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    alone = len(metrics(moved))
    both = start_two(moved, steps, config=config)
    wait_for_step(both[0], moved, alone + 3)
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 75, output
    together = len(metrics(moved))
    assert 4 <= alone < together < 40 and (moved / "checkpoints" / str(together)).is_dir()
    finish(moved, steps, config=config)
    expected, lines = metrics(whole), metrics(moved)
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], rel=1e-4)
    read = np.diff([line["data/scenes/read"] + line["data/digits/read"] for line in lines])
    assert set(read[alone : together - 1]) == {8} and set(read[together:]) == {16}  # each process reads its own part
    for name in ("image", "source"):
        opened = [line[f"answers/gates/open/{name}"] for line in lines]
        assert opened == pytest.approx([line[f"answers/gates/open/{name}"] for line in expected])
        assert min(opened[:2]) == 1 and max(opened[2:]) < 1
        assert 0 <= json.loads((moved / "summary.json").read_text())[f"gating/open/{name}"] <= 1
    finish_by_two(moved, tmp_path / "seen", steps, config=config)


def finish_by_two(workdir, seen, *flags, config):
    """The end of a run is made anew by two processes, of which the second does not see what the first one writes."""
    shutil.copytree(workdir, seen, ignore=shutil.ignore_patterns("checkpoints", "evaluation.jsonl"))
    (seen / "checkpoints").symlink_to(workdir / "checkpoints")
    written = [workdir / name for name in ("evaluation.jsonl", "summary.json", "report.html")]
    before = json.loads(written[1].read_text())
    for path in written:
        path.unlink()
    both = start_two(workdir, *flags, config=config, own=("", f"--workdir={seen}"))
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert json.loads(written[1].read_text()) == pytest.approx(before, rel=1e-4) and written[2].exists()


ROWS = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh
from mmfuse.training.processes import first_decides, join
from mmfuse.training.sharding import AXES, place, replicated, rows_of

jax.config.update("jax_num_cpu_devices", 2)
join(sys.argv[1], 2, int(sys.argv[2]))
rows = np.arange(24).reshape(8, 3)
for order, shape in (((0, 1, 2, 3), (4, 1, 1)), ((0, 2, 1, 3), (2, 2, 1)), ((0, 1, 2, 3), (1, 1, 4))):
    mesh = Mesh(np.array(jax.devices())[list(order)].reshape(shape), AXES)
    placed = place(rows[rows_of(mesh.local_devices, mesh, 8)], mesh)
    np.testing.assert_array_equal(jax.jit(lambda x: x, out_shardings=replicated(mesh))(placed), rows)
assert first_decides(sys.argv[2] == "0") and not first_decides(sys.argv[2] == "1")
"""


def test_two_processes_hold_the_rows_of_one_batch_and_decide_alike():
    """Devices in order, dealt out in turn, and with one shard of a batch on all of them."""
    command = [sys.executable, "-c", ROWS, address()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen([*command, number], **pipes) for number in "01"]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs


FAULTS = """
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from mmfuse.training.processes import keep_memory

def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(2**23)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

anew = taken()
keep_memory()
np.ones(2**23)
kept = taken()
with ThreadPoolExecutor(1) as beside:
    print(anew, kept, beside.submit(taken).result())
"""


def test_memory_that_is_freed_is_not_mapped_anew():
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    anew, kept, kept_by_a_thread = map(int, output.split())
    assert anew > 100 > max(kept, kept_by_a_thread)
