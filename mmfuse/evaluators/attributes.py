"""Does a caption name the objects that are there, and nothing else?

Objects are those of the procedural scenes: an object is named where a caption says its colour and its shape, and it is
named rightly where all that is said of it, size and texture too, is true of an object of the scene. Words are read
back from the text alone, whatever grammar it came from; relations, counts and places are not looked at.
"""

from collections.abc import Collection, Sequence

Things = Sequence[Collection[str]]  # for each object the values of its attributes


def attribute_scores(named: Sequence[Things], true: Sequence[Things]) -> dict[str, float]:
    """Precision, recall and F1 of named objects, over all captions together.

        precision = right / named,    recall = right / true,    F1 = 2 · right / (named + true)

    `right` counts the true objects of which something fitting is said. An object that is named a second time counts as
    named twice and right once.

    Args:
      named: for each caption, what it says of each object that it names.
      true: for each caption, the attributes of each object of its scene; at least one in all.

    Returns:
      `attribute_f1`, `attribute_precision` (0 where nothing is named) and `attribute_recall`, 0 … 1.
    """
    right = sum(
        any(set(said) <= set(thing) for said in its) for its, scene in zip(named, true, strict=True) for thing in scene
    )
    claimed, there = sum(map(len, named)), sum(map(len, true))
    return {
        "attribute_f1": 2 * right / (claimed + there),
        "attribute_precision": right / max(claimed, 1),
        "attribute_recall": right / there,
    }
