"""What every tower owes: a new tower joins by one row of `ROWS`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build_towers import TOWERS
from mmfuse.towers.tower import TowerOutput

D, V, B = 12, 13, 3
random = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(random.standard_normal(shape), jnp.float32)


IDS = jnp.asarray(random.integers(3, V, (B, 7)), jnp.int32)
TEXT = jnp.asarray(np.arange(7)[None] < [[7], [3], [0]], jnp.int32)
# kind → config, arguments of which the second row is partly padding and the third wholly, tokens of each row
ROWS = {
    "vit": (
        parts.vit(D, 2, 3, image=(6, 10), patch=(2, 5)),
        (100 * normal(B, 6, 10, 3), jnp.array([[6, 10], [2, 10], [0, 0]])),
        (6, 2, 0),
    ),
    "convnet": (
        parts.convnet(D, (1, 2), image=(12, 20), patch=(2, 5)),
        (100 * normal(B, 12, 20, 3), jnp.array([[12, 20], [4, 20], [0, 0]])),
        (6, 2, 0),
    ),
    "convnet that knows places": (
        parts.convnet(D, (1, 2), image=(12, 20), patch=(2, 5), position="learned"),
        (100 * normal(B, 12, 20, 3), jnp.array([[12, 20], [4, 20], [0, 0]])),
        (6, 2, 0),
    ),
    "convnet of instance norms": (
        parts.convnet(D, (1, 2), image=(24, 40), patch=(2, 5), norm="instance", pool="max"),
        (100 * normal(B, 24, 40, 3), jnp.array([[24, 40], [12, 40], [0, 0]])),
        (24, 12, 0),
    ),
    "audio": (
        parts.audio(D, 2, 3, samples=96, patch=(2, 3), bands=6, window=32, hop=16),
        (normal(B, 96), jnp.array([[96], [40], [0]])),
        (6, 4, 0),
    ),
    "text": (parts.text(D, 2, 3, length=7), (IDS, TEXT), (7, 3, 0)),
}

ATTENDING = [kind for kind in ROWS if "convnet" not in kind]  # those with a stack of attention blocks


def build(kind, dtype=jnp.float32, **changes):
    config = ConfigDict(ROWS[kind][0] | changes)
    return nnx.jit(lambda: TOWERS[config.kind](config, V, dtype, nnx.Rngs(0)))()


def run(tower, kind, probe=None):
    graph, state = nnx.split(tower)
    return jax.jit(lambda state, *arguments: nnx.merge(graph, state)(*arguments, probe=probe))(state, *ROWS[kind][1])


def test_every_tower_has_a_row():
    assert {config["kind"] for config, *_ in ROWS.values()} == TOWERS.keys()


@pytest.fixture(scope="module", params=ROWS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tower(kind):
    return build(kind)


@pytest.fixture(scope="module")
def output(tower, kind) -> TowerOutput:
    return run(tower, kind)


def test_tokens_are_whole_and_padding_is_marked(kind, output):
    tokens, number = output.tokens, ROWS[kind][2]
    batch, length, width = tokens.values.shape
    assert (batch, width) == (B, D) and output.pooled.shape == (B, D)
    for name in ("segment", "modality", "anchor"):
        assert getattr(tokens, name).shape == (B, length)
    assert tokens.position.shape[:2] == (B, length)
    np.testing.assert_array_equal((tokens.segment > 0).sum(axis=1), number)
    assert len(np.unique(tokens.modality)) == 1 and (tokens.anchor == 0).all()


def test_what_is_not_there_is_pooled_to_zero(output):
    assert np.isfinite(output.tokens.values).all()
    assert (np.asarray(output.pooled)[2] == 0).all() and (np.asarray(output.pooled)[:2] != 0).any(axis=1).all()


def test_rows_do_not_see_one_another(kind, tower, output):
    graph, state = nnx.split(tower)
    for row in range(B):
        alone = nnx.merge(graph, state)(*(array[row : row + 1] for array in ROWS[kind][1]))
        np.testing.assert_allclose(alone.pooled[0], output.pooled[row], atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in ROWS if "net" in kind or kind == "vit"], indirect=True)
def test_a_picture_is_the_same_on_a_canvas_of_its_own_size(kind, tower, output):
    values, size = ROWS[kind][1]
    height, width = size[1].tolist()
    graph, state = nnx.split(tower)
    alone = nnx.merge(graph, state)(values[1:2, :height, :width], size[1:2])
    np.testing.assert_allclose(alone.pooled[0], output.pooled[1], atol=1e-5)


def test_every_parameter_learns_and_every_gradient_is_finite(kind, tower):
    graph, state = nnx.split(tower, nnx.Param)

    @jax.jit
    @jax.grad
    def gradient(state):
        return jnp.sin(nnx.merge(graph, state)(*ROWS[kind][1]).pooled).sum()

    for path, leaf in nnx.to_flat_state(gradient(state)):
        assert np.isfinite(leaf[...]).all(), path
        # a bias of all keys moves every score of a query alike
        assert (np.asarray(leaf[...]) != 0).any() or path[-2:] == ("key", "bias"), path


@pytest.mark.parametrize("kind", ATTENDING, indirect=True)
def test_a_probe_looks_without_changing(kind, tower, output):
    looked = run(tower, kind, probe={"0": {"self0": jnp.float32(0)}})
    np.testing.assert_allclose(looked.pooled, output.pooled, atol=1e-5)
    weights = looked.trace["0"]["self0"]
    assert weights.shape == (2, B, 3, *(output.tokens.segment.shape[1],) * 2) and output.trace == {}
    there = np.asarray(output.tokens.segment > 0)[None, :, None]
    np.testing.assert_allclose(weights.sum(axis=-1), np.broadcast_to(there, weights.shape[:-1]), atol=1e-5)


@pytest.mark.parametrize("kind", ATTENDING, indirect=True)
def test_rematerialised_and_unrolled_towers_are_the_same(kind, tower, output):
    for changes in ({"remat": True}, {"unroll": True}):
        other = build(kind, **changes)
        nnx.update(other, nnx.state(tower))
        np.testing.assert_allclose(run(other, kind).pooled, output.pooled, atol=1e-5)


def test_in_bfloat16_parameters_stay_float32_and_the_result_is_close(kind, tower, output):
    other = build(kind, jnp.bfloat16)
    nnx.update(other, nnx.state(tower, nnx.Param))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(other, nnx.Param)))
    with jax.numpy_dtype_promotion("standard"):  # the attention kernel mixes bfloat16 and float32 on purpose
        small = run(other, kind)
    assert small.pooled.dtype == small.tokens.values.dtype == jnp.bfloat16
    np.testing.assert_allclose(small.pooled.astype(jnp.float32), output.pooled, atol=0.1)


def test_the_flat_pool_is_made_for_the_positions_of_the_tower(kind):
    assert run(build(kind, pool="flat"), kind).pooled.shape == (B, D)


@pytest.mark.parametrize("kind", ["vit", "convnet"], indirect=True)
def test_resized_positions_are_the_table_where_a_picture_fills_its_grid_and_others_where_it_does_not(kind):
    resized, learned = (run(build(kind, position=position), kind).pooled for position in ("resized", "learned"))
    np.testing.assert_allclose(resized[0], learned[0], atol=1e-5)
    assert np.abs(resized[1] - learned[1]).max() > 1e-3


def test_a_tower_without_blocks_is_a_bag_of_tokens():
    tower, segment = build("text", depth=0), jnp.ones_like(IDS)
    changed = IDS.at[:, 3].set(3 + (IDS[:, 3] - 2) % (V - 3))  # another word at one place
    before, after = (tower(ids, segment).tokens.values for ids in (IDS, changed))
    np.testing.assert_array_equal((before != after).any(axis=2), np.arange(7)[None] == np.full((B, 1), 3))
