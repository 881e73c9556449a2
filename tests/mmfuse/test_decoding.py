"""Are settings refused that mean nothing, and do the others do what they say?"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import parts
from mmfuse.inference.beams import beam_search
from mmfuse.inference.decoding import Decoding, make_decoding, write_texts
from mmfuse.inference.generate import generate, text_keys
from mmfuse.inference.logits import Written, apply_rules, temperature, top_p
from mmfuse.types import EOS, PAD, ConfigError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beem": 3}, "did you mean 'beams'"),
        ({"beams": 0}, "beams=0: write beams=1 or more"),
        ({"beams": 2.0}, "decoding.beams is 2.0: write a whole number"),
        ({"beams": True}, "decoding.beams is True: write a whole number"),
        ({"temperature": "hot"}, "decoding.temperature is 'hot': write a number"),
        ({"temperature": -1.0}, "temperature=-1.0: write finite numbers, none below 0"),
        ({"length_penalty": float("nan")}, "none below 0"),
        ({"temperature": 1, "top_p": 0.0}, "write a top_p above 0"),
        ({"temperature": 1, "top_p": 1.5}, "and 1 at most"),
        ({"repetition_penalty": 0}, "write a repetition_penalty above 0"),
        ({"beams": 2, "temperature": 1.0}, "either search with beams, or draw"),
        ({"top_k": 5}, "top_k and top_p need a temperature"),
    ],
)
def test_what_means_nothing_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        make_decoding(settings)


def test_configs_have_all_settings_and_write_greedily():
    assert make_decoding(parts.decoding()) == Decoding() == make_decoding({})
    assert parts.decoding() == Decoding()._asdict() and Decoding().rules == ()


def test_rules_are_those_that_are_set():
    """Every rule changes these logits in a way of its own."""
    logits = jnp.asarray([[0.0, 0.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    written = Written(jnp.asarray([[3, 4, 3, PAD]]), jnp.int32(3))

    def left(**settings):
        return np.asarray(apply_rules(make_decoding(settings).rules, logits, written))[0]

    np.testing.assert_array_equal(left(repetition_penalty=2.0), [0, 0, 5, 2, 1.5, 2, 1])
    assert left(no_repeat_ngram=2)[4] == -np.inf and left(min_length=4)[EOS] == -np.inf
    np.testing.assert_array_equal(left(temperature=0.5), 2 * logits[0])
    assert np.isfinite(left(temperature=1.0, top_k=3)).sum() == 3
    assert np.isfinite(left(temperature=1.0, top_p=0.5)).sum() == 1
    # the nucleus is that of the distribution after the temperature, and after what may not be written
    assert np.isfinite(left(temperature=9.0, top_p=0.5)).sum() > 2
    assert np.isfinite(left(temperature=1.0, top_p=0.5, min_length=4))[3]


@pytest.fixture(scope="module")
def program(model, batch):
    """The program of what is written, as text, not compiled."""
    graph, state = nnx.split(model)
    memory = jax.eval_shape(lambda state, batch: nnx.merge(graph, state).encode(batch), state, batch)

    def render(write):
        def run(state, memory, prompt, origin):
            return write((nnx.merge(graph, state).single, memory, prompt), origin)

        jaxpr = jax.make_jaxpr(run)(state, memory, batch.text["prompt"], batch.origin)
        return re.sub("0x[0-9a-f]+", "", str(jaxpr))

    return render


def written(**settings):
    return lambda texts, origin: write_texts(*texts, origin, tokens=2, decoding=make_decoding(settings))


def drawn(texts, origin):
    rules, keys = (temperature(2.0), top_p(0.9)), text_keys(jax.random.key(5), origin, 2)
    return generate(*texts, tokens=2, rules=rules, keys=keys)


def searched(texts, origin):
    found = beam_search(*texts, tokens=2, beams=3, length_penalty=1.5)
    return found.ids[:, :, 0], found.log_prob[:, :, 0]


def test_settings_choose_between_taking_drawing_and_searching(program):
    taken = program(written())
    assert taken == program(lambda texts, origin: generate(*texts, tokens=2)) != program(drawn)
    assert program(written(temperature=2.0, top_p=0.9, seed=5)) == program(drawn)
    assert program(written(temperature=2.0, top_p=0.9, seed=6)) != program(drawn)
    assert program(written(beams=3, length_penalty=1.5)) == program(searched)
