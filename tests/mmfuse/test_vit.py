"""How a picture is cut, where its patches stand, and that what is not picture is not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build_towers import TOWERS
from mmfuse.nn.norms import LayerNorm
from mmfuse.nn.positions import LearnedPosition
from mmfuse.stack.stack import Stack
from mmfuse.towers.pooling import MeanPool
from mmfuse.towers.vit import ViT
from mmfuse.types import MODALITIES

B, IMAGE, PATCH = 3, (6, 10), (2, 5)
ROWS, COLUMNS = 3, 2
random = np.random.default_rng(0)
PICTURES = random.integers(0, 256, (B, *IMAGE, 3)).astype(np.uint8)
WHOLE = jnp.asarray([IMAGE] * B)


def make_vit(**changes):
    config = ConfigDict(parts.vit(12, 1, 3, image=IMAGE, patch=PATCH, **({"position": "learned"} | changes)))
    return nnx.jit(lambda: TOWERS["vit"](config, None, jnp.float32, nnx.Rngs(0)))()


def run(vit, values, size=WHOLE):
    """What a tower makes of pictures, in one program."""
    return jax.jit(lambda values: vit(values, size))(jnp.asarray(values))


class Identity(nnx.Module):
    def __call__(self, values):
        return values


def test_patches_are_cut_row_by_row_and_pixels_are_scaled():
    width = PATCH[0] * PATCH[1] * 3
    vit = ViT(width, Stack([], Identity()), MeanPool(), patch=PATCH, rngs=nnx.Rngs(0))
    vit.embed.kernel[...] = jnp.eye(width)
    tokens = vit(jnp.asarray(PICTURES), WHOLE).tokens
    for b, row, column in np.ndindex(B, ROWS, COLUMNS):
        place = row * COLUMNS + column
        patch = PICTURES[b, 2 * row : 2 * row + 2, 5 * column : 5 * column + 5].astype(np.float64)
        np.testing.assert_allclose(tokens.values[b, place], patch.ravel() / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(tokens.position[b, place], [row, column])
    assert (tokens.modality == MODALITIES.index("image")).all()


def test_patches_that_hold_nothing_of_the_picture_are_padding():
    tokens = run(make_vit(), PICTURES, jnp.array([[6, 10], [3, 10], [4, 5]])).tokens
    np.testing.assert_array_equal(tokens.segment, [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 0, 0]])


def test_a_class_token_stands_first_and_is_padding_where_the_picture_is(shake):
    vit = shake(make_vit(class_token=True, pool="first"))
    size = jnp.array([[6, 10], [0, 0], [2, 5]])
    out = vit(jnp.asarray(PICTURES), size)  # op by op: two programs may round differently
    np.testing.assert_array_equal(out.tokens.segment.sum(axis=1), [7, 0, 2])
    np.testing.assert_array_equal(out.tokens.segment[:, 0], [1, 0, 1])
    np.testing.assert_array_equal(out.pooled, out.tokens.values[:, 0] * jnp.array([[1.0], [0.0], [1.0]]))
    gradient = jax.jit(jax.grad(lambda values: vit(values, size).pooled.sum()))(jnp.asarray(PICTURES, jnp.float32))
    assert (np.asarray(gradient)[0] != 0).any() and (np.asarray(gradient)[1] == 0).all()


@pytest.mark.parametrize("pool", ["mean", "attention"])
@pytest.mark.parametrize("position", ["learned", "sincos", "rotary"])
def test_padded_patches_have_exactly_no_gradient(shake, pool, position):
    vit = shake(make_vit(pool=pool, position=position))
    size = jnp.array([[6, 10], [3, 10], [4, 5]])
    values = jnp.asarray(PICTURES, jnp.float32)
    gradient = np.asarray(jax.jit(jax.grad(lambda values: jnp.sin(vit(values, size).pooled).sum()))(values))
    read = np.zeros((B, *IMAGE), bool)
    read[0], read[1, :4], read[2, :4, :5] = True, True, True
    np.testing.assert_array_equal((gradient != 0).any(axis=3), read)


@pytest.mark.parametrize("position", ["learned", "sincos", "rotary"])
def test_a_tower_that_knows_positions_tells_a_shuffled_picture(shake, position):
    vit = shake(make_vit(position=position))
    swapped = np.concatenate([PICTURES[:, :, 5:], PICTURES[:, :, :5]], axis=2)
    pooled = [run(vit, pictures).pooled for pictures in (PICTURES, swapped)]
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-3


def test_channels_are_scaled_each_by_its_own_numbers():
    width = PATCH[0] * PATCH[1] * 3
    numbers = {"center": (1.0, 20.0, 300.0), "scale": (2.0, 3.0, 5.0)}
    vit = ViT(width, Stack([], Identity()), MeanPool(), patch=PATCH, **numbers, rngs=nnx.Rngs(0))
    vit.embed.kernel[...] = jnp.eye(width)
    scaled = (PICTURES - np.array([1, 20, 300])) / [2, 3, 5]
    for out in (vit(jnp.asarray(PICTURES), WHOLE), vit.read(jnp.asarray(scaled, jnp.float32), WHOLE)):
        np.testing.assert_allclose(out.tokens.values[:, 0], scaled[:, :2, :5].reshape(B, -1), rtol=1e-6)


def test_the_parts_of_released_models_by_hand():
    """No blocks: what comes out is the norm of the class token with its position, and of the patches with theirs."""
    parts_of = {"class_token": True, "class_position": True, "pre_norm": LayerNorm(12, epsilon=1e-5)}
    rngs, position = nnx.Rngs(0), LearnedPosition((ROWS, COLUMNS), 12, rngs=nnx.Rngs(1))
    stack = Stack([], Identity())
    vit = ViT(12, stack, MeanPool(), patch=PATCH, patch_bias=False, position=position, **parts_of, rngs=rngs)
    assert vit.embed.bias is None
    vit.class_position[...] = jnp.asarray(random.standard_normal((1, 12)), jnp.float32)
    tokens = vit(jnp.asarray(PICTURES), WHOLE).tokens.values
    first = np.asarray(vit.class_token[...] + vit.class_position[...])
    pixels = PICTURES[0, :2, :5].reshape(1, -1) / 127.5 - 1
    patch = pixels @ np.asarray(vit.embed.kernel[...]) + np.asarray(position.table[...])[:1]
    for place, value in ((0, first), (1, patch)):
        expected = (value - value.mean()) / np.sqrt(value.var() + 1e-5)
        np.testing.assert_allclose(tokens[0, place], expected[0], atol=1e-5)


def test_pixels_that_fill_no_patch_are_left_out_where_that_is_wanted(shake):
    vit = shake(make_vit(crop=True))
    small, large = PICTURES[:, :4, :5], PICTURES[:, :5, :9]
    outputs = [run(vit, part, jnp.asarray([part.shape[1:3]] * B)) for part in (small, large)]
    np.testing.assert_array_equal(outputs[0].tokens.values, outputs[1].tokens.values)


def test_a_picture_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="pictures of 6×8 do not divide into patches of 2×5"):
        make_vit()(jnp.asarray(PICTURES[:, :, :8]), WHOLE)


def test_only_places_that_hold_any_of_a_picture_are_read(shake):
    """The same tokens in the same order, and the same vector, with room for fewer."""
    size = jnp.array([[4, 10], [2, 10], [0, 0]])
    whole, narrow = (shake(make_vit(pool="attention", position="resized", places=places)) for places in (None, 5))
    outs = [run(vit, PICTURES, size) for vit in (whole, narrow)]
    np.testing.assert_array_equal(outs[1].tokens.segment, [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0] * 5])
    np.testing.assert_array_equal(outs[1].tokens.position[0, :4], [[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_allclose(outs[1].tokens.values[0, :4], outs[0].tokens.values[0, :4], atol=1e-6)
    np.testing.assert_allclose(outs[1].pooled, outs[0].pooled, atol=1e-6)
    assert not outs[1].pooled[2].any()
