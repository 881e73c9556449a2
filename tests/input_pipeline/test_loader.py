"""Do batches come in order, however many threads fetch them, and do errors and ends reach everybody?"""

import threading
import time

import pytest

from input_pipeline.loader import load


class Recorder:
    """A stream of its own step numbers, slower for some steps; it remembers what was fetched."""

    def __init__(self, error=None, at=None):
        self.error, self.at, self.fetched = error, at, []

    def __getitem__(self, step):
        self.fetched.append(step)
        if step == self.at:
            raise self.error
        time.sleep(0.003 * (step % 3))
        return step


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("ahead", [1, 2, 5])
@pytest.mark.parametrize("steps", [range(11), range(7, 11), range(0), range(3, 20, 4)])
def test_every_step_once_and_in_order(workers, ahead, steps):
    streams = {"a": Recorder(), "b": Recorder()}
    ready = list(load(streams, steps, workers=workers, ahead=ahead))
    assert ready == [{"a": step, "b": step} for step in steps]
    assert sorted(streams["a"].fetched) == sorted(streams["b"].fetched) == list(steps)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("error", [ValueError("a bug"), StopIteration("a bug"), IndexError("a bug")])
def test_an_error_reaches_the_consumer_at_its_step(workers, error):
    ready = load({"a": Recorder(error, at=3)}, range(9), workers=workers)
    assert [next(ready)["a"] for _ in range(3)] == [0, 1, 2]
    # Python makes a RuntimeError of a StopIteration that would else end the loop in silence
    with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
        next(ready)
    wait_until(lambda: not loader_threads())


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_steps_than_asked_for_are_kept_ready(ahead):
    stream = Recorder()
    ready = load({"a": stream}, range(100), workers=2, ahead=ahead)
    assert next(ready) == {"a": 0}
    wait_until(lambda: len(stream.fetched) == ahead + 1)
    time.sleep(0.03)
    assert sorted(stream.fetched) == list(range(ahead + 1))
    ready.close()


def test_a_consumer_that_leaves_early_stops_the_threads():
    stream = Recorder()
    ready = load({"a": stream}, range(1_000_000), workers=3, ahead=500)
    next(ready)
    assert loader_threads()
    ready.close()
    wait_until(lambda: not loader_threads())
    assert len(stream.fetched) < 250  # those that were under way; the others were called off


def test_steps_are_fetched_while_the_consumer_works():
    together = threading.Barrier(3, timeout=5)

    class Meeting:
        def __getitem__(self, step):
            together.wait()  # broken unless three threads fetch at once
            return step

    assert [ready["a"] for ready in load({"a": Meeting()}, range(6), workers=3, ahead=3)] == list(range(6))


def test_every_thread_has_a_step_to_prepare():
    """Eight threads wait for one another: with fewer steps at once none would go on."""
    together = threading.Barrier(8)

    class Waiting:
        def __getitem__(self, step):
            together.wait(timeout=20)
            return step

    assert len(list(load({"it": Waiting()}, range(16), workers=8))) == 16
