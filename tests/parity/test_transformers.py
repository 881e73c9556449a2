"""Dual towers of transformers: the same embeddings, logits, losses and gradients; and back without a bit changed."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx

from mmfuse.weights import load_pretrained, save_pretrained
from mmfuse.weights.pretrained import FAMILIES
from tests.parity import references
from tests.parity.compare import assert_same_gradients, run


def clip_quick():
    """As released: quick_gelu, the first EOS, padding behind it; a width that its patches do not fill."""
    vision, text = (40, 37, 3, 4, "quick_gelu"), (32, 29, 2, 8, "quick_gelu")
    sizes = {"image_size": 35, "patch_size": 8}, {"max_position_embeddings": 16}
    model = references.clip((vision, sizes[0]), (text, sizes[1]), 24)
    return model, references.pictures(3, 35), *references.texts(3, 10, (7, 9, 3))


def clip_gelu():
    """Exact gelu, one grey channel, three heads, another epsilon, and the highest id taken for the end."""
    vision, text = (15, 22, 1, 3, "gelu"), (33, 14, 3, 11, "gelu")
    changes = {"image_size": 21, "patch_size": 7, "num_channels": 1, "layer_norm_eps": 1e-3}
    words = {"max_position_embeddings": 13, "eos_token_id": 2, "layer_norm_eps": 1e-4}
    model = references.clip((vision, changes), (text, words), 19)
    return model, references.pictures(5, 21, channels=1), *references.texts(5, 13, (3, 12, 1, 9, 5))


def siglip_tanh():
    """As released: texts of the full length, whose last token may be padding that is read."""
    vision, text = (32, 37, 2, 4, "gelu_pytorch_tanh"), (24, 29, 3, 8, "gelu_pytorch_tanh")
    sizes = {"image_size": 38, "patch_size": 8}, {"max_position_embeddings": 12, "projection_size": 32}
    model = references.siglip((vision, sizes[0]), (text, sizes[1]))
    ids, _ = references.texts(3, 12, (7, 11, 3))
    return model, references.pictures(3, 38), ids, torch.ones_like(ids)


def siglip_masked():
    """Texts shorter than the table, under a mask; relu, and heads that have one number each."""
    vision, text = (10, 13, 1, 10, "relu"), (10, 7, 1, 5, "gelu")
    sizes = {"image_size": 15, "patch_size": 5, "layer_norm_eps": 1e-4}, {"max_position_embeddings": 12}
    model = references.siglip((vision, sizes[0]), (text, sizes[1]))
    return model, references.pictures(4, 15), *references.texts(4, 9, (7, 8, 3, 0))


CASES = (clip_quick, clip_gelu, siglip_tanh, siglip_masked)


class Both(NamedTuple):
    """What the reference and our model of its folder say of the same inputs."""

    folder: object
    reference: object
    theirs: object
    model: object
    config: object
    ours: dict
    gradients: dict


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.__name__)
def both(request, tmp_path_factory):
    reference, pixels, ids, mask = request.param()
    folder = tmp_path_factory.mktemp("theirs")
    reference.save_pretrained(folder)
    theirs = reference(input_ids=ids, attention_mask=mask, pixel_values=pixels, return_loss=True)
    theirs.loss.backward()
    model, config = load_pretrained(folder)
    gradients, ours = run(model, pixels, ids, mask)
    return Both(folder, reference, theirs, model, config, ours, gradients)


def test_embeddings_logits_and_loss_are_those_of_the_reference(both):
    theirs = both.theirs
    np.testing.assert_allclose(both.ours["image"], theirs.image_embeds.detach(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(both.ours["text"], theirs.text_embeds.detach(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(both.ours["text"], axis=1), 1, atol=1e-6)
    scale = both.reference.logit_scale.exp().item()
    np.testing.assert_allclose(both.ours["scale"], scale, rtol=1e-6)
    np.testing.assert_allclose(both.ours["logits"], theirs.logits_per_image.detach(), rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(both.ours["loss"], theirs.loss.item(), rtol=0, atol=1e-5)


def test_gradients_of_every_parameter_are_those_of_the_reference(both):
    table = FAMILIES[both.reference.config.model_type].table(both.config.model)
    assert_same_gradients(table, both.gradients, both.reference)


def test_what_is_written_is_what_was_read(both, tmp_path):
    save_pretrained(tmp_path, both.model, both.config)
    files = [safetensors.numpy.load_file(folder / "model.safetensors") for folder in (both.folder, tmp_path)]
    assert files[0].keys() == files[1].keys()
    for name, tensor in files[0].items():
        np.testing.assert_array_equal(tensor, files[1][name], err_msg=name)


def test_the_reference_loads_what_is_written_and_says_the_same(both, tmp_path):
    save_pretrained(tmp_path, both.model, both.config)
    loaded, report = type(both.reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    for name, tensor in both.reference.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    mine, known = (model.config.to_dict() for model in (loaded, both.reference))
    for part, setting in [
        ("vision_config", ("image_size", "patch_size", "hidden_act", "layer_norm_eps", "num_channels")),
        ("text_config", ("hidden_act", "layer_norm_eps", "eos_token_id", "max_position_embeddings")),
    ]:
        assert [mine[part][key] for key in setting] == [known[part][key] for key in setting]


def test_our_own_export_comes_back_bit_for_bit(both, tmp_path):
    save_pretrained(tmp_path, both.model, both.config)
    model, config = load_pretrained(tmp_path)
    assert config.to_json() == both.config.to_json()
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(both.model))
