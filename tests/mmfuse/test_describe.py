import pytest

from mmfuse.describe import describe_batches, describe_state, human_bytes
from mmfuse.experiment import Experiment
from tests import small


@pytest.mark.parametrize(("number", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**40, "5 TiB")])
def test_bytes_for_people(number, words):
    assert human_bytes(number) == words


def test_every_parameter_has_a_row_with_its_sharding(tmp_path):
    config = small.get_config()
    config.mesh.update(data=2, fsdp=2, tensor=2)
    config.optimizer.frozen = (("^towers/audio/", True), (".*", False))
    experiment = Experiment(config, tmp_path)
    lines = describe_state(experiment.abstract_state).splitlines()
    (row,) = [line.split() for line in lines if line.startswith("towers/text/embed/embedding")]
    assert " ".join(row[1:]) == "(300, 16) float32 ('tensor', 'fsdp') 19200"
    assert any(line.startswith("towers/audio/vit/embed/kernel (frozen)") for line in lines)
    assert "trainable parameters" in lines[-1] and " 0 frozen" not in lines[-1]


def test_a_batch_is_described_without_reading_one(tmp_path):
    text = describe_batches(Experiment(small.get_config(), tmp_path).abstract_batches)
    assert "pairs/signals/image/values" in text and "(8, 1, 64, 64, 3)" in text and "uint8" in text
