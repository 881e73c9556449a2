"""Is `stream[step]` a function of (seed, step) alone, with every record in its turn and every bad one in its place?"""

from collections import Counter

import grain
import numpy as np
import pytest

from input_pipeline import texts
from input_pipeline.loader import load
from input_pipeline.sources.digits import Digits
from input_pipeline.streams import TOGETHER, Recipe, evaluation_stream, training_stream
from input_pipeline.texts import TextSpec
from mmfuse.types import Caption, ConfigError, Example, Question, Rejected

CAPTION = {"caption": TextSpec("captions", 1, 11)}
SIGNALS = {"image": (5, 7), "audio": (11,)}


class Numbered:
    """`size` records that know their number, as brightness and as text; some of them are bad, each in its way."""

    def __init__(self, size, bad=None):
        self.size, self.bad = size, bad or {}

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        image = np.full((2, 3, 3), index, np.uint8)
        captions = tuple(Caption(f"{index} {i}", "en" if i else "de") for i in range(5))
        example = Example(f"{index}", f"{index}", {"image": image}, captions, (Question("which?", f"{index}", "k"),))
        return self.bad.get(index, lambda example: example)(example)


def stream(sources, weights=None, *, tokenizer, rows=7, text=CAPTION, signals=None, seed=3, **where):
    weights = weights or dict.fromkeys(sources, 1.0)
    return training_stream(sources, weights, Recipe(signals or {}, text, tokenizer), rows=rows, seed=seed, **where)


def origins(batches):
    """(source, index) of every row, in order."""
    return [tuple(origin) for loaded in batches for origin in loaded.batch.origin.tolist()]


def summary(loaded):
    """What a step holds, to be compared."""
    ids = {role: text.ids.tolist() for role, text in loaded.batch.text.items()}
    return loaded.batch.origin.tolist(), loaded.pieces, ids, loaded.tally


@pytest.fixture
def two_sources():
    return {"a": Numbered(13), "b": Numbered(5)}


TURNS = {
    "caption": TextSpec("captions", 2, 11, balance="languages"),
    "target": TextSpec("captions", 1, 11, languages=("en",), packed=3),
}


@pytest.mark.parametrize("text", [CAPTION, TURNS], ids=["captions", "languages and packing"])
def test_a_step_is_the_same_whoever_reads_it_and_whatever_was_read_before(tokenizer, two_sources, text):
    expected = [summary(stream(two_sources, tokenizer=tokenizer, text=text)[step]) for step in range(11)]
    one = stream(two_sources, tokenizer=tokenizer, text=text)
    assert [summary(one[step]) for step in reversed(range(11))] == expected[::-1]
    for workers, ahead, first in ((0, 1, 0), (1, 1, 3), (1, 5, 0), (2, 2, 7), (2, 5, 4)):
        ready = load({"x": one}, range(first, 11), workers=workers, ahead=ahead)
        assert [summary(loaded["x"]) for loaded in ready] == expected[first:]


def test_orders_and_random_numbers_are_those_of_grain(tokenizer):
    source, recipe = Numbered(29), Recipe({}, CAPTION, tokenizer)

    def row(index, rng):
        made = recipe.prepare(("a", 0, index, source[index]), rng)
        return made.origin, made.pieces

    def rows(loaded):
        return list(zip(origins([loaded]), loaded.pieces))

    one, expected = (
        training_stream({"a": source}, {"a": 1.0}, recipe, rows=7, seed=2**31),
        grain.MapDataset.range(29).seed(2**31).shuffle().repeat().random_map(row),
    )
    for step in (0, 4, 10**12):
        assert rows(one[step]) == [expected[place] for place in range(7 * step, 7 * step + 7)]
    finite, expected = evaluation_stream("a", source, recipe, rows=13), grain.MapDataset.range(29).seed(0)[:29]
    assert rows(finite[1]) == [expected.random_map(row)[place] for place in range(13, 26)]


def test_another_seed_is_another_order_and_another_choice(tokenizer):
    source = {"a": Numbered(199)}
    first, other = (stream(source, tokenizer=tokenizer, rows=53, seed=seed)[0] for seed in (3, 4))
    assert origins([first]) != origins([other])
    chosen = [stream({"a": Numbered(1)}, tokenizer=tokenizer, seed=seed)[0].pieces for seed in (3, 4)]
    assert chosen[0] != chosen[1]


def test_sources_of_one_stream_have_orders_of_their_own(tokenizer):
    twins = origins([stream({"a": Numbered(97), "b": Numbered(97)}, tokenizer=tokenizer, rows=194)[0]])
    assert [i for s, i in twins if s == 0] != [i for s, i in twins if s == 1]


