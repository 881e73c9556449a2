"""What a ranking has to agree with: a full sort."""

import numpy as np


def unit(random, *shape):
    drawn = random.standard_normal(shape)
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)


def sorted_ranks(queries, candidates, right):
    """The place of the first right candidate in a sort by score in which wrong ones come first where scores tie."""
    found = []
    for query, its in zip(queries, right):
        order = sorted(range(len(candidates)), key=lambda i: (-float(query @ candidates[i]), its[i]))
        found.append(next(place for place, i in enumerate(order) if its[i]))
    return found
