"""Runs as people start them: real processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import CACHE

ROOT = Path(__file__).parent.parent
SMALL = "tests/small.py"
ENVIRONMENT = {
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": str(ROOT),
}


def command(workdir, *flags, config=SMALL):
    named = [f"--config={config}"] if config else []
    return [sys.executable, "main.py", *named, f"--workdir={workdir}", *flags]


def start(workdir, *flags, config=SMALL):
    return subprocess.Popen(
        command(workdir, *flags, config=config),
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(workdir, *flags, config=SMALL, code=0):
    process = start(workdir, *flags, config=config)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def metrics(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(process, workdir, step, seconds=300):
    """Returns when the run has written down that step, or has ended."""
    deadline = time.monotonic() + seconds
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        assert time.monotonic() < deadline, f"no step {step} within {seconds} s"
        if path.exists() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.002)


def last_checkpoint(workdir):
    """The bytes of every leaf of the last state, by name, and the position."""
    script = (
        "import sys, json, hashlib, numpy as np, jax, orbax.checkpoint as ocp\n"
        "manager = ocp.CheckpointManager(sys.argv[1], item_names=('state', 'position'))\n"
        "step = manager.latest_step()\n"
        "args = ocp.args.Composite(state=ocp.args.StandardRestore(), position=ocp.args.JsonRestore())\n"
        "found = manager.restore(step, args=args)\n"
        "digest = lambda leaf: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()\n"
        "leaves = {name: digest(leaf) for name, leaf in found.state.items()}\n"
        "print(json.dumps([step, leaves, found.position]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(workdir / "checkpoints")], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])
