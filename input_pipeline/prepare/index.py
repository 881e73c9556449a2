"""How are the indexes of many tars made ahead of a run, by all cores?

    python -m input_pipeline.prepare index --shards 'DIR/*.tar'

A run makes what is missing by itself, but at some 40,000 records a second in each of its processes: for 10^8 records it
is better to have this command do it before, with as many processes as there are cores. Where the indexes are kept says
`sources/tar_index.py`.
"""

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from input_pipeline.sources.patterns import expand_patterns
from input_pipeline.sources.tar_index import cache_folder, open_indexes
from mmfuse.types import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--shards", required=True, nargs="+", help="patterns of tars")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes")


def run(options: argparse.Namespace) -> str:
    """Makes the indexes that are missing; says how many records there are."""
    if options.workers < 1:
        raise ConfigError(f"workers is {options.workers}: write 1 or more.")
    paths = expand_patterns(options.shards)
    workers = min(options.workers, len(paths))
    shares = [paths[first::workers] for first in range(workers)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        records = sum(pool.map(count_records, shares))
    return f"{records} records in {len(paths)} tars; their indexes are in {cache_folder()}"


def count_records(paths: Sequence[str]) -> int:
    """Returns how many records the tars have, with their indexes made."""
    return sum(index.records for index in open_indexes(paths))
