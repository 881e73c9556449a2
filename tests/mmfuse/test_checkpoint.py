"""Tests of mmfuse.training.checkpoint, with real files, real kills and a full disk."""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import unittest
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmfuse.training.checkpoint import Checkpointer
from mmfuse.training.rules import named_leaves
from mmfuse.types import CheckpointError


class State(NamedTuple):
    params: nnx.State
    opt_state: optax.OptState
    extra: dict
    step: jax.Array


def sharding(shape, *spec):
    axes = ("data", "fsdp")[: len(shape)]
    count = int(np.prod(shape))
    mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(shape), devices=jax.devices()[:count])
    return NamedSharding(mesh, PartitionSpec(*spec))


def make_state(seed, rows=8):
    """Leaves of four dtypes that are a function of `seed` alone."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = nnx.state(nnx.Linear(rows, 16, rngs=nnx.Rngs(seed)), nnx.Param)
    extra = {
        "half": jax.random.normal(keys[0], (rows, 3)).astype(jnp.bfloat16),
        "mask": jax.random.bernoulli(keys[1], shape=(5,)),
        "nothing": None,
        "empty": {},
    }
    return State(params, optax.adam(1e-3).init(params), extra, jnp.int32(seed))


def abstract(state, its_sharding=None):
    one = its_sharding or sharding((1,))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)


def assert_same(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(expected)):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.fixture
def open_folder(tmp_path):
    """Opens checkpointers on one folder, and closes those that the test did not."""
    opened = []

    def open_folder(**options):
        opened.append(Checkpointer(tmp_path / "checkpoints", **({"every": 5, "keep": 3} | options)))
        return opened[-1]

    yield open_folder
    for checkpointer in opened:
        checkpointer.close()


def save(checkpointer, *seeds):
    for seed in seeds:
        checkpointer.save(seed, make_state(seed), {"stream": {"read": 10 * seed}})
    checkpointer.wait()


def test_another_process_restores_what_was_saved(open_folder):
    save(open_folder(), 5, 10)
    later = open_folder()
    assert later.latest_step() == 10
    restored, position = later.restore(abstract(make_state(0)))
    assert_same(restored, make_state(10))
    assert position == {"stream": {"read": 100}}
    assert_same(later.restore(abstract(make_state(0)), step=5)[0], make_state(5))


def test_restores_onto_another_sharding(open_folder):
    state = make_state(5)
    over_all = jax.device_put(state.params, sharding((8,), "data"))
    checkpointer = open_folder()
    checkpointer.save(5, state._replace(params=over_all), {})
    checkpointer.wait()
    for target in (sharding((1,)), sharding((2, 4), "fsdp"), sharding((2, 2), ("fsdp", "data"))):
        wanted = abstract(state)._replace(params=abstract(state.params, target))
        restored, _ = checkpointer.restore(wanted)
        assert_same(restored, state)
        assert {leaf.sharding for leaf in jax.tree.leaves(restored.params)} == {target}


def test_a_saved_array_may_be_donated_at_once(open_folder):
    state = {"w": jnp.arange(2.0**20)}
    expected = np.asarray(state["w"]).copy()
    checkpointer = open_folder()
    checkpointer.save(5, state, {})
    jax.jit(lambda x: jax.tree.map(lambda a: a * 0, x), donate_argnums=0)(state)
    restored, _ = checkpointer.restore(abstract({"w": jax.ShapeDtypeStruct((2**20,), jnp.float32)}))
    np.testing.assert_array_equal(restored["w"], expected)


def test_the_oldest_go_and_the_schedule_is_kept(open_folder):
    checkpointer = open_folder(every=5, keep=2)
    assert [step for step in range(1, 16) if checkpointer.due(step)] == [5, 10, 15]
    save(checkpointer, 5, 10, 15)
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["10", "15"]


def test_a_step_that_is_being_saved_is_not_saved_again_and_the_past_is_not_rewritten(open_folder):
    checkpointer = open_folder()
    save(checkpointer, 5, 10, 10)
    before = (checkpointer.folder / "10" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    save(checkpointer, 10)
    assert (checkpointer.folder / "10" / "_CHECKPOINT_METADATA").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match=r"Step 7 cannot be saved .* holds the later step 10"):
        save(checkpointer, 7)


def test_no_checkpoint_is_an_error(open_folder):
    checkpointer = open_folder()
    assert checkpointer.latest_step() is None
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        checkpointer.restore(abstract(make_state(0)))
    save(checkpointer, 5)
    with pytest.raises(CheckpointError, match=r"no whole checkpoint of step 6; it has \[5\]"):
        checkpointer.restore(abstract(make_state(0)), step=6)


def changed(**extra):
    state = make_state(5)
    return state._replace(extra={name: leaf for name, leaf in (state.extra | extra).items() if leaf is not None})


@pytest.mark.parametrize(
    "wanted, message",
    [
        (changed(half=jnp.ones((8, 5), jnp.bfloat16)), r"extra/half: saved bfloat16\[8, 3\], wanted bfloat16\[8, 5\]"),
        (changed(half=jnp.ones((8, 3), jnp.float32)), r"extra/half: saved bfloat16\[8, 3\], wanted float32\[8, 3\]"),
        (changed(half=None), r"extra/half: saved bfloat16\[8, 3\], wanted nothing"),
        (changed(more=jnp.ones(7)), r"extra/more: saved nothing, wanted float32\[7\]"),
        (
            make_state(5, rows=11),
            r"4 leaves differ:\n  params/kernel: saved float32\[8, 16\], wanted float32\[11, 16\]",
        ),
    ],
    ids=["shape", "dtype", "missing", "new", "many"],
)
def test_what_does_not_fit_is_refused(open_folder, wanted, message):
    checkpointer = open_folder()
    save(checkpointer, 5)
    with pytest.raises(CheckpointError, match=message):
        checkpointer.restore(abstract(wanted))


def break_folder(folder, kind):
    """Makes what looks like a newer checkpoint, and a copy that is none of ours."""
    shutil.copytree(folder / "10", folder / "backup")
    newer = folder / "999"
    if kind == "empty":
        newer.mkdir()
    elif kind == "file":
        newer.write_text("stray")
    elif kind == "link":
        newer.symlink_to(folder / "nowhere")
    else:
        shutil.copytree(folder / "10", newer)
        (newer / kind).unlink()


@pytest.mark.parametrize(
    "kind",
    ["empty", "file", "link", "_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "position/metadata"],
)
def test_a_folder_that_is_not_whole_is_ignored_with_a_warning(open_folder, kind):
    first = open_folder()
    save(first, 5, 10)
    first.close()
    break_folder(first.folder, kind)
    with unittest.TestCase().assertLogs("absl", "WARNING") as logs:
        later = open_folder()
    assert "999 is no whole checkpoint" in logs.output[0]
    assert later.latest_step() == 10
    assert_same(later.restore(abstract(make_state(0)))[0], make_state(10))
    save(later, 15)
    assert later.latest_step() == 15


def test_a_half_deleted_old_checkpoint_is_deleted_in_the_end(open_folder):
    first = open_folder(keep=2)
    save(first, 5, 10)
    first.close()
    (first.folder / "5" / "state" / "_METADATA").unlink()
    later = open_folder(keep=2)
    assert later.latest_step() == 10
    save(later, 15)
    assert sorted(path.name for path in later.folder.iterdir()) == ["10", "15"]


def test_lost_data_are_named_and_the_checkpoint_before_is_taken(open_folder):
    # One leaf: Orbax drops the other reads when one fails, and their threads complain later.
    first, state = open_folder(), {"w": jnp.arange(7.0)}
    first.save(5, state, {"at": 5})
    first.save(10, state, {"at": 10})
    first.close()
    for path in (first.folder / "10" / "state").rglob("d/*"):
        path.unlink()
    later = open_folder()
    with pytest.raises(CheckpointError, match="checkpoints/10 cannot be read"):
        later.restore(abstract(state), step=10)
    with unittest.TestCase().assertLogs("absl", "WARNING") as logs:
        restored, position = later.restore(abstract(state))
    assert "checkpoints/10 cannot be read" in "".join(logs.output)
    assert position == {"at": 5} and later.latest_step() == 5
    assert_same(restored, state)
    assert (later.folder / "10.damaged0").is_dir()
    later.save(10, state, {"at": 10})
    later.wait()
    assert later.restore(abstract(state))[1] == {"at": 10}


# A process of its own: what Orbax drops when a read fails is complained of later, and nobody knows when.
FLIPPED = """
import json, random, sys
from collections import Counter
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import jax.numpy as jnp
from test_checkpoint import abstract, assert_same
from mmfuse.training.checkpoint import Checkpointer
from mmfuse.types import CheckpointError

