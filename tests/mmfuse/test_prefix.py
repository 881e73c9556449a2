"""A prefix says what there is, and nothing of what is not told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import parts
from mmfuse.build import make_model
from mmfuse.fusion.prefix import ModalityPrefix, Told, expected_alignment
from mmfuse.routing.router import Moment
from tests.mmfuse import conftest

NAMES, WIDTH, ROWS = ("image", "audio", "source"), 7, 5


def make(drop=0.5):
    return ModalityPrefix(NAMES, WIDTH, drop=drop, rngs=nnx.Rngs(0))


def told(seed=0, **changes):
    random = np.random.default_rng(seed)
    present = random.random((ROWS, 3)) < 0.6
    opened = present & (random.random((ROWS, 3)) < 0.6)
    measured = random.random((2, ROWS, 3)).astype(np.float32)
    return Told(*map(jnp.asarray, (present, opened, *measured)))._replace(**changes)


VALID = jnp.array([True, True, False, True, True])


def test_a_token_is_its_state_and_what_was_measured():
    prefix, known = make(), told()
    tokens = prefix(known, VALID)
    state = np.asarray(known.present).astype(int) + np.asarray(known.open)
    codes, reliability, alignment = (np.asarray(getattr(prefix, name)[...]) for name in ("state", *Told._fields[2:]))
    for row in range(ROWS):
        for column in range(3):
            expected = codes[column, state[row, column]]
            if known.present[row, column]:
                expected = expected + float(known.reliability[row, column]) * reliability[column]
                expected = expected + float(known.alignment[row, column]) * alignment[column]
            np.testing.assert_allclose(tokens.values[row, column], expected, atol=1e-6)
    np.testing.assert_array_equal(tokens.segment, np.repeat(np.asarray(VALID)[:, None], 3, axis=1))
    assert tokens.modality.tolist() == [[1, 2, 0]] * ROWS


def test_who_is_told_nothing_cannot_tell_one_example_from_another():
    prefix, rows = make(drop=0.3), 2000
    same = Told(*(jnp.concatenate([part] * (rows // ROWS)) for part in told()))
    tokens = np.asarray(prefix(same, jnp.ones(rows, bool), jax.random.key(0)).values)
    untold = (tokens == np.asarray(prefix.state[...])[:, 3]).all(axis=2)
    assert (untold.all(axis=1) == untold.any(axis=1)).all()
    assert untold.all(axis=1).mean() == pytest.approx(0.3, abs=0.04)


def test_gradients_reach_what_is_there_and_never_what_is_told():
    prefix, known = make(), told(present=jnp.array([[True, False, True]] * ROWS))
    graph, parameters = nnx.split(prefix)

    def total(parameters, reliability, alignment):
        given = known._replace(reliability=reliability, alignment=alignment)
        return jnp.square(nnx.merge(graph, parameters)(given, VALID).values).sum()

    of_parameters, *of_told = jax.grad(total, (0, 1, 2))(parameters, known.reliability, known.alignment)
    assert all((np.asarray(gradient) == 0).all() for gradient in of_told)
    for name in ("reliability", "alignment"):
        moved = (np.asarray(of_parameters[name][...]) != 0).any(axis=1)
        assert moved.tolist() == [True, False, True]
    assert (np.asarray(of_parameters["state"][...])[:, 3] == 0).all()


def test_alignment_is_the_mean_cosine_with_those_that_take_part():
    random = np.random.default_rng(1)
    vectors = {name: random.standard_normal((ROWS, 4)).astype(np.float32) for name in NAMES}
    units = {name: vector / np.linalg.norm(vector, axis=1, keepdims=True) for name, vector in vectors.items()}
    part = {name: random.random(ROWS) < 0.7 for name in NAMES}
    found = expected_alignment(*jax.tree.map(jnp.asarray, (units, part)))
    for name in NAMES:
        for row in range(ROWS):
            others = [other for other in NAMES if other != name and part[other][row] and part[name][row]]
            cosines = [float(units[name][row] @ units[other][row]) for other in others]
            np.testing.assert_allclose(found[name][row], np.mean(cosines) if cosines else 0.0, atol=1e-6)


@pytest.fixture(scope="module")
def model(model_config):
    config = ConfigDict(model_config.to_dict())
    config.model.single.memories = ("prefix", "image", "audio")
    config.model.prefix = parts.prefix(drop=0.9)
    config.model.router = parts.router({"image": 1.0}, open_at_first=0.0, ladder=(1.0,))
    return conftest._shake(nnx.jit(lambda: make_model(config, nnx.Rngs(0)))())


def test_a_model_says_which_gates_are_shut(model, batch):
    known, encode = batch._replace(text={}), jax.jit(lambda batch, moment: model.encode(batch, moment=moment))
    memory = encode(known, None)
    part = np.stack([memory.taking_part(known, name).any(axis=1) for name in ("image", "audio")], axis=1)
    there = np.stack([known.present(name).any(axis=1) for name in ("image", "audio")], axis=1)
    relied = jnp.stack([memory.gates["image"].soft, jnp.asarray(part[:, 1], jnp.float32)], axis=1)
    cosine = (memory.embeddings["image"] * memory.embeddings["audio"]).sum(axis=(1, 2))
    aligned = jnp.repeat(jnp.where(part.all(axis=1), cosine, 0)[:, None], 2, axis=1)
    expected = model.prefix(Told(jnp.asarray(there), jnp.asarray(part), relied, aligned), known.valid)
    np.testing.assert_allclose(memory.tokens["prefix"].values, expected.values, atol=1e-5)
    dropped = encode(known, Moment(jax.random.key(3), jnp.asarray(0))).tokens["prefix"]
    assert (np.asarray(dropped.values) == np.asarray(model.prefix.state[...])[:, 3]).all(axis=2).any()


def test_without_evidence_the_prefix_says_that_nothing_is_there(model, batch):
    nothing = {name: signal._replace(item_mask=signal.item_mask & False) for name, signal in batch.signals.items()}
    known, absent = batch._replace(text={}), batch._replace(text={}, signals=nothing)
    encode, keep = jax.jit(lambda batch: model.encode(batch)), jax.jit(model.keep_evidence)
    memory, blind = encode(known), keep(encode(known), jnp.array(False))
    expected = encode(absent).tokens
    for name in ("image", "audio"):
        np.testing.assert_array_equal(blind.tokens[name].segment, expected[name].segment)
    for found, wanted in zip(blind.tokens["prefix"], expected["prefix"], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (np.asarray(blind.tokens["prefix"].segment) > 0).all()
    jax.tree.map(np.testing.assert_array_equal, keep(memory, jnp.array(True)).tokens, memory.tokens)


def test_a_decoder_reads_the_prefix(model, batch):
    graph, parameters = nnx.split(model)

    @jax.jit
    def decode(parameters, batch):
        model = nnx.merge(graph, parameters)
        return model.single.decode(model.single.read(*batch.text["prompt"][:2]), model.encode(batch)).hidden

    def first(text):
        return jax.tree.map(lambda array: array[:, 0], text)

    asked = batch._replace(text={"prompt": first(batch.text["prompt"])})
    before, moved = decode(parameters, asked), nnx.merge(graph, parameters)
    moved.prefix.state[...] = moved.prefix.state[...] + 1.0
    after = decode(nnx.state(moved), asked)
    assert (np.abs(np.asarray(after - before)).max(axis=(1, 2)) > 1e-3).all()
