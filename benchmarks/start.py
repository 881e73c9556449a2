"""How long does a source of very many records take to start, and in how much memory?

    python -m benchmarks.start FOLDER

is the fresh process that `benchmarks.input` measures. FOLDER holds what `write_tars` wrote: tars that are one hole,
with indexes that are as large as those of real ones. Importing is not counted, the memory that it takes is.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from input_pipeline.sources.files import file_state
from input_pipeline.sources.tar_index import ROW, cache_folder, format_index, index_file
from input_pipeline.sources.tar_scan import BLOCK
from input_pipeline.sources.webdataset import Webdataset

RECORDS = 10_000  # in a tar
SPACE = 130 * BLOCK  # of a record in a tar: an image of 64 kB, a text, and their headers
READ = 10_000


def write_tars(folder: Path, entries: int) -> None:
    """Makes tars of 10,000 records with their indexes: 49 bytes of disk a record."""
    rows = b"".join(
        ROW.pack(1 + row * SPACE // BLOCK, 0, 128 + row * SPACE // BLOCK, 0, 64_000, -1, 40, -1, 9 * row, 9)
        for row in range(RECORDS)
    )
    keys = b"".join(b"%09d" % row for row in range(RECORDS))
    Path(cache_folder()).mkdir(parents=True, exist_ok=True)
    for number in range(entries // RECORDS):
        path = folder / f"{number:06d}.tar"
        with path.open("wb") as tar:
            tar.truncate(RECORDS * SPACE)
        index = index_file(str(path), file_state(path.stat()), cache_folder())
        Path(index).write_bytes(format_index(str(path), rows, keys))


def resident() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Prints numbers as JSON."""
    start = time.perf_counter()
    source = Webdataset(f"{sys.argv[1]}/*.tar")
    numbers = {"entries": len(source), "seconds": time.perf_counter() - start, "megabytes": resident()}
    order = np.random.default_rng(0).integers(0, len(source), READ).tolist()
    start = time.perf_counter()
    for index in order:
        source[index]
    numbers |= {"read_microseconds": (time.perf_counter() - start) / READ * 1e6, "read_megabytes": resident()}
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
