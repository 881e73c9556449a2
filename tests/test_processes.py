"""Several processes are one run, and what a process asks of its machine."""

import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.running import finish, metrics, start, wait_for_step

pytestmark = pytest.mark.processes


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
    with socket.socket() as free:
        free.bind(("localhost", 0))
        shared = f"--coordinator=localhost:{free.getsockname()[1]}", "--processes=2", "--cpu_devices=2"
    both = [start(moved, steps, *shared, f"--process={index}", config=config) for index in range(2)]
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
        opened = [line[f"answers/cost/open/{name}"] for line in lines]
        assert opened == pytest.approx([line[f"answers/cost/open/{name}"] for line in expected])
        assert min(opened[:2]) == 1 and max(opened[2:]) < 1
        assert 0 <= json.loads((moved / "summary.json").read_text())[f"gating/open/{name}"] <= 1


FAULTS = """
import resource
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
print(anew, taken())
"""


def test_memory_that_is_freed_is_not_mapped_anew():
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    anew, kept = map(int, output.split())
    assert anew > 100 > kept
