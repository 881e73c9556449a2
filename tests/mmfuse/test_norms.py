import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.nn.norms import InstanceNorm, LayerNorm, RMSNorm

WIDTH = 11


@pytest.mark.parametrize(("ours", "theirs"), [(LayerNorm, nnx.LayerNorm), (RMSNorm, nnx.RMSNorm)])
def test_norms_are_those_of_flax(ours, theirs):
    tokens = 3 + 5 * jax.random.normal(jax.random.key(0), (2, 7, WIDTH))
    norm, reference = ours(WIDTH), theirs(WIDTH, epsilon=1e-6, rngs=nnx.Rngs(0))
    for name, key in (("scale", 1), ("bias", 2)):
        if hasattr(norm, name):
            drawn = nnx.Param(jax.random.normal(jax.random.key(key), (WIDTH,)))
            setattr(norm, name, drawn)
            setattr(reference, name, drawn)
    with jax.numpy_rank_promotion("allow"):
        expected = reference(tokens)
    np.testing.assert_allclose(norm(tokens), expected, atol=2e-5)


def test_instance_norm_is_that_of_flax_over_what_is_inside():
    tokens = 3 + 5 * jax.random.normal(jax.random.key(0), (3, 7, WIDTH))
    lengths = (7, 4, 0)
    inside = jnp.arange(7)[None] < jnp.array(lengths)[:, None]
    norm, reference = InstanceNorm(WIDTH), nnx.InstanceNorm(WIDTH, epsilon=1e-5, rngs=nnx.Rngs(0))
    for name, key in (("scale", 1), ("bias", 2)):
        drawn = nnx.Param(jax.random.normal(jax.random.key(key), (WIDTH,)))
        setattr(norm, name, drawn)
        setattr(reference, name, drawn)
    out = norm(tokens, inside)
    assert np.isfinite(out).all()
    for row, length in enumerate(lengths[:2]):
        with jax.numpy_rank_promotion("allow"):
            expected = reference(tokens[row : row + 1, :length])
        np.testing.assert_allclose(out[row : row + 1, :length], expected, atol=2e-5)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_statistics_are_float32_in_a_bfloat16_model(norm):
    tokens = (1000 + jnp.arange(WIDTH, dtype=jnp.float32))[None].astype(jnp.bfloat16)
    out = norm(WIDTH)(tokens)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        out.astype(jnp.float32), norm(WIDTH)(tokens.astype(jnp.float32)), rtol=0, atol=np.float32(2**-7)
    )
