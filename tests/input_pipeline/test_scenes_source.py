"""Is an example a pure function of its index, and are corruptions what they say?"""

import copy
import pickle
from collections import Counter

import numpy as np
import pytest

from input_pipeline.sources.scenes import Scenes
from mmfuse.types import AUDIO_RATE, ConfigError

ALL = {"darkness": 0.1, "noise": 0.1, "occlusion": 0.1, "audio_noise": 0.1, "swap": 0.1, "alter": 0.1, "missing": 0.1}


def same(one, two):
    np.testing.assert_equal(one._asdict(), two._asdict())


def befallen(source, kind, modality):
    """Returns the indices where a corruption befell a modality."""
    return [i for i in range(len(source)) if source[i].truth["corruptions"].get(modality, ("",))[0] == kind]


def test_form():
    source = Scenes("train", canvas=37)
    example = source[np.int64(999_983)]
    assert len(source) == 1_000_000
    assert example.key == example.concept == "train/999983"
    assert example.signals["image"].shape == (37, 37, 3) and example.signals["image"].dtype == np.uint8
    assert example.signals["audio"].shape == (2 * AUDIO_RATE,) and example.signals["audio"].dtype == np.float32
    assert set(example.truth) == {"objects", "background", "light", "masks", "corruptions"}


def test_examples_do_not_depend_on_order_or_instance():
    source, other = Scenes("test", corruptions=ALL), pickle.loads(pickle.dumps(Scenes("test", corruptions=ALL)))
    forward = [copy.deepcopy(source[index]) for index in range(23)]
    for index in reversed(range(23)):
        same(forward[index], other[index])


@pytest.mark.parametrize("signals", [(), ("image",), ("audio",), ("audio", "image")])
def test_examples_do_not_depend_on_the_signals_asked_for(signals):
    whole, source = Scenes("train", corruptions=ALL), Scenes("train", signals=signals, corruptions=ALL)
    for index in range(29):
        full, part = whole[index], source[index]
        assert set(part.signals) == set(full.signals) & set(signals)
        for modality, signal in part.signals.items():
            np.testing.assert_array_equal(signal, full.signals[modality])
        assert part[3:6] == full[3:6]
        assert part.truth["objects"] == full.truth["objects"]
        assert ("masks" in part.truth) == ("image" in signals)
        there = (*signals, "description")
        assert part.truth["corruptions"] == {m: c for m, c in full.truth["corruptions"].items() if m in there}


def test_splits_and_seeds_are_disjoint():
    sources = [Scenes(split, signals=()) for split in ("train", "validation", "test", "test_systematic")]
    sources.append(Scenes("train", signals=(), seed=1))
    layouts = [str(source[index].truth["objects"]) for source in sources for index in range(53)]
    assert len(set(layouts)) == len(layouts)


def test_scenes_have_as_many_objects_as_asked_for():
    source = Scenes("train", signals=(), objects=(2, 3))
    assert {len(source[index].truth["objects"]) for index in range(50)} == {2, 3}


def test_questions_are_of_the_kinds_that_are_named():
    source = Scenes("test", size=50, canvas=32, questions=("shape", "count"))
    kinds = [question.kind for index in range(50) for question in source[index].questions]
    assert set(kinds) == {"shape", "count"} and len(kinds) > 60
    everything = {question.kind for index in range(50) for question in Scenes("test")[index].questions}
    assert len(everything) == 10


def test_systematic_scenes_show_held_out_pairs_alone():
    def pairs(split):
        source = Scenes(split, signals=(), size=200)
        return [{(t.shape, t.colour) for t in source[index].truth["objects"]} for index in range(200)]

    seen = set().union(*pairs("train"))
    assert len(seen) == 48
    assert all(not scene & seen for scene in pairs("test_systematic"))


