"""A config for anyone's data keeps what the data have, and nothing that needs what they do not have."""

import io

import jax
import numpy as np
import pytest
import soundfile

from configs import own_data, tiny
from mmfuse.experiment import Experiment
from mmfuse.survey import fit_to_data, give_room, keep, long_sound, survey
from mmfuse.types import Caption, ConfigError, DataError, Example, Question, Rejected

IMAGE, AUDIO, CAPTIONS = ("image", "audio", "captions")


class Listed(list):
    """A source of these records."""


def test_what_some_record_has_is_found():
    seen = Example("a", "a", {"image": b""}, captions=(Caption("part", whole=False),))
    asked = Example("b", "b", {}, questions=(Question("q", "a", "k"),))
    assert survey([Listed([Rejected("torn", "x"), seen]), Listed([asked])], 5) == {
        *("image", "captions", "first_captions", "questions", "whole_captions_and_questions")
    }


def test_the_sample_is_spread_over_the_source():
    records = [Example(str(i), "", {"image": b""} if i < 90 else {"audio": b""}) for i in range(100)]
    assert survey([Listed(records)], 10) == {"image", "audio"}
    assert len(survey([Listed(records)], 1)) == 1


def test_what_alternates_is_all_seen():
    records = [Example(str(i), "", {("image", "audio", "audio", "audio")[i % 4]: b""}) for i in range(1024)]
    assert survey([Listed(records)], 256) == {"image", "audio"}


def test_shards_that_nobody_named():
    config = own_data.get_config("small")
    with pytest.raises(ConfigError, match=r"data\.(train|test) names no shards: write --config.data"):
        fit_to_data(config, {})


def test_records_of_which_none_can_be_used():
    with pytest.raises(DataError, match="shard:7: torn"):
        survey([Listed([Rejected("torn", "shard:7")] * 3)], 2)


def test_without_sound():
    kept = keep(own_data.get_config("small"), (IMAGE, CAPTIONS))
    assert set(kept.model.towers) == {"image", "text"} and kept.model.single.memories == ("image",)
    assert kept.objectives.contrastive.between == kept.evaluators.retrieval.between == (("image", "caption"),)
    assert set(kept.streams.pairs.signals) == set(kept.evaluators.retrieval.stream.signals) == {"image"}
    assert set(kept.streams.pairs.augment) == {"image"}
    assert set(kept.streams.pairs.objectives) == {"contrastive", "captioning"}
    assert set(kept.evaluators.caption.stream.signals) == {"image"}


def test_without_words():
    kept = keep(own_data.get_config("small"), (IMAGE, AUDIO))
    assert set(kept.model.towers) == {"image", "audio"} and "single" not in kept.model
    assert kept.objectives.contrastive.between == kept.evaluators.retrieval.between == (("image", "audio"),)
    assert set(kept.streams.pairs.objectives) == set(kept.objectives) == {"contrastive"}
    assert len(kept.streams.pairs.text) == len(kept.evaluators.retrieval.stream.text) == 0
    assert set(kept.evaluators) == {"retrieval"}  # there is nothing to caption


def test_with_everything_nothing_changes():
    config = own_data.get_config("small")
    kept = keep(config, (IMAGE, AUDIO, CAPTIONS))
    assert kept.survey.found == (IMAGE, AUDIO, CAPTIONS)
    with kept.unlocked():
        kept.survey.found = ()
    assert kept.to_dict() == config.to_dict()


@pytest.mark.parametrize("found", [(IMAGE, CAPTIONS), (IMAGE, AUDIO), (AUDIO, CAPTIONS)])
def test_what_is_kept_can_be_built(found, tmp_path):
    config = keep(own_data.get_config("small"), found)
    parameters = Experiment(config, tmp_path).abstract_state.trainable
    assert len(parameters["towers"]) == 2 and jax.tree.leaves(parameters)


@pytest.mark.parametrize("found", [(IMAGE,), (CAPTIONS,), ("questions",)])
def test_one_modality_alone_is_refused(found):
    with pytest.raises(ConfigError, match="no second modality"):
        keep(own_data.get_config("small"), found)


def test_a_run_that_goes_on_keeps_what_was_found():
    config = own_data.get_config("small")  # names no data at all
    kept = fit_to_data(config, {"survey": {"found": [AUDIO, CAPTIONS], "longest": 12_801}})
    assert set(kept.model.towers) == {"audio", "text"} and kept.survey.longest == 12_801
    # patches of 16 frames, 160 samples from one to the next
    assert kept.model.towers.audio.samples == 15_360
    assert kept.streams.pairs.signals.audio == kept.evaluators.retrieval.stream.signals.audio == (15_360,)
    Experiment(kept, "none")


def test_one_long_sound_of_many_is_cut():
    sounds = [
        Example(str(i), "", {"audio": np.zeros(size, np.float32)}) for i, size in enumerate([500] * 97 + [9000] * 3)
    ]
    assert long_sound([Listed(sounds)], 100, 100_000) == 9000
    assert long_sound([Listed(sounds[:98])], 98, 100_000) == 500


def test_the_longest_sound_that_can_be_heard_counts_and_no_more_than_there_is_room_for():
    short, long = (np.zeros(size, np.float32) for size in (700, 4000))
    buffer = io.BytesIO()
    soundfile.write(buffer, long, 8000, format="WAV")
    sounds = [Example(str(i), "", {"audio": sound}) for i, sound in enumerate((short, buffer.getvalue(), b"noise"))]
    records = [Rejected("torn", "x"), Example("none", "", {}), *sounds]
    assert long_sound([Listed(records)], 9, 100_000) == 8000  # at 16 kHz
    assert long_sound([Listed(records)], 9, 5000) == 5000
    assert long_sound([Listed(records[:2])], 9, 5000) == 0
    config = own_data.get_config("small")
    assert give_room(config, 0) is config and config.model.towers.audio.samples == 320_000


def test_the_run_of_another_config_has_found_nothing():
    config = own_data.get_config("small")
    config.data.update(train="none-*.tar", test="none-*.tar")
    with pytest.raises(DataError, match="no file"):  # looks at the data; the folder is refused when it is claimed
        fit_to_data(config, tiny.get_config().to_dict())


def test_other_configs_mean_what_they_say():
    config = tiny.get_config()
    assert fit_to_data(config, {}) is config
