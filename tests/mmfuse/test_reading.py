"""Heat over tokens stands in a map where the patches stand in the picture."""

import numpy as np
import pytest

from mmfuse.analysis.reading import Reading
from mmfuse.types import Tokens


def reading(name, position, segment, items=1):
    """Of tokens at these places, of which nothing else is asked."""
    code = np.zeros(segment.shape, np.int32)
    return Reading({}, {name: Tokens(code[..., None], segment, position, code, code)}, {name: items}, None, {})


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
    position, segment = np.zeros((2, places, 2)), np.zeros((2, places), int)
    for row, (rows, columns) in enumerate([(4, 4), (3, 5)]):
        position[row, : rows * columns], segment[row, : rows * columns] = grid(rows, columns), 1
    position[1, 15:] = 7  # padding stands anywhere
    heat = np.random.default_rng(1).random(places)
    read = reading("image", position, segment)
    np.testing.assert_array_equal(read.upright("image", 0, heat), heat[:16].reshape(4, 4))
    np.testing.assert_array_equal(read.upright("image", 1, heat), heat[:15].reshape(3, 5))
    absent = reading("image", np.tile(grid(3, 5), (1, 1, 1)), np.zeros((1, 15), int))
    np.testing.assert_array_equal(absent.upright("image", 0, np.zeros(15)), np.zeros((3, 5)))


def test_a_text_has_no_map():
    read = reading("source", np.zeros((1, 4, 1)), np.ones((1, 4), int))
    assert read.upright("source", 0, np.ones(4)) is None
