"""SigLIP 2 on pictures of different shapes: the same numbers and gradients, the table resized by ourselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import Siglip2Config, Siglip2Model, Siglip2TextConfig, Siglip2VisionConfig

from mmfuse.nn.positions import ResizedPosition
from mmfuse.training.rules import named_leaves
from mmfuse.weights import load_pretrained, save_pretrained
from mmfuse.weights.siglip import SIGLIP2
from tests.parity import references
from tests.parity.compare import assert_same_gradients, contrastive

SIZES = {"hidden_size": 20, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 5}
SHAPES = ((3, 4), (4, 2), (1, 1), (2, 6))
PATCHES = 12


@pytest.fixture(scope="module")
def reference():
    vision = Siglip2VisionConfig(**SIZES, patch_size=5, num_patches=16)
    text = Siglip2TextConfig(**SIZES, **references.IDS, max_position_embeddings=9)
    config = Siglip2Config(text_config=text.to_dict(), vision_config=vision.to_dict(), attn_implementation="eager")
    return references.scramble(Siglip2Model(config))


def test_numbers_and_gradients_are_those_of_the_reference(reference, tmp_path):
    shapes = torch.tensor(SHAPES)
    pixels = torch.randn(len(SHAPES), PATCHES, 75, generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(PATCHES)[None] < shapes.prod(dim=1)[:, None]).long()
    ids, _ = references.texts(len(SHAPES), 9, (3, 8, 5, 2))
    theirs = reference(
        input_ids=ids, pixel_values=pixels, pixel_attention_mask=mask, spatial_shapes=shapes, return_loss=True
    )
    theirs.loss.backward()

    reference.save_pretrained(tmp_path / "theirs")
    model, config = load_pretrained(tmp_path / "theirs")
    graph, state = nnx.split(model)
    patches, mask, shapes, ids = (jnp.asarray(array.numpy()) for array in (pixels, mask, shapes, ids))

    @jax.jit
    def outputs(state):
        model = nnx.merge(graph, state)
        image, text = model.embed_patches(patches, mask, shapes), model.embed_text(ids)
        return contrastive(model.dual, image, text), (image, text, model.similarity(image, text))

    gradients, (image, text, logits) = jax.jit(jax.grad(outputs, has_aux=True))(state)
    np.testing.assert_allclose(image, theirs.image_embeds.detach(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(text, theirs.text_embeds.detach(), rtol=0, atol=1e-5)
    scale = reference.logit_scale.exp().item()
    np.testing.assert_allclose(logits, theirs.logits_per_image.detach(), rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(outputs(state)[0], theirs.loss.item(), rtol=0, atol=1e-5)
    assert_same_gradients(SIGLIP2.table(config.model), named_leaves(gradients), reference)

    save_pretrained(tmp_path / "ours", model, config)
    loaded, report = Siglip2Model.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    again, config_again = load_pretrained(tmp_path / "ours")
    assert config_again.to_json() == config.to_json()
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(model))


@pytest.mark.parametrize("shape", [*SHAPES, (16, 16), (40, 3), (7, 29)])
def test_a_resized_table_is_that_of_the_reference(reference, shape):
    table = reference.vision_model.embeddings.position_embedding.weight.detach()
    resize = reference.vision_model.embeddings.resize_positional_embeddings
    theirs = resize(table.reshape(4, 4, -1), torch.tensor([shape]), max_length=shape[0] * shape[1])
    module = ResizedPosition((4, 4), table.shape[1], rngs=nnx.Rngs(0))
    module.table[...] = jnp.asarray(table.numpy())
    position = jnp.asarray(np.indices(shape).reshape(2, -1).T[None], jnp.float32)
    np.testing.assert_allclose(module(position, jnp.array([shape])), theirs, atol=1e-6)
