"""Who sees whom in a text: proved by gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build_towers import TOWERS
from mmfuse.towers.text import places
from mmfuse.types import EOS

B, T, D, V = 2, 7, 12, 13
random = np.random.default_rng(0)
IDS = jnp.asarray(random.integers(3, V, (B, T)), jnp.int32)
SEGMENT = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]])


def make_tower(**changes):
    config = ConfigDict(parts.text(D, 2, 3, length=T, **changes))
    return nnx.jit(lambda: TOWERS["text"](config, V, jnp.float32, nnx.Rngs(0)))()


def run(tower, ids, segment):
    """What a tower makes of texts, in one program."""
    return jax.jit(lambda ids, segment: tower(ids, segment))(ids, segment)


def felt(tower, segment):
    """(B T S): whether the output at t feels the embedding at s.

    Every place gets an id of its own, so that a row of the embedding table is a place.
    """
    number = B * T
    tower.embed = nnx.Embed(number, D, rngs=nnx.Rngs(1))
    graph, table, rest = nnx.split(tower, nnx.PathContains("embed"), ...)
    ids = jnp.arange(number, dtype=jnp.int32).reshape(B, T)

    def output(table):
        return jnp.sin(nnx.merge(graph, table, rest)(ids, segment).tokens.values).sum(axis=-1)

    (jacobian,) = jax.tree.leaves(jax.jit(jax.jacrev(output))(table))
    moved = (np.asarray(jacobian) != 0).any(axis=-1).reshape(B, T, B, T)
    assert not moved[0, :, 1].any() and not moved[1, :, 0].any()
    return np.stack([moved[b, :, b] for b in range(B)])


@pytest.mark.parametrize("position", ["learned", "rotary"])
@pytest.mark.parametrize("causal", [True, False])
def test_causality_and_segments_by_gradient(shake, causal, position):
    moved = felt(shake(make_tower(causal=causal, position=position)), SEGMENT)
    segment = np.asarray(SEGMENT)
    same = (segment[:, :, None] == segment[:, None, :]) & (segment[:, None, :] > 0)
    if causal:
        same &= np.tril(np.ones((T, T), bool))[None]
    np.testing.assert_array_equal(moved, same | np.eye(T, dtype=bool)[None])


@pytest.mark.parametrize("causal", [True, False])
def test_unpacked_texts_hide_padding_from_all_and_from_nobody_else(shake, causal):
    segment = jnp.array([[0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    tower = shake(make_tower(causal=causal, packed=False))
    seen = np.broadcast_to(np.asarray(segment)[:, None, :] > 0, (B, T, T))
    if causal:
        seen = seen & np.tril(np.ones((T, T), bool))[None]
    np.testing.assert_array_equal(felt(tower, segment), seen | np.eye(T, dtype=bool)[None])
    np.testing.assert_array_equal(run(tower, IDS, segment).tokens.position[..., 0], [range(T)] * B)


def test_places_count_within_a_segment():
    segment = jnp.array([[1, 1, 1, 2, 2, 0, 0], [3, 1, 1, 2, 2, 2, 2]])
    np.testing.assert_array_equal(places(segment)[..., 0], [[0, 1, 2, 0, 1, 0, 1], [0, 0, 1, 0, 1, 2, 3]])


@pytest.mark.parametrize("position", ["learned", "sincos", "rotary"])
def test_packed_texts_are_the_texts_alone(shake, position):
    tower = shake(make_tower(causal=True, position=position))
    packed = run(tower, IDS[:1], jnp.array([[1, 1, 1, 2, 2, 2, 2]])).tokens.values[0]
    parts_of = [IDS[:1, part] for part in (slice(0, 3), slice(3, 7))]
    alone = [run(tower, part, jnp.ones_like(part)).tokens.values[0] for part in parts_of]
    np.testing.assert_allclose(packed, np.concatenate(alone), atol=1e-5)


def test_padding_does_not_change_the_pooled_vector(shake):
    tower = shake(make_tower(causal=False, pool="eos", position="learned"))
    short = IDS[:1, :4].at[0, 3].set(EOS)
    padded = jnp.concatenate([short, IDS[:1, 4:]], axis=1)
    expected = run(tower, short, jnp.ones_like(short)).pooled
    got = run(tower, padded, jnp.array([[1, 1, 1, 1, 0, 0, 0]])).pooled
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_order_matters(shake):
    tower = shake(make_tower(position="rotary"))
    whole = jnp.ones((1, T), jnp.int32)
    assert np.abs(run(tower, IDS[:1], whole).pooled - run(tower, IDS[:1, ::-1], whole).pooled).max() > 1e-3
