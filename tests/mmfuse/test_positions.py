"""Positions: by formula in numpy, and by what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.nn.positions import LearnedPosition, ResizedPosition, SinCosPosition, rotate

random = np.random.default_rng(0)
B, S, N = 2, 5, 3


def positions(axes):
    return jnp.asarray(random.integers(0, 11, (B, S, axes)), jnp.float32)


@pytest.mark.parametrize("axes, width", [(1, 6), (2, 12), (3, 18)])
def test_sines_and_cosines_by_formula(axes, width):
    position = positions(axes)
    number = width // (2 * axes)
    expected = np.zeros((B, S, width))
    for b, s, axis, i in np.ndindex(B, S, axes, number):
        angle = float(position[b, s, axis]) * 10000 ** (-i / (number - 1))
        expected[b, s, 2 * axis * number + i] = np.sin(angle)
        expected[b, s, (2 * axis + 1) * number + i] = np.cos(angle)
    np.testing.assert_allclose(SinCosPosition(width, axes=axes)(position), expected, atol=2e-6)


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a width of 10 does not divide"):
        SinCosPosition(10, axes=2)


def test_a_learned_position_is_a_row_of_its_table():
    module = LearnedPosition((3, 5), 7, rngs=nnx.Rngs(0))
    position = jnp.array([[[0.0, 0.0], [2.0, 3.0], [1.0, 4.0], [9.0, 1.0], [0.0, 9.0]]])
    np.testing.assert_array_equal(module(position)[0], module.table[...][jnp.array([0, 13, 9, 11, 4])])


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (2, 7), (6, 4), (9, 2)])
def test_a_resized_position_is_the_table_resized_as_a_picture(shape):
    module = ResizedPosition((3, 5), 7, rngs=nnx.Rngs(0))
    expected = jax.image.resize(module.table[...].reshape(3, 5, 7), (*shape, 7), "linear", antialias=True)
    position = jnp.asarray(np.indices(shape).reshape(2, -1).T[None], jnp.float32)
    got = module(position, jnp.array([shape]))
    np.testing.assert_allclose(got[0], expected.reshape(-1, 7), atol=1e-6)
    if shape == (3, 5):
        np.testing.assert_allclose(module(position)[0], module.table[...], atol=1e-6)


def test_positions_beyond_a_picture_are_its_last_and_nothing_is_no_error():
    module = ResizedPosition((3, 5), 7, rngs=nnx.Rngs(0))
    inside, beyond = (jnp.array([[place], [place]]) for place in ([1.0, 3.0], [8.0, 9.0]))
    extent = jnp.array([[2, 4], [0, 0]])
    np.testing.assert_array_equal(module(beyond, extent)[0], module(inside, extent)[0])
    assert np.isfinite(module(beyond, extent)).all()


def turned(x, angle):
    """The pairs (x_i, x_{i + H/2}) as complex numbers, turned."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rotation_is_multiplication_by_a_unit_complex_number(axes):
    heads, position = random.standard_normal((B, S, N, 10)), positions(axes)
    angle = np.stack([np.asarray(position)[..., i % axes] * 37.0 ** (-2 * i / 10) for i in range(5)], axis=-1)
    got = rotate(jnp.asarray(heads, jnp.float32), position, base=37.0)
    np.testing.assert_allclose(got, turned(heads, angle[:, :, None]), atol=1e-5)


@pytest.mark.parametrize("axes", [1, 2])
def test_scores_depend_on_differences_along_every_axis(axes):
    query, key = (jnp.asarray(random.standard_normal((B, S, N, 8)), jnp.float32) for _ in range(2))
    here, there = positions(axes), positions(axes)

    def scores(query_shift, key_shift):
        rotated = rotate(query, here + jnp.asarray(query_shift)), rotate(key, there + jnp.asarray(key_shift))
        return jnp.einsum("BTNH,BSNH->BNTS", *rotated)

    zero = np.zeros((1, 1, axes), np.float32)
    for axis in range(axes):
        shift = zero.copy()
        shift[..., axis] = 3
        np.testing.assert_allclose(scores(shift, shift), scores(zero, zero), atol=2e-5)
        assert np.abs(scores(shift, zero) - scores(zero, zero)).max() > 0.1
