"""Does every source keep the contract of `sources/contract.py`? A new source joins by one row of `ARGUMENTS`."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from input_pipeline.fits import FITS
from input_pipeline.prepare.shards import write_shards
from input_pipeline.prepare.tfds import write_tfds
from input_pipeline.sources.contract import Source
from input_pipeline.sources.digits import Digits
from input_pipeline.sources.scenes import Scenes
from input_pipeline.sources.webdataset import Webdataset
from input_pipeline.streams import Recipe, training_stream
from input_pipeline.texts import TextSpec
from mmfuse.build_data import SOURCES
from mmfuse.types import Caption, Example, Question, Rejected

# How a small one of each kind is made; {tars} is a folder of tars with 11 records, of which the last is damaged;
# {tables} is one with 11 rows in each format, of which the last asks a question without an answer.
ARGUMENTS = {
    "scenes": {"split": "test", "size": 23},
    "digits": {"split": "validation"},
    "webdataset": {"shards": "{tars}/*.tar"},
    "tfds": {"name": "scenes", "folder": "{tars}/tfds", "split": "test"},
    "jsonl": {"files": "{tables}/rows.jsonl"},
    "parquet": {"files": "{tables}/rows.parquet"},
    "arrow": {"folder": "{tables}"},
}
SAMPLE = 11


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for shard in write_shards(Digits("train"), folder, count=11, per_shard=4):
        damaged = shard.read_bytes().replace(b'"captions": [', b'"captions": {')
    shard.write_bytes(damaged)
    write_tfds("scenes", {"test": (Scenes("test"), 13)}, folder / "tfds")
    return folder


@pytest.fixture(scope="module")
def tables(tars, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    examples = [Webdataset(f"{tars}/*.tar")[number % 8] for number in range(11)]
    for number, example in enumerate(examples):
        (folder / f"{number}.png").write_bytes(example.signals["image"])
    captions = [[caption.text for caption in example.captions] for example in examples]
    rows = [{"image": f"{number}.png", "caption": texts, "question": None} for number, texts in enumerate(captions)]
    rows[-1]["question"] = "which?"
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "rows.parquet", row_group_size=3)
    with pa.ipc.new_stream(str(folder / "rows.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "rows.arrow"}]}')
    return folder


@pytest.fixture(params=sorted(SOURCES))
def make(request, tars, tables):
    """Makes a source of one kind that gives these signals."""
    arguments = {
        key: value.format(tars=tars, tables=tables) if isinstance(value, str) else value
        for key, value in ARGUMENTS[request.param].items()
    }
    return lambda *signals: SOURCES[request.param](**arguments, signals=signals)


def same(one, other):
    np.testing.assert_equal(one._asdict(), other._asdict())


def sample(source):
    return [source[index] for index in range(min(SAMPLE, len(source)))]


def test_every_kind_of_source_is_tested():
    assert ARGUMENTS.keys() == SOURCES.keys()


def test_it_is_a_source_of_examples(make):
    source = make(*FITS)
    assert isinstance(source, Source) and len(source) >= SAMPLE
    for record in [*sample(source), source[len(source) - 1]]:
        assert isinstance(record, Example | Rejected) and record.key
        if isinstance(record, Rejected):
            assert record.reason and record.key not in record.reason
            continue
        assert record.concept and set(record.signals) <= set(FITS)
        assert all(isinstance(caption, Caption) for caption in record.captions)
        assert all(isinstance(question, Question) for question in record.questions)
        for name, value in record.signals.items():
            if not isinstance(value, bytes):
                assert (value.dtype, value.ndim) == {"image": (np.uint8, 3), "audio": (np.float32, 1)}[name]


def test_a_record_is_always_the_same(make):
    source = make(*FITS)
    forward = sample(source)
    for index in reversed(range(len(forward))):
        same(source[index], forward[index])
        same(make(*FITS)[np.int64(index)], forward[index])
    with ThreadPoolExecutor(3) as threads:
        for one, other in zip(threads.map(source.__getitem__, range(len(forward))), forward):
            same(one, other)
    for one, other in zip(sample(pickle.loads(pickle.dumps(source))), forward):
        same(one, other)


def test_keys_tell_records_apart(make):
    keys = [record.key for record in sample(make())]
    assert len(set(keys)) == len(keys)


def test_beyond_the_end_is_an_index_error(make):
    source = make()
    for index in (len(source), len(source) + 7, -1):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize("signals", [(), ("image",), ("audio",)])
def test_signals_that_nobody_asked_for_are_not_made(make, signals):
    for record, whole in zip(sample(make(*signals)), sample(make(*FITS))):
        assert type(record) is type(whole)
        if isinstance(record, Example):
            assert set(record.signals) == set(whole.signals) & set(signals)
            assert (record.key, record.captions, record.questions) == (whole.key, whole.captions, whole.questions)


def test_what_a_stream_reads_is_used_or_rejected(make, tokenizer):
    recipe = Recipe({"image": (5, 7), "audio": (13,)}, {"caption": TextSpec("captions", 1, 19)}, tokenizer)
    loaded = training_stream({"it": make(*FITS)}, {"it": 1.0}, recipe, rows=13, seed=0)[0]
    lost = sum(count for name, count in loaded.tally.items() if "/rejected/" in name)
    assert loaded.tally["it/read"] == 13 == loaded.tally["it/used"] + lost
    assert loaded.batch.valid.sum() == loaded.tally["it/used"] > 0
