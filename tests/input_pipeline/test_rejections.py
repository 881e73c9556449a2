"""A run stops when too many records of one source are bad, and says which."""

from collections import Counter

import pytest

from input_pipeline.rejections import JUDGED_FROM, NAMED, Rejections
from input_pipeline.streams import Recipe, training_stream
from input_pipeline.texts import TextSpec
from mmfuse.types import Caption, DataError, Example, Rejected

ROWS = 20


class Bad:
    """1,000 records of which every `one_of`-th, from the first on, is bad; by turns torn and without a text."""

    def __init__(self, one_of):
        self.one_of = one_of

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index % self.one_of:
            return Example(f"key {index}", "", {}, (Caption("a text"),))
        return Rejected("torn", f"key {index}") if index % 2 else Example(f"key {index}", "", {}, (Caption(" "),))


def run(sources, share, tokenizer, steps):
    """Reads steps until they are done or the watch stops; returns how many were read."""
    recipe = Recipe({}, {"caption": TextSpec("captions", 1, 7)}, tokenizer)
    stream = training_stream(sources, dict.fromkeys(sources, 1.0), recipe, rows=ROWS, seed=0)
    watch, tally = Rejections(share), Counter()
    for step in range(steps):
        tally = tally + stream[step].tally
        watch.check([stream[step]], tally)
    return tally


def test_a_share_that_is_allowed_passes(tokenizer):
    tally = run({"some": Bad(10)}, 0.2, tokenizer, steps=40)
    assert tally["some/read"] == 800 and tally["some/used"] < 760


def test_too_many_stop_the_run_and_the_first_ten_are_named(tokenizer):
    with pytest.raises(DataError) as stopped:
        run({"good": Bad(1001), "some": Bad(3)}, 0.2, tokenizer, steps=40)
    sentence = str(stopped.value)
    assert "the source 'some'" in sentence and "rejected_share=0.2" in sentence
    assert "'torn': " in sentence and "'empty text': " in sentence
    stream = training_stream(
        {"good": Bad(1001), "some": Bad(3)},
        {"good": 1.0, "some": 1.0},
        Recipe({}, {"caption": TextSpec("captions", 1, 7)}, tokenizer),
        rows=ROWS,
        seed=0,
    )
    first = [record for step in range(10) for source, record in stream[step].rejected if source == "some"][:NAMED]
    named = [line.strip() for line in sentence.splitlines()[1:-1]]
    assert named == [f"{record.key}: {record.reason}" for record in first]
    assert len(named) == NAMED


def test_a_few_records_are_not_judged(tokenizer):
    steps = JUDGED_FROM // ROWS
    run({"bad": Bad(1)}, 0.5, tokenizer, steps=steps - 1)
    with pytest.raises(DataError, match=f"{JUDGED_FROM} of {JUDGED_FROM} records"):
        run({"bad": Bad(1)}, 0.5, tokenizer, steps=steps)


def test_a_good_source_does_not_hide_a_bad_one(tokenizer):
    with pytest.raises(DataError, match="the source 'bad'"):
        run({"good": Bad(1001), "bad": Bad(2)}, 0.4, tokenizer, steps=40)


class BrokenOff(Bad):
    """Good records up to a moment, and none from then on."""

    def __init__(self):
        super().__init__(10**6)
        self.reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index + 1) if self.reads <= 30 * ROWS else Rejected("gone", f"key {index}")


def test_a_source_that_breaks_late_stops_the_run_soon(tokenizer):
    source, watch, tally = BrokenOff(), Rejections(0.9), Counter()
    recipe = Recipe({}, {"caption": TextSpec("captions", 1, 7)}, tokenizer)
    stream = training_stream({"some": source}, {"some": 1.0}, recipe, rows=ROWS, seed=0)
    with pytest.raises(DataError, match="The last records cannot be used"):
        for step in range(100):
            loaded = stream[step]
            tally = tally + loaded.tally
            watch.check([loaded], tally)
    assert 30 <= step < 30 + 2 * JUDGED_FROM // ROWS


def test_where_all_may_be_bad_the_last_ones_may_be_too(tokenizer):
    assert run({"some": Bad(1)}, 1.0, tokenizer, steps=40)["some/used"] == 0
