"""What queries find, from embeddings whose cosines are known."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.collate import Loaded
from mmfuse.analysis.neighbours import show_neighbours
from mmfuse.types import Batch, Caption, Signal, Text

ROWS = 4  # the third is a hole; each of the others has a picture and a caption, the first has two
SHAPE = 5, 7  # of pictures, with their padding


def unit(angle):
    return [np.cos(np.radians(angle)), np.sin(np.radians(angle))]


@pytest.fixture
def loaded():
    valid = np.array([True, True, False, True])
    image = Signal(
        np.zeros((ROWS, 1, *SHAPE, 3), np.uint8),
        valid[:, None],
        np.zeros((ROWS, 1), int),
        np.array([[SHAPE], [(5, 2)], [(0, 0)], [(3, 7)]]),
    )
    zeros = np.zeros((ROWS, 2, 5), np.int32)
    origin = np.stack([np.zeros(ROWS, np.int32), np.array([10, 11, -1, 13], np.int32)], axis=1)
    batch = Batch({"image": image}, {"caption": Text(zeros, zeros, zeros)}, valid, np.array([7, 8, 0, 9]), origin)
    pieces = [{"caption": [Caption("a"), Caption("b")]}, {"caption": [Caption("c")]}, {}, {"caption": [Caption("d")]}]
    return Loaded(batch, None, pieces, [], [None] * ROWS)


@pytest.fixture
def embedded(loaded):
    images = np.array([[unit(0)], [unit(90)], [unit(45)], [unit(180)]])
    captions = np.array([[unit(20), unit(80)], [unit(95), unit(0)], [unit(0), unit(0)], [unit(10), unit(0)]])
    there = np.array([[True, True], [True, False], [False, False], [True, False]])
    return {"image": (images, there[:, :1]), "caption": (captions, there)}


def test_candidates_stand_in_the_order_of_their_cosines(loaded, embedded):
    forth, back = show_neighbours(loaded, embedded, None, [("image", "caption")])
    assert (forth["from"], forth["to"], forth["candidates"]) == ("image", "caption", 4)
    first = forth["queries"][0]
    assert first["item"]["text"] == "picture of example 10" and first["item"]["picture"].startswith("data:image/png")
    assert [one["item"]["text"] for one in first["found"]] == ["d", "a", "b", "c"]
    assert [one["right"] for one in first["found"]] == [False, True, True, False]
    assert first["found"][1]["cosine"] == pytest.approx(np.cos(np.radians(20)))
    assert first["rank"] == 2
    assert [one["item"]["text"] for one in back["queries"][0]["found"]] == [
        f"picture of example {number}" for number in (10, 11, 13)
    ]


def test_pictures_are_shown_in_their_own_shape(loaded, embedded):
    _, back = show_neighbours(loaded, embedded, None, [("image", "caption")])
    uris = [found["item"]["picture"] for found in back["queries"][0]["found"]]
    files = [io.BytesIO(base64.b64decode(uri.partition(",")[2])) for uri in uris]
    assert [Image.open(file).size for file in files] == [(7, 5), (2, 5), (7, 3)]  # of examples 10, 11, 13


def test_the_worst_queries_stand_behind_the_first_ones(loaded, embedded):
    forth, back = show_neighbours(loaded, embedded, None, [("image", "caption")])
    assert [(query["rank"], query["worst"]) for query in forth["queries"]] == [
        (2, False),
        (1, False),
        (4, False),
        (4, True),
        (2, True),
    ]
    assert [query["item"]["text"] for query in back["queries"]] == ["a", "b", "c", "d", "b"]


def test_embeddings_that_are_no_numbers_are_shown(loaded, embedded):
    broken = {name: (np.full_like(part, np.nan), there) for name, (part, there) in embedded.items()}
    (forth, _) = show_neighbours(loaded, broken, None, [("image", "caption")])
    assert all(one["cosine"] == 0 for query in forth["queries"] for one in query["found"])
    assert forth["queries"][0]["rank"] > 1  # a tie counts as lost
