"""Heat over tokens stands in a map where the patches stand in the picture."""

import jax
import numpy as np
import pytest
from flax import nnx

from configs import parts
from mmfuse.analysis.reading import Reading, extent, make_reading
from mmfuse.build import make_model
from mmfuse.types import Tokens
from tests.mmfuse.conftest import IMAGE


def reading(name, position, segment, items=1, extent=None):
    """Of tokens at these places, of which nothing else is asked."""
    code = np.zeros(segment.shape, np.int32)
    return Reading({}, {name: Tokens(code[..., None], segment, position, code, code)}, {name: items}, extent, None, {})


def grid(rows, columns):
    return np.stack(np.meshgrid(range(rows), range(columns), indexing="ij"), axis=-1).reshape(-1, 2).astype(float)


@pytest.mark.parametrize("name", ["image", "audio"])
def test_the_first_item_is_shown_and_no_class_token(name):
    rows, columns = 3, 5
    each = np.concatenate([[[0, 0]], grid(rows, columns)])
    position = np.tile(each, (2, 2, 1))  # two examples of two items
    heat = np.random.default_rng(0).random(position.shape[1])
    found = reading(name, position, np.ones(position.shape[:2], int), items=2).upright(name, 1, heat)
    wanted = heat[1 : 1 + rows * columns].reshape(rows, columns)
    np.testing.assert_array_equal(found, wanted.T[::-1] if name == "audio" else wanted)


def test_each_picture_has_its_own_grid():
    places = 17
    position, segment = np.full((2, places, 2), 7.0), np.zeros((2, places), int)  # padding stands beyond the picture
    for row, (rows, columns) in enumerate([(4, 4), (3, 5)]):
        position[row, : rows * columns], segment[row, : rows * columns] = grid(rows, columns), 1
    heat = np.random.default_rng(1).random(places)
    read = reading("image", position, segment, extent=np.array([[4, 4], [3, 5]]))
    np.testing.assert_array_equal(read.upright("image", 0, heat), heat[:16].reshape(4, 4))
    np.testing.assert_array_equal(read.upright("image", 1, heat), heat[:15].reshape(3, 5))
    absent = reading("image", np.tile(grid(3, 5), (1, 1, 1)), np.zeros((1, 15), int), extent=np.array([[0, 0]]))
    np.testing.assert_array_equal(absent.upright("image", 0, np.zeros(15)), np.zeros((3, 5)))


def test_what_a_decoder_does_not_read_of_a_picture_has_its_place_in_the_map(model_config, batch, shake):
    """Of 3 · 2 patches, and of 3 · 1 where the picture is narrow, and of a class token before them, two are kept."""
    config = model_config.copy_and_resolve_references()
    with config.unlocked():
        config.model.keep = {"image": 2}
    graph, state = nnx.split(shake(nnx.jit(lambda: make_model(config, nnx.Rngs(0)))()))
    read = jax.jit(make_reading(lambda state: nnx.merge(graph, state)))(state, batch, batch.text["target"].ids[..., :3])
    read = jax.tree.map(np.asarray, read)
    assert read.extent.tolist() == [[3, 2], [3, 1], [0, 0]]
    for row, columns in ((0, 2), (1, 1)):
        kept = read.tokens["image"].segment[row] > 0
        heat = read.heat["image"][0, row, 0, -1]
        assert kept.sum() == 2 and (heat[~kept] == 0).all()
        np.testing.assert_array_equal(read.upright("image", row, heat), heat[1:7].reshape(3, 2)[:, :columns])


def test_the_grid_of_a_convnet_is_that_of_its_last_stage(model_config, batch):
    config = model_config.copy_and_resolve_references()
    with config.unlocked():
        config.model.towers.image = parts.convnet(8, (1, 1), image=IMAGE, patch=(1, 5))
    model = nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0)))
    assert np.asarray(extent(model, batch)).tolist() == [[3, 1], [3, 1], [0, 0]]


def test_a_text_has_no_map():
    read = reading("source", np.zeros((1, 4, 1)), np.ones((1, 4), int))
    assert read.upright("source", 0, np.ones(4)) is None