folder, states = Path(sys.argv[1]), {5: {"w": jnp.arange(997.0)}, 10: {"w": jnp.arange(997.0) ** 2}}
first = Checkpointer(folder, every=5, keep=2)
for step, state in states.items():
    first.save(step, state, {"read": step})
first.close()
draw, noticed = random.Random(0), Counter()

def restore():
    try:
        restored, position = Checkpointer(folder, every=5, keep=2, read_only=True).restore(abstract(states[5]))
    except CheckpointError:
        return "refused"
    assert_same(restored, states[position["read"]])
    return position["read"]

for path in sorted(path for path in (folder / "10").rglob("*") if path.is_file()):
    kept = path.read_bytes()
    places = [1 << draw.randrange(8 * len(kept)) for _ in range(4)]
    damaged = [(int.from_bytes(kept, "big") ^ place).to_bytes(len(kept), "big") for place in places]
    damaged += [kept[: len(kept) // 2].ljust(len(kept), b"\\0")] if path.parent.name == "d" else []
    for each in damaged:
        path.write_bytes(each)
        noticed[restore()] += 1
    path.write_bytes(kept)
print(json.dumps(noticed))
"""


@pytest.mark.processes
def test_a_bit_that_turned_is_noticed(tmp_path, request):
    """In any file of a checkpoint: the one before is restored, or what was saved, where the bit says nothing."""
    command = [sys.executable, "-c", FLIPPED, str(tmp_path / "flipped"), str(request.path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=request.config.rootpath, check=False)
    assert done.returncode == 0, done.stderr
    noticed = json.loads(done.stdout)
    assert noticed["5"] > 8 and sum(noticed.values()) > 20


def test_a_position_that_is_not_what_was_saved_is_noticed(open_folder):
    first = open_folder()
    save(first, 5, 10)
    first.close()
    path = first.folder / "10" / "position" / "metadata"
    path.write_text(path.read_text().replace('"read": 100', '"read": 101'))
    later = open_folder()
    with pytest.raises(CheckpointError, match="10/position is not what was saved"):
        later.restore(abstract(make_state(0)), step=10)
    assert later.restore(abstract(make_state(0)))[1] == {"stream": {"read": 50}}


def test_a_checkpoint_from_before_there_were_checksums_is_restored(open_folder):
    checkpointer = open_folder()
    items = {"state": ocp.args.StandardSave(named_leaves(make_state(5))), "position": ocp.args.JsonSave({"read": 50})}
    checkpointer._manager.save(5, args=ocp.args.Composite(**items), force=True)
    state, position = checkpointer.restore(abstract(make_state(0)))
    assert_same(state, make_state(5))
    assert position == {"read": 50}


def test_who_only_reads_leaves_everything_in_its_place(open_folder):
    writer = open_folder()
    save(writer, 5)
    (writer.folder / "10.orbax-checkpoint-tmp").mkdir()  # a save that is under way
    (writer.folder / "999").mkdir()
    before = sorted(path.name for path in writer.folder.iterdir())
    reader = open_folder(read_only=True)
    assert reader.latest_step() == 5
    assert_same(reader.restore(abstract(make_state(0)))[0], make_state(5))
    assert sorted(path.name for path in writer.folder.iterdir()) == before


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(open_folder):
    checkpointer = open_folder()
    checkpointer.check_none_lost(recorded=9)  # stopped before its second checkpoint, and while it saved the first
    with pytest.raises(CheckpointError, match="has no whole checkpoint, and 10 steps are on record"):
        checkpointer.check_none_lost(recorded=10)
    save(checkpointer, 5)
    checkpointer.close()
    (checkpointer.folder / "5" / "state" / "_METADATA").unlink()
    later = open_folder()
    assert later.latest_step() is None
    with pytest.raises(CheckpointError, match=r"no whole checkpoint but \['5.incomplete0'\]"):
        later.check_none_lost(recorded=5)


@pytest.fixture
def full_disk():
    """No file grows beyond 64 KiB: the kernel refuses the write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail_to_save(checkpointer, step):
    checkpointer.save(step, {"w": jax.random.normal(jax.random.key(0), (2**18,))}, {})
    while checkpointer._manager.is_saving_in_progress():
        time.sleep(0.01)


def test_after_a_failed_save_the_next_state_is_saved_soon(tmp_path, full_disk):
    checkpointer = Checkpointer(tmp_path, every=5, keep=3)
    save(checkpointer, 5)
    assert not checkpointer.due(6)
    fail_to_save(checkpointer, 10)
    assert checkpointer.due(11)
    save(checkpointer, 11)
    assert checkpointer.latest_step() == 11 and not checkpointer.due(12)
    fail_to_save(checkpointer, 15)
    fail_to_save(checkpointer, 16)
    with pytest.raises(CheckpointError, match=r"could not be saved in .* resume from step 11"):
        checkpointer.save(17, make_state(17), {})
    checkpointer.close()


@pytest.mark.parametrize("call", ["latest_step", "wait", "restore", "close"])
def test_a_failed_save_is_raised_by_the_next_call(tmp_path, full_disk, call):
    checkpointer = Checkpointer(tmp_path, every=5, keep=3)
    save(checkpointer, 5)
    fail_to_save(checkpointer, 10)
    arguments = {"restore": (abstract(make_state(0)),)}.get(call, ())
    with pytest.raises(CheckpointError, match=r"could not be saved in .* resume from step 5"):
        getattr(checkpointer, call)(*arguments)
    later = Checkpointer(tmp_path, every=5, keep=3)
    assert later.latest_step() == 5
    save(later, 15)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["15", "5"]
    later.close()


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
import jax
from test_checkpoint import make_state
from mmfuse.training.checkpoint import Checkpointer

checkpointer = Checkpointer(sys.argv[1], every=1, keep=2)
first = (checkpointer.latest_step() or 0) + 1
for step in range(first, 10**6):
    checkpointer.save(step, make_state(step), {"read": 10 * step})
    print(step, flush=True)  # step - 1 is whole now
"""


@pytest.mark.processes
def test_kill_in_a_save_loses_no_earlier_checkpoint(tmp_path, request):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(request.path.parent)]
    draw = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=request.config.rootpath)
        for _ in range(draw.randint(3, 6)):
            started = int(process.stdout.readline())
        time.sleep(draw.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        checkpointer = Checkpointer(tmp_path, every=1, keep=2)
        latest = checkpointer.latest_step()
        assert latest >= started - 1
        restored, position = checkpointer.restore(abstract(make_state(0)))
        assert_same(restored, make_state(latest))
        assert position == {"read": 10 * latest}
        save(checkpointer, latest + 1)
        assert {path.name for path in tmp_path.iterdir()} <= {str(latest), str(latest + 1)}
        checkpointer.close()
