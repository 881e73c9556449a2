"""How do several processes become one run?

Each is started with the same command, on its own machine, and says who is the first. From then on JAX sees the devices
of all: a mesh spans them, each process reads its own part of the records, the first one writes what is written. Alone
or not, a process may be asked to stop, and keeps its memory between steps.
"""

import ctypes
import signal
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from mmfuse.types import ConfigError

AUTO = "auto"
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of mallopt, in glibc


def define_flags() -> Callable[[], None]:
    """Defines how a process finds its devices and the others; returns what does, before anything else of JAX."""
    devices = flags.DEFINE_integer("cpu_devices", None, "virtual devices, to try a mesh without accelerators")
    coordinator = flags.DEFINE_string(
        "coordinator", None, f"of several processes: host:port of the first, or {AUTO} where the cluster knows"
    )
    number = flags.DEFINE_integer("processes", None, "how many processes there are, where the cluster does not know")
    index = flags.DEFINE_integer("process", None, "which of them this is, from 0")

    def begin():
        if devices.value:
            jax.config.update("jax_num_cpu_devices", devices.value)
            # a program read back has lost the order of its collectives: devices may wait for one another for ever
            jax.config.update("jax_enable_compilation_cache", False)
        join(coordinator.value, number.value, index.value)

    return begin


def join(coordinator: str | None, number: int | None, index: int | None) -> None:
    """Waits for the other processes.

    Args:
      coordinator: host:port of the first process; `auto` where the cluster knows (SLURM, Cloud TPU, Kubernetes, Open
        MPI); None where there is one process alone.
      number, index: of the processes, and which this one is; None where the cluster knows.

    Raises:
      ConfigError: the others cannot be found.
    """
    if coordinator is None:
        if number is not None or index is not None:
            raise ConfigError("--processes and --process need --coordinator: host:port of the first process, or auto.")
        return
    try:
        jax.distributed.initialize(None if coordinator == AUTO else coordinator, number, index)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--coordinator={coordinator}: {str(error).splitlines()[0]} Say --coordinator=host:port of the first "
            "process, --processes=how many there are and --process=which of them this is, from 0."
        ) from error


def first_decides(decision: bool) -> bool:
    """What the first process has decided; all wait for it here.

    It alone is sure to see what it has written, and all have to run the same programs.
    """
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(decision)))


def keep_memory() -> None:
    """Has the C library keep what is freed, where it is glibc; to be called before there are threads.

    On a CPU each step takes the same large buffers; to map them anew every time, page by page, is a good part of the
    time of a small model's step. Threads share one heap: those of their own are given back whatever is asked for.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ARENA_MAX, 1)
        for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(threshold, 2**31 - 1)  # bytes, the largest number that it takes


class StopSignals:
    """Whether a run was asked to stop, by SIGTERM or SIGINT; known when a step is done.

    Where there are several processes, SIGTERM to one of them is passed on by JAX, and all stop at the same step.
    """

    def __enter__(self):
        self._received, numbers = False, (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
        self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def received(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after each."""
        return self._received if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)

    def pass_on(self) -> None:
        """Asks all processes to stop, from one of several."""
        signal.raise_signal(signal.SIGTERM)

    def _receive(self, number, frame):
        self._received = True

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)
