"""How does the next batch get ready while the device works?

Threads fetch steps ahead; what a step holds does not depend on how many there are. Decoding and resizing release the
interpreter's lock, so threads run beside one another and beside the device.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from input_pipeline.collate import Loaded


@runtime_checkable
class Stream(Protocol):
    """What gives step n's batch at index n, always the same one, to any thread."""

    def __getitem__(self, step: int, /) -> Loaded: ...


def load(
    streams: Mapping[str, Stream], steps: range, *, workers: int, ahead: int | None = None
) -> Iterator[dict[str, Loaded]]:
    """Yields, step by step, the batch of every stream.

    Args:
      streams: by name.
      steps: which steps, in order.
      workers: threads, each of which prepares a step; 0 fetches in the caller's.
      ahead: steps that are kept ready or are being prepared; by default one for each thread, and 4 at least.
    """
    ahead = max(4, workers) if ahead is None else ahead

    def fetch(step):
        return {name: stream[step] for name, stream in streams.items()}

    if workers == 0:
        for step in steps:
            yield fetch(step)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        pending = deque(pool.submit(fetch, step) for step in steps[:ahead])
        for step in steps:
            ready = pending.popleft().result()
            if step + ahead * steps.step in steps:
                pending.append(pool.submit(fetch, step + ahead * steps.step))
            yield ready
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
