"""What the decoder may see: its own past, its own example's memory, and an item from its anchor on. By gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.build import make_model
from mmfuse.models.single_tower import SingleTower
from mmfuse.types import Tokens

B, TEXTS, T, D = 3, 2, 7, 24
ROWS = B * TEXTS


def flat(text):
    return text.ids.reshape(-1, T), text.segment.reshape(-1, T)


@pytest.fixture(scope="module")
def decode(model):
    graph, state = nnx.split(model)

    def run(values, segment, memory):
        single = nnx.merge(graph, state).single
        tokens = single.read(jnp.zeros_like(segment), segment)._replace(values=values)
        return single.decode(tokens, memory).hidden

    return jax.jit(run), jax.jit(jax.jacrev(lambda *args: jnp.sin(run(*args)).sum(axis=-1), argnums=0))


@pytest.fixture(scope="module")
def encode(model):
    graph, state = nnx.split(model)
    return jax.jit(lambda batch: nnx.merge(graph, state).encode(batch))


def random_values():
    return jnp.asarray(np.random.default_rng(2).standard_normal((ROWS, T, D)), jnp.float32)


def test_a_token_feels_its_own_past_and_its_own_segment(decode, encode, batch):
    segment = jnp.asarray(np.array([[1, 1, 1, 2, 2, 2, 0]] * 3 + [[1] * 7] * 3), jnp.int32)
    jacobian = decode[1](random_values(), segment, encode(batch))
    felt = (np.asarray(jacobian) != 0).any(axis=-1)  # (R T R S)
    for r in range(ROWS):
        same = (segment[r][:, None] == segment[r][None]) & (segment[r] > 0)[None]
        expected = (np.asarray(same) & np.tril(np.ones((T, T), bool))) | np.eye(T, dtype=bool)
        np.testing.assert_array_equal(felt[r, :, r], expected)
        assert not np.delete(felt[r], r, axis=1).any()


@pytest.mark.parametrize("lengths", [(7,), (3, 4)], ids=["one text a row", "two texts a row"])
def test_a_token_reads_the_memory_of_its_example_from_the_anchor_on(model, encode, batch, lengths):
    """Images with anchors 0 and 3 in example 0, 2 in example 1; sounds in examples 0 and 2; no memory elsewhere.
    Anchors count from the start of each text, and a token also feels what those before it in its text have read."""
    memory = encode(batch)
    place = np.concatenate([np.arange(length) for length in lengths])
    segment = jnp.tile(jnp.asarray(np.cumsum(place == 0), jnp.int32), (ROWS, 1))
    graph, state = nnx.split(model.single)

    @jax.jit
    def jacobian(values):
        def output(values):
            tokens = {name: memory.tokens[name]._replace(values=values[name]) for name in values}
            single = nnx.merge(graph, state)
            text = single.read(flat(batch.text["target"])[0], segment)
            return jnp.sin(single.decode(text, memory._replace(tokens=tokens)).hidden).sum(axis=-1)

        return jax.jacrev(output)(values)

    got = jacobian({name: memory.tokens[name].values for name in ("image", "audio")})
    for name, slope in got.items():
        felt = (np.asarray(slope) != 0).any(axis=-1)  # (R T B S)
        keys = memory.tokens[name]
        for r, t, b in np.ndindex(ROWS, T, B):
            own = r // TEXTS == b
            expected = own & (np.asarray(keys.segment[b]) > 0) & (np.asarray(keys.anchor[b]) <= place[t])
            np.testing.assert_array_equal(felt[r, t, b], expected, err_msg=f"{name}: text {r} token {t} example {b}")


def test_at_first_the_decoder_does_not_depend_on_its_memory(model_config, encode, batch):
    single = nnx.jit(lambda: make_model(model_config, nnx.Rngs(0)).single)()
    graph, state = nnx.split(single)

    @jax.jit
    def run(state, memory):
        def loss(state):
            model = nnx.merge(graph, state)
            hidden = model.decode(model.read(*flat(batch.text["target"])), memory).hidden
            return jnp.sin(hidden).sum(), hidden

        (_, hidden), gradient = jax.value_and_grad(loss, has_aux=True)(state)
        return hidden, gradient

    memory = encode(batch)
    hidden, gradient = run(state, memory)
    other = memory._replace(
        tokens={name: tokens._replace(values=-2 * tokens.values) for name, tokens in memory.tokens.items()}
    )
    np.testing.assert_array_equal(hidden, run(state, other)[0])
    gates = [leaf for path, leaf in nnx.to_flat_state(gradient) if path[-1] in ("attention_gate", "mlp_gate")]
    assert len(gates) == 2 and all((np.asarray(gate[...]) != 0).all() for gate in gates)


def test_memories_may_be_missing_but_not_all(model, encode, batch):
    memory = encode(batch)
    alone = memory._replace(tokens={"audio": memory.tokens["audio"]})

    @jax.jit
    def run(memory):
        return model.single.decode(model.single.read(*flat(batch.text["target"])), memory).hidden

    assert np.isfinite(run(alone)).all()
    with pytest.raises(ValueError, match="the decoder reads image, audio, source; the batch has none of them"):
        run(memory._replace(tokens={}))


def test_an_absent_memory_is_a_missing_one(model, encode, batch):
    """Example 2 has no image: what it says is what it says where there is no such memory at all."""
    memory = encode(batch)
    graph, state = nnx.split(model.single)

    @jax.jit
    def run(tokens):
        single = nnx.merge(graph, state)
        return single.decode(single.read(*flat(batch.text["target"])), memory._replace(tokens=tokens)).hidden

    np.testing.assert_allclose(run(memory.tokens)[4:], run({"audio": memory.tokens["audio"]})[4:], atol=1e-5)


def test_the_readout_is_the_embedding_table(model):
    hidden = random_values()
    expected = np.asarray(hidden) @ np.asarray(model.single.embed.embedding[...]).T
    np.testing.assert_allclose(model.single.readout(hidden), expected, atol=1e-5)


def test_in_bfloat16_logits_are_those_of_its_products_and_not_rounded(model):
    single = SingleTower(D, model.single.stack, {}, vocabulary=31, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    hidden = 9 * random_values().astype(jnp.bfloat16)
    logits, back = jax.vjp(single.readout, hidden)
    table = np.asarray(single.embed.embedding[...].astype(jnp.bfloat16), np.float64)
    assert logits.dtype == jnp.float32 and back(jnp.ones_like(logits))[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(logits, np.asarray(hidden, np.float64) @ table.T, rtol=1e-4, atol=1e-4)


def test_what_is_read_behind_a_cache_is_placed_behind_it(model, encode, batch):
    memory = encode(batch)
    cache = model.single.empty_cache(memory, rows=ROWS, length=11)
    assert (cache.length == 0).all() and (cache.position == 0).all()
    ids, segment = flat(batch.text["prompt"])
    decode = jax.jit(lambda cache: model.single.decode(model.single.read(ids, segment, cache), memory, cache))
    read = decode(cache).cache
    np.testing.assert_array_equal(read.length, [2, 5, 7, 1, 3, 0])
    tokens: Tokens = model.single.read(jnp.ones((ROWS, 2), jnp.int32), jnp.ones((ROWS, 2), jnp.int32), read)
    np.testing.assert_array_equal(tokens.position[..., 0], np.array([2, 5, 7, 1, 3, 0])[:, None] + [0, 1])
