"""Are answers counted right, over all questions and by type? The model is made so that it answers what it is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from input_pipeline.streams import Recipe, evaluation_stream
from input_pipeline.texts import TextSpec
from mmfuse.build import make_model
from mmfuse.evaluators.answering import Answering
from mmfuse.training.sharding import make_mesh
from mmfuse.training.state import TrainState
from mmfuse.types import EOS, Example, Question, Rejected

PROMPT, WIDTH, LENGTH, IMAGE = "how many circles?", 302, 24, (4, 6)
TWO, RED = Question(PROMPT, "two", "count"), Question(PROMPT, "red circle", "colour")


class Asked:
    """Seven records: three of each kind are asked in all, one has two questions, one record is bad, one text is."""

    questions = (
        (TWO,),
        (RED,),
        (TWO, RED),
        (),
        (Question(PROMPT, " two\n", "count"),),
        (RED._replace(text=" "),),
        (RED,),
    )

    def __len__(self):
        return len(self.questions)

    def __getitem__(self, index):
        if index == 3:
            return Rejected("torn", "3")
        return Example(
            str(index), str(index), {"image": np.zeros((4, 6, 3), np.uint8)}, questions=self.questions[index]
        )


@functools.cache
def model():
    towers = {"image": parts.vit(8, 1, 2, image=IMAGE, patch=(2, 3))}
    single = parts.decoder(WIDTH, 1, 1, length=LENGTH, memories=("image",), mlp=8)
    config = ConfigDict(
        {"tokenizer": {"vocabulary": 300}, "model": {"dtype": "float32", "towers": towers, "single": single}}
    )
    return nnx.split(make_model(config, nnx.Rngs(0)), nnx.Param)


def state_that_answers(answer, tokenizer):
    """Blocks that add nothing, one-hot embeddings, and positions that say which token comes next."""
    graph, params = model()
    single = nnx.merge(graph, params).single
    for block in ("self0", "cross"):
        for part in (single.stack.segments[0].unit[block].attention.out, single.stack.segments[0].unit[block].mlp.down):
            nnx.update(part, jax.tree.map(jnp.zeros_like, nnx.state(part)))
    single.embed.embedding[...] = jnp.eye(300, WIDTH)
    start = len(tokenizer.encode(PROMPT))  # where BOS stands
    ids = [*tokenizer.encode(answer), EOS]
    table = np.zeros((LENGTH, WIDTH), np.float32)
    table[np.arange(start, start + len(ids)), ids] = 10
    single.position.table[...] = jnp.asarray(table)
    whole = nnx.merge(graph, params)
    nnx.update(whole.single, nnx.state(single))
    return TrainState(nnx.state(whole, nnx.Param), {}, {}, {}, jnp.int32(0), jnp.int32(0))


def make_evaluator(source, tokenizer, workers):
    recipe = Recipe({"image": IMAGE}, {"prompt": TextSpec("questions", 2, 17)}, tokenizer)
    stream = evaluation_stream("test", source, recipe, rows=4)
    options = {"tokenizer": tokenizer, "tokens": 7, "workers": workers}
    return Answering(stream, lambda state: nnx.merge(model()[0], state.trainable), make_mesh(data=2), **options)


@pytest.fixture(scope="module")
def evaluator(tokenizer):
    return make_evaluator(Asked(), tokenizer, workers=1)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("two", {"count": 3, "colour": 0}),
        ("red circle", {"count": 0, "colour": 3}),
        (" red  circle ", {"count": 0, "colour": 3}),  # what differs in white space alone is the same answer
        ("Two", {"count": 0, "colour": 0}),
        ("two red", {"count": 0, "colour": 0}),
        ("", {"count": 0, "colour": 0}),
    ],
)
def test_accuracy_over_all_and_by_type(evaluator, tokenizer, answer, right):
    assert evaluator(state_that_answers(answer, tokenizer)) == {
        "accuracy": sum(right.values()) / 6,
        "accuracy/count": right["count"] / 3,
        "accuracy/colour": right["colour"] / 3,
        "questions": 6,
        "rejected": 2,
    }


def test_a_stream_without_questions_has_no_accuracy(tokenizer):
    class Nothing(Asked):
        questions = ((), ())

    evaluator = make_evaluator(Nothing(), tokenizer, workers=0)
    assert evaluator(state_that_answers("two", tokenizer)) == {"questions": 0, "rejected": 2}