def test_every_record_once_an_epoch_in_an_order_of_its_own(tokenizer, two_sources):
    read = origins(stream(two_sources, tokenizer=tokenizer)[step] for step in range(26))
    for source, size in ((0, 13), (1, 5)):
        order = [index for number, index in read if number == source]
        epochs = [tuple(order[start : start + size]) for start in range(0, len(order) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) == len(epochs) if size == 13 else len(set(epochs)) > len(epochs) / 2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_source_smaller_than_a_batch_is_read_again_and_again(tokenizer, size):
    assert Counter(origins([stream({"a": Numbered(size)}, tokenizer=tokenizer, rows=12)[0]])) == {
        (0, index): 12 // size for index in range(size)
    }


@pytest.mark.parametrize(
    ("weights", "within"),
    [((0.7, 0.3), 1), ((1 / 3, 2 / 3), 1), ((3.0, 5.0, 11.0), 2), ((0.005, 0.6, 0.2, 0.195), 2), ((1e-6, 1.0), 1)],
)
def test_each_source_has_its_share_from_the_start_to_any_row(tokenizer, weights, within):
    sources = {str(number): Numbered(17) for number in range(len(weights))}
    one = stream(sources, dict(zip(sources, weights)), tokenizer=tokenizer, rows=241, text={})
    numbers = np.array([number for step in range(3) for number, _ in origins([one[step]])])
    read = (numbers[:, None] == np.arange(len(weights))).cumsum(axis=0)
    due = np.arange(1, len(read) + 1)[:, None] * np.array(weights) / sum(weights)
    assert np.abs(read - due).max() <= within


# at these steps `grain.MapDataset.mix`, which cuts 65 : 35 to 185 : 100, gives 12 rows of 20
@pytest.mark.parametrize("step", [56, 999_950])
def test_the_share_is_exact_far_into_a_run(tokenizer, step):
    one = stream({"a": Numbered(2), "b": Numbered(2)}, {"a": 0.65, "b": 0.35}, tokenizer=tokenizer, rows=20, text={})
    assert Counter(number for number, _ in origins([one[step]])) == {0: 13, 1: 7}


@pytest.mark.parametrize("each", [[range(6), range(6, 12)], [[2, 3, 4, 5, 8, 9], [0, 1, 6, 7, 10, 11], [8, 9]]])
def test_processes_read_their_rows_of_what_one_reads(tokenizer, two_sources, each):
    alone = stream(two_sources, tokenizer=tokenizer, rows=12)
    for mine in each:
        part = stream(two_sources, tokenizer=tokenizer, rows=12, mine=mine)
        for step in (0, 1, 17):
            own, whole = part[step], alone[step]
            assert own.batch.origin.tolist() == [whole.batch.origin[row].tolist() for row in mine]
            assert own.pieces == [whole.pieces[row] for row in mine]


def test_captions_are_drawn_anew_in_every_epoch(tokenizer):
    one = stream({"a": Numbered(1)}, tokenizer=tokenizer, rows=50)
    assert len({pieces["caption"][0] for pieces in one[0].pieces}) == 5
    drawn = [pieces["caption"][0] for pieces in one[0].pieces]
    assert drawn != [pieces["caption"][0] for pieces in one[1].pieces]


def test_packed_rows_hold_texts_that_were_drawn(tokenizer):
    """Digits with captions in sixteen languages: every text of a row is one of its pieces, and most have room."""
    text = {"target": TextSpec("captions", 2, 48, balance="languages", packed=4)}
    loaded = stream({"a": Digits("validation")}, tokenizer=tokenizer, rows=16, text=text)[0]
    target, placed = loaded.batch.text["target"], 0
    for ids, segment, pieces in zip(target.ids, target.segment, loaded.pieces):
        known = [texts.encode(piece, "target", 48, tokenizer).ids.tolist() for piece in pieces["target"]]
        assert len(known) == 8 == len({piece.language for piece in pieces["target"]})
        found = [row[of == s].tolist() for row, of in zip(ids, segment) for s in range(1, of.max() + 1)]
        assert all(sequence in known for sequence in found)
        placed += len(found)
    assert placed == 16 * 8 - loaded.tally["a/left_out/target"] > 16 * 2


BAD = {
    2: (lambda example: Rejected("torn", example.key), "torn"),
    3: (lambda example: example._replace(captions=()), "no captions"),
    5: (lambda example: example._replace(captions=(Caption("\udfff"),)), "lone surrogate"),
    7: (lambda example: example._replace(captions=(Caption(" "),)), "empty text"),
    8: (lambda example: example._replace(signals={"image": b"no image"}), "not JPEG, PNG or WEBP"),
    11: (lambda example: example._replace(signals={"audio": b"no sound"}), "not WAV, FLAC or Ogg"),
}


def test_a_bad_record_is_a_counted_hole_and_its_neighbours_are_as_they_were(tokenizer):
    bad = Numbered(13, {index: spoil for index, (spoil, _) in BAD.items()})
    good, holed = (stream({"a": s}, tokenizer=tokenizer, rows=13, signals=SIGNALS)[0] for s in (Numbered(13), bad))
    hole = np.isin(good.batch.origin[:, 1], list(BAD))
    np.testing.assert_array_equal(holed.batch.valid, ~hole)
    assert (holed.batch.origin[hole] == -1).all() and (holed.batch.text["caption"].segment[hole] == 0).all()
    np.testing.assert_array_equal(holed.batch.origin[~hole], good.batch.origin[~hole])
    for field, array in holed.batch.signals["image"]._asdict().items():
        np.testing.assert_array_equal(array[~hole], getattr(good.batch.signals["image"], field)[~hole])
        assert not array[hole].any()
    assert [example is None for example in holed.examples] == hole.tolist()
    np.testing.assert_array_equal(holed.batch.text["caption"].ids[~hole], good.batch.text["caption"].ids[~hole])
    assert holed.tally == {"a/read": 13, "a/used": 7} | {f"a/rejected/{reason}": 1 for _, reason in BAD.values()}


class File(bytes):
    """A file that counts how many there are in memory."""

    alive = most = 0

    def __init__(self, _):
        File.alive += 1
        File.most = max(File.most, File.alive)

    def __del__(self):
        File.alive -= 1


def test_few_files_are_in_memory_at_a_time(tokenizer):
    """Of a batch of 60 no more than make rows together, beside the last of those before."""
    source = Numbered(60, dict.fromkeys(range(60), lambda each: each._replace(signals={"image": File(b"none")})))
    tally = stream({"a": source}, tokenizer=tokenizer, rows=60, signals=SIGNALS)[0].tally
    assert tally == {"a/read": 60, "a/rejected/not JPEG, PNG or WEBP": 60}
    assert TOGETHER <= File.most <= TOGETHER + 1


def test_bad_records_do_not_change_the_mixture(tokenizer):
    sources = {"a": Numbered(13, dict.fromkeys(range(13), BAD[2][0])), "b": Numbered(5)}
    tally = stream(sources, {"a": 0.7, "b": 0.3}, tokenizer=tokenizer, rows=100)[0].tally
    assert tally == {"a/read": 70, "a/rejected/torn": 70, "b/read": 30, "b/used": 30}


def test_a_prompt_too_long_is_a_counted_hole(tokenizer):
    ask = Example("", "", {}, questions=(Question("how many circles are there?" * 9, "two", "count"),))
    one = stream(
        {"a": Numbered(1, {0: lambda _: ask})}, tokenizer=tokenizer, text={"target": TextSpec("questions", 1, 11)}
    )
    assert one[0].tally == {"a/read": 7, "a/rejected/prompt too long": 7}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_bug_in_a_source_reaches_the_consumer(tokenizer, workers):
    def broken(example):
        raise ZeroDivisionError("a bug")

    one = stream({"a": Numbered(9), "b": Numbered(9, {4: broken})}, tokenizer=tokenizer, rows=4)
    ready = load({"x": one}, range(9), workers=workers)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(ready)


def test_origin_leads_back_to_the_record(tokenizer):
    sources = {"numbers": Numbered(29), "digits": Digits("validation")}
    loaded = stream(sources, tokenizer=tokenizer, rows=24, signals={"image": (8, 8)})[5]
    assert loaded.batch.origin.dtype == np.int32
    for row, (number, index) in enumerate(origins([loaded])):
        example = list(sources.values())[number][index]
        assert loaded.pieces[row]["caption"][0] in example.captions
        if number == 1:
            np.testing.assert_array_equal(loaded.batch.signals["image"].values[row, 0], example.signals["image"])
        else:
            assert (loaded.batch.signals["image"].values[row, 0] == index).all()


def test_concepts_are_equal_within_a_source_alone(tokenizer):
    same = Numbered(4, dict.fromkeys(range(3), lambda example: example._replace(concept="c\ud800")))
    batch = stream({"a": same, "b": same}, tokenizer=tokenizer, rows=8)[0].batch
    concepts = {}
    for origin, concept in zip(
        origins([stream({"a": same, "b": same}, tokenizer=tokenizer, rows=8)[0]]), batch.concept
    ):
        concepts.setdefault((origin[0], origin[1] == 3), set()).add(int(concept))
    assert all(len(found) == 1 for found in concepts.values())
    assert len(set().union(*concepts.values())) == 4


def test_signals_are_fitted_to_the_bucket(tokenizer):
    def sound(example):
        return example._replace(signals={"audio": np.arange(-9, 10, dtype=np.float32) / 10})

    loaded = stream({"a": Numbered(2, {1: sound})}, tokenizer=tokenizer, rows=2, signals=SIGNALS)[0]
    which = loaded.batch.origin[:, 1]
    image, audio = loaded.batch.signals["image"], loaded.batch.signals["audio"]
    assert image.values.shape == (2, 1, 5, 7, 3) and audio.values.shape == (2, 1, 11)
    np.testing.assert_array_equal(image.present, which == 0)
    np.testing.assert_array_equal(audio.present, which == 1)
    np.testing.assert_array_equal(audio.values[which == 1][0, 0], np.arange(-9, 2, dtype=np.float32) / 10)
    assert image.size[which == 0].tolist() == [[[5, 7]]] and audio.size[which == 1].tolist() == [[[11]]]


@pytest.mark.parametrize(("examples", "expected"), [(None, 13), (9, 9), (99, 13), (5, 5)])
def test_evaluation_reads_every_record_once_in_order(tokenizer, examples, expected):
    recipe = Recipe({}, CAPTION, tokenizer)
    batches = [*evaluation_stream("test", Numbered(13, {4: BAD[2][0]}), recipe, rows=5, examples=examples)]
    assert len(batches) == -(-expected // 5) and all(len(loaded.batch.valid) == 5 for loaded in batches)
    holes = [(-1, -1)] * (-expected % 5)
    assert origins(batches) == [(0, index) if index != 4 else (-1, -1) for index in range(expected)] + holes
    tally = sum((loaded.tally for loaded in batches), Counter())
    assert tally == {"test/read": expected, "test/used": expected - 1, "test/rejected/torn": 1}
    examples = [example for loaded in batches for example in loaded.examples]
    assert [example and example.key for example in examples[:expected]] == [
        Numbered(13)[index].key if index != 4 else None for index in range(expected)
    ]
    assert not any(example.signals for example in examples if example)


def test_a_finite_stream_ends_where_its_records_do_and_nowhere_else(tokenizer):
    recipe = Recipe({}, CAPTION, tokenizer)
    finite = evaluation_stream("test", Numbered(13), recipe, rows=5)
    for step in (-1, 3):
        with pytest.raises(IndexError, match=f"batch {step} of 3"):
            finite[step]

    def broken(example):
        raise IndexError("a bug")

    with pytest.raises(IndexError, match="a bug"):
        list(evaluation_stream("test", Numbered(13, {7: broken}), recipe, rows=5))


def test_evaluation_makes_the_same_choice_every_time(tokenizer):
    recipe = Recipe({}, CAPTION, tokenizer)
    once, again = (evaluation_stream("test", Numbered(13), recipe, rows=5) for _ in range(2))
    assert [summary(loaded) for loaded in once] == [summary(again[step]) for step in range(3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"a": 1.0, "b": 0.0}}, "weight that is not above 0"),
        ({"weights": {"a": 1.0, "b": float("nan")}}, "weight that is not above 0"),
        ({"signals": {"smell": (3,)}}, "no signal 'smell'; there are: image, audio"),
        ({"text": {"captoin": TextSpec("captions", 1, 11)}}, "did you mean 'caption'"),
    ],
)
def test_what_cannot_be_is_refused(tokenizer, two_sources, changes, message):
    with pytest.raises(ConfigError, match=message):
        stream(two_sources, tokenizer=tokenizer, **changes)


@pytest.mark.parametrize("balance", texts.BALANCES)
def test_an_example_without_a_text_is_used_for_what_else_it_has(tokenizer, balance):
    records = {
        1: lambda example: example._replace(captions=()),
        3: lambda example: example._replace(signals={}),
        4: lambda example: example._replace(captions=(), signals={}),
    }

    def read(optional):
        spec = TextSpec("captions", 2, 11, balance=balance, optional=optional)
        recipe = Recipe({"image": (5, 7)}, {"caption": spec}, tokenizer)
        return evaluation_stream("e", Numbered(5, records), recipe, rows=5)[0]

    loaded = read(True)
    assert loaded.tally["e/used"] == 4 and loaded.tally["e/rejected/nothing that is asked for"] == 1
    np.testing.assert_array_equal(loaded.batch.present("caption").any(axis=1), [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(loaded.batch.present("image").any(axis=1), [1, 1, 1, 0, 0])
    assert read(False).tally["e/rejected/no captions"] == 2