@pytest.mark.parametrize("index", [5, -1])
def test_an_index_beyond_the_end_is_an_index_error(index):
    with pytest.raises(IndexError, match="0 to 4, asked for"):
        Scenes("train", size=5)[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tran"}, "did you mean 'train'"),
        ({"signals": ("imag",)}, "did you mean 'image'"),
        ({"size": 0}, "size: 0"),
        ({"size": -3}, "size: -3"),
        ({"canvas": 31}, "canvas: 31"),
        ({"objects": (0, 3)}, "objects: 0 to 3 is no range"),
        ({"objects": (3, 2)}, "objects: 3 to 2 is no range"),
        ({"objects": (3, 6)}, "write two numbers of 1 to 5"),
        ({"corruptions": {"darknes": 0.1}}, "did you mean 'darkness'"),
        ({"corruptions": {"darkness": 1.1}}, "share 1.1 is outside"),
        ({"corruptions": {"noise": (0.5, -0.1)}}, "level -0.1 is outside"),
        ({"corruptions": {"noise": float("nan")}}, "share nan is outside"),
        ({"corruptions": {"noise": (0.5, 0.5, 0.5)}}, "write a share, or"),
        ({"corruptions": {"noise": "0.5"}}, "write a share, or"),
        ({"corruptions": {"swap": (0.1, 0.5)}}, "it has no level"),
        ({"corruptions": {"noise": 0.6, "missing": 0.5}}, "befall image sum to 1.1"),
        ({"questions": ("colours",)}, "did you mean 'colour'?"),
        ({"reliable": (0.5, 0.5)}, "no weights of 1 to 3"),
        ({"reliable": (0.5, 0.6, -0.1)}, "none below 0"),
        ({"reliable": (0, 0, 0)}, "no weights"),
        ({"reliable": (1, 0, 0), "corruptions": {"darkness": 0.5, "gaps": 0.5}}, "no corruption befalls audio"),
        ({"size": 1, "corruptions": {"swap": 0.5}}, "no other to swap with"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Scenes(**{"split": "train"} | arguments)


def test_corruptions_come_as_often_as_asked_for_and_one_at_a_time():
    shares = {"darkness": 0.3, "swap": 0.2, "missing": 0.1, "audio_noise": 0.4}
    source = Scenes("train", size=300, canvas=32, corruptions=shares)
    drawn = [source[index].truth["corruptions"] for index in range(300)]
    for modality, own in (("image", "darkness"), ("audio", "audio_noise")):
        kinds = (own, "swap", "missing")
        counts = Counter(d[modality][0] for d in drawn if modality in d)
        assert set(counts) == set(kinds)
        assert all(abs(counts[kind] / 300 - shares[kind]) < 0.08 for kind in kinds), counts
    levels = [d["image"][1] for d in drawn if d.get("image", ("",))[0] == "darkness"]
    assert 0 < min(levels) < 0.1 and 0.9 < max(levels) <= 1 and abs(np.mean(levels) - 0.5) < 0.08
    assert {d[m][1] for d in drawn for m in d if d[m][0] in ("swap", "missing")} == {1.0}


@pytest.mark.parametrize(
    ("kind", "modality"),
    [("darkness", "image"), ("noise", "image"), ("occlusion", "image"), ("audio_noise", "audio")],
)
def test_levels_run_from_the_identity_to_the_worst(kind, modality):
    clean = Scenes("train")
    for index in range(3):
        truth = clean[index].signals[modality].astype(np.float64)
        results = [Scenes("train", corruptions={kind: (1, k / 10)})[index] for k in range(11)]
        spoilt = [result.signals[modality] for result in results]
        errors = [np.square(one.astype(np.float64) - truth).mean() for one in spoilt]
        assert [result.truth["corruptions"][modality] for result in results] == [(kind, k / 10) for k in range(11)]
        assert errors[0] == 0 and (np.diff(errors) > 0).all(), errors
        assert all(one.dtype == clean[index].signals[modality].dtype for one in spoilt)
        worst = spoilt[-1].astype(np.float64)
        assert np.abs(np.corrcoef(worst.ravel() + 1e-9 * np.arange(worst.size), truth.ravel())[0, 1]) < 0.1
        same(results[0]._replace(truth={}), clean[index]._replace(truth={}))


def test_worst_levels_by_value():
    dark, hidden, noisy, loud = (
        Scenes("train", corruptions={kind: (1, 1.0)})[0].signals
        for kind in ("darkness", "occlusion", "noise", "audio_noise")
    )
    assert (dark["image"] == 0).all() and (hidden["image"] == 127).all()
    assert abs(noisy["image"].mean() - 127.5) < 3 and noisy["image"].min() == 0 and noisy["image"].max() == 255
    assert abs(loud["audio"].std() - 1 / np.sqrt(3)) < 0.01 and np.abs(loud["audio"]).max() <= 1


def test_occlusion_hides_its_level_of_the_area():
    example = Scenes("train", corruptions={"occlusion": (1, 0.25)})[1]
    hidden = (example.signals["image"] == 127).all(axis=2)
    rows, columns = hidden.any(axis=1), hidden.any(axis=0)
    assert rows.sum() == columns.sum() == 32 and hidden.sum() == 32**2


def test_swap_gives_the_clean_signal_of_another_example_and_the_true_texts():
    source, clean = Scenes("train", size=3, corruptions={"swap": 0.5}), Scenes("train", size=3)
    assert befallen(source, "swap", "image") or befallen(source, "swap", "audio")
    for modality in ("image", "audio"):
        for index in befallen(source, "swap", modality):
            others = [clean[other].signals[modality] for other in range(3) if other != index]
            assert any(np.array_equal(source[index].signals[modality], other) for other in others)
            assert source[index][3:6] == clean[index][3:6]
            np.testing.assert_array_equal(source[index].truth["masks"], clean[index].truth["masks"])


def test_descriptions_are_swapped_too():
    spec = {"split": "train", "size": 17, "signals": ()}
    source, clean = Scenes(**spec, corruptions={"swap": 0.5}), Scenes(**spec)
    swapped = befallen(source, "swap", "description")
    assert 3 < len(swapped) < 14
    for index in range(17):
        others = [clean[other].description for other in range(17) if other != index]
        assert source[index].description in (others if index in swapped else [clean[index].description])


def test_a_foil_differs_from_the_scene_in_one_word_whatever_befell_its_description():
    source, clean = (
        Scenes("train", size=31, signals=(), corruptions={"swap": 0.5}),
        Scenes("train", size=31, signals=()),
    )
    for index in range(31):
        foil, true = source[index].foil.split(), clean[index].description.split()
        assert sum(one != other for one, other in zip(foil, true, strict=True)) == 1
    assert Scenes("train", size=31, signals=(), seed=1)[0].foil != clean[0].foil


def test_what_is_altered_is_a_near_miss_of_its_own_scene():
    source, clean = Scenes("train", size=31, corruptions={"alter": 0.5}), Scenes("train", size=31)
    told = Counter()
    for index in range(31):
        altered, true = source[index], clean[index]
        words = zip(altered.description.split(), true.description.split(), strict=True)
        assert sum(one != other for one, other in words) == ("description" in altered.truth["corruptions"])
        for modality in ("image", "audio"):
            same = np.array_equal(altered.signals[modality], true.signals[modality])
            assert same == (modality not in altered.truth["corruptions"])
        assert altered.questions == true.questions
        told.update([*altered.truth["corruptions"]])
    assert set(told) == {"image", "audio", "description"} and min(told.values()) > 5


def test_missing_drops_the_signal_and_keeps_the_truth():
    source, clean = Scenes("train", size=31, corruptions={"missing": 0.5}), Scenes("train", size=31)
    gone = befallen(source, "missing", "image")
    assert 5 < len(gone) < 26 and gone != befallen(source, "missing", "audio")
    for index in range(31):
        assert ("image" in source[index].signals) == (index not in gone)
        np.testing.assert_array_equal(source[index].truth["masks"], clean[index].truth["masks"])


def test_gaps_take_words_of_the_description_alone():
    source, clean = Scenes("train", signals=(), corruptions={"gaps": (1, 0.4)}), Scenes("train", signals=())
    words, gaps = 0, 0
    for index in range(53):
        torn, whole = source[index].description.split(), clean[index].description.split()
        assert len(torn) == len(whole) and all(one in ("…", other) for one, other in zip(torn, whole))
        same(source[index]._replace(description=None, truth={}), clean[index]._replace(description=None, truth={}))
        assert source[index].truth["corruptions"] == {"description": ("gaps", 0.4)}
        words, gaps = words + len(whole), gaps + torn.count("…")
    assert abs(gaps / words - 0.4) < 0.05
    assert set(Scenes("train", signals=(), corruptions={"gaps": (1, 1.0)})[0].description.split()) == {"…"}


def test_as_many_modalities_are_reliable_as_asked_for_and_all_others_are_spoiled():
    shares = {"darkness": 0.1, "noise": 0.3, "audio_noise": 0.2, "gaps": 0.2}
    source = Scenes("train", size=300, canvas=32, corruptions=shares, reliable=(0.5, 0.3, 0.2))
    spoiled = [source[index].truth["corruptions"] for index in range(300)]
    counts = Counter(3 - len(befallen) for befallen in spoiled)
    assert all(abs(counts[number] / 300 - share) < 0.08 for number, share in ((1, 0.5), (2, 0.3), (3, 0.2))), counts
    alone = Counter(next(iter({"image", "audio", "description"} - set(b))) for b in spoiled if len(b) == 2)
    assert all(abs(number / counts[1] - 1 / 3) < 0.1 for number in alone.values()), alone
    kinds = Counter(befallen["image"][0] for befallen in spoiled if "image" in befallen)
    assert abs(kinds["noise"] / kinds.total() - 0.75) < 0.1


def test_what_is_reliable_does_not_depend_on_the_signals_asked_for():
    given = {"corruptions": {"darkness": 0.1, "audio_noise": 0.2, "gaps": 0.2}, "reliable": (1, 1, 1)}
    whole, part = Scenes("train", **given), Scenes("train", signals=("audio",), **given)
    for index in range(29):
        left = {name: befallen for name, befallen in whole[index].truth["corruptions"].items() if name != "image"}
        assert part[index].truth["corruptions"] == left
        np.testing.assert_equal(part[index].signals.get("audio"), whole[index].signals.get("audio"))
