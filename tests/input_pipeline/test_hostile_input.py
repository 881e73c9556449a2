"""What does the input side survive, in short? `benchmarks/hostile_input.py` is the long form.

Times are of the long form: here, what hangs is found, and not what is slow.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import hostile_input
from benchmarks.hostile import bombs, fuzz, records, traps
from input_pipeline.streams import evaluation_stream

ROOT = Path(__file__).parents[2]
SLOW_TO_MAKE = (
    "67 megapixels",
    "268 megapixels",
    "33 megapixels",
    "300 MB",
    "hour's",
    "the largest",
    "Parquet",
    "64 MiB",
)
USED = ("most captions", "largest")
CASES = {"tar": 60, "JSON": 250, "captions": 60, "config": 40, "images": 150, "sounds": 100}


def lines_of(module, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("name", records.WRITERS)
def test_every_bad_record_is_counted_for_what_is_wrong_with_it(tmp_path, name):
    plan = records.plan_records(name, 40, 0.5, seed=3)
    config = records.WRITERS[name](tmp_path, records.make_records(plan))
    (tmp_path / "sources.json").write_text(json.dumps({name: config}))
    (source,) = hostile_input.open_sources(tmp_path).values()
    (loaded,) = evaluation_stream(name, source, hostile_input.make_recipe(), rows=40)
    assert hostile_input.balanced(loaded.tally)
    assert hostile_input.reasons(loaded.tally, name) == records.expected_reasons(plan)
    assert loaded.batch.valid.tolist() == [kind is None for kind in plan]
    kinds = {kind for kind in plan if kind}
    assert len(kinds) == (16 if name in ("webdataset", "jsonl") else 13)


def test_bad_records_do_not_depend_on_threads_or_on_where_a_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "WRITERS", {name: records.WRITERS[name] for name in ("webdataset", "arrow")})
    hostile_input.write_sources(tmp_path, 40, 0.5, seed=0)
    recipe = hostile_input.make_recipe()

    def read(first, workers):
        sources = hostile_input.open_sources(tmp_path)
        return hostile_input.what_was_read(hostile_input.read_steps(sources, recipe, range(first, 4), workers=workers))

    alone = read(0, 0)
    assert read(0, 3) == alone and read(2, 2) == alone[2:]


def test_bombs_fit_into_the_memory_and_are_refused():
    names = [*bombs.IMAGES, *bombs.SOUNDS, *bombs.TEXTS, *bombs.FILES]
    names = [name for name in names if not any(words in name for words in SLOW_TO_MAKE)] + ["the largest WEBP"]
    found = lines_of("benchmarks.hostile.bombs", *names)
    assert [bomb["bomb"] for bomb in found] == names and len(names) >= 20
    assert not [bomb for bomb in found if bomb["megabytes"] > bombs.MEGABYTES or bomb["milliseconds"] > 2000]
    accepted = [bomb["bomb"] for bomb in found if bomb["refused"] is None]
    assert not [name for name in accepted if not any(words in name for words in USED)]


def test_traps_execute_nothing_and_write_nothing():
    (found,) = lines_of("benchmarks.hostile.traps")
    assert found["events"] == found["canaries"] == []
    assert found["traps"] == len(traps.TRAPS) and found["refused"] > 25


def test_a_trap_that_springs_is_seen(tmp_path):
    watch = traps.Watch(str(tmp_path / "cache"))
    with watch:
        pickle.loads(traps._payloads(tmp_path)["pkl"])
        (tmp_path / "cache").write_text("allowed")
        (tmp_path / "beside").write_text("not allowed")
    os.mkdir(tmp_path / "afterwards")
    assert [event.split()[0] for event in watch.events] == ["pickle.find_class", "os.mkdir", "open"]
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("family", fuzz.FAMILIES)
def test_nothing_hangs_and_nothing_is_left_uncaught(tmp_path, family):
    found = fuzz.run(family, CASES.get(family, 12), seed=1, folder=tmp_path)
    assert found["findings"] == []
    assert found["refused"] < found["cases"] == CASES.get(family, 12)
