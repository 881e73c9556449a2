"""Encoding a batch: items are joined, absent ones leave no trace, captions keep embeddings of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.build import make_model
from mmfuse.models.memory import Memory, in_views, join_items, valid_values
from mmfuse.towers.tower import TowerOutput
from mmfuse.types import Tokens

NAMES = ("image", "audio")


@pytest.fixture(scope="module")
def encode(model):
    graph, state = nnx.split(model)
    return jax.jit(lambda batch: nnx.merge(graph, state).encode(batch))


def replace(batch, name, **changes):
    return batch._replace(signals=batch.signals | {name: batch.signals[name]._replace(**changes)})


def with_values(batch, values):
    signals = {name: batch.signals[name]._replace(values=array) for name, array in values.items()}
    return batch._replace(signals=batch.signals | signals)


def valid_by_hand(signal):
    """True where something of an item stands."""
    valid = np.zeros(signal.values.shape, bool)
    for b, i in np.ndindex(*signal.item_mask.shape):
        if signal.item_mask[b, i]:
            valid[(b, i, *(slice(extent) for extent in signal.size[b, i]))] = True
    return valid


@pytest.mark.parametrize("name", NAMES)
def test_values_are_kept_where_they_are_valid_and_zero_elsewhere(batch, name):
    signal = batch.signals[name]
    valid = valid_by_hand(signal)
    assert valid.any() and not valid.all()
    np.testing.assert_array_equal(valid_values(signal), np.where(valid, signal.values, 0))
    whole = signal._replace(values=signal.values.astype(jnp.uint8))
    assert valid_values(whole).dtype == jnp.uint8


def test_nan_where_nothing_is_reaches_no_output_and_no_gradient(model, batch):
    """0 · NaN is NaN: whatever stands in absent items and beyond a size must not even be multiplied."""
    clean = {name: valid_values(batch.signals[name]) for name in NAMES}
    dirty = {name: jnp.where(valid_by_hand(batch.signals[name]), batch.signals[name].values, jnp.nan) for name in NAMES}
    graph, state = nnx.split(model)

    @jax.jit
    def measure(state, values):
        def loss(state, values):
            memory = nnx.merge(graph, state).encode(with_values(batch, values))
            read = [tokens.values[..., 0].sum() for tokens in memory.tokens.values()]
            return jnp.stack([embedding.sum() for embedding in memory.embeddings.values()] + read).sum()

        return jax.value_and_grad(loss, argnums=(0, 1))(state, values)

    for a, b in zip(jax.tree.leaves(measure(state, clean)), jax.tree.leaves(measure(state, dirty)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


def test_embeddings_feel_exactly_what_is_there(model, batch):
    graph, state = nnx.split(model)

    @jax.jit
    def gradient(values):
        def loss(values):
            memory = nnx.merge(graph, state).encode(with_values(batch, values))
            return sum(jnp.sin(3 * memory.embeddings[name]).sum() for name in NAMES)

        return jax.grad(loss)(values)

    got = gradient({name: batch.signals[name].values for name in NAMES})
    for name in NAMES:
        felt, valid = np.asarray(got[name]) != 0, valid_by_hand(batch.signals[name])
        assert not felt[~valid].any()
        assert felt[valid].mean() > 0.95  # the first sample of a Hann window weighs nothing


def test_an_absent_modality_is_zero_and_padding(encode, batch):
    memory = encode(batch)
    np.testing.assert_array_equal(memory.embeddings["image"][2, 0], np.zeros(11))
    np.testing.assert_array_equal(memory.embeddings["audio"][1, 0], np.zeros(11))
    assert (memory.tokens["image"].segment[2] == 0).all() and (memory.tokens["audio"].segment[1] == 0).all()
    for name, there in (("image", [0, 1]), ("audio", [0, 2])):
        lengths = np.linalg.norm(memory.embeddings[name][:, 0], axis=-1)
        np.testing.assert_allclose(lengths, np.isin(np.arange(3), there), atol=1e-5)
        np.testing.assert_array_equal(batch.present(name)[:, 0], np.isin(np.arange(3), there))


def test_a_hole_is_present_nowhere(batch):
    hole = batch._replace(valid=jnp.array([True, False, True]))
    for name in ("image", "caption"):
        assert not hole.present(name)[1].any() and hole.present(name)[0].all()


def test_captions_have_embeddings_of_their_own(encode, batch):
    both = encode(batch)
    assert both.embeddings["caption"].shape == (3, 2, 11) and both.embeddings["image"].shape == (3, 1, 11)
    np.testing.assert_array_equal(both.embeddings["caption"][1, 1], np.zeros(11))  # an absent caption
    swapped = batch._replace(text={"caption": jax.tree.map(lambda array: array[:, ::-1], batch.text["caption"])})
    np.testing.assert_allclose(encode(swapped).embeddings["caption"], both.embeddings["caption"][:, ::-1], atol=1e-5)


def test_the_order_of_examples_does_not_matter(encode, batch):
    order = jnp.array([2, 0, 1])
    shuffled = encode(jax.tree.map(lambda array: array[order], batch))
    for a, b in zip(jax.tree.leaves(shuffled), jax.tree.leaves(encode(batch)), strict=True):
        np.testing.assert_allclose(a, b[order], atol=1e-5)


def test_a_decoder_that_reads_the_best_tokens_alone_reads_them_where_they_were(model_config, batch, shake):
    config = model_config.copy_and_resolve_references()
    with config.unlocked():
        config.model.keep = {"image": 3, "source": 2}
    model = shake(nnx.jit(lambda: make_model(config, nnx.Rngs(0)))())
    graph, state = nnx.split(model)
    told = batch._replace(text=batch.text | {"source": batch.text["caption"]})

    @functools.partial(jax.jit, static_argnums=1)
    def speak(batch, looked_into):
        model = nnx.merge(graph, state)
        memory, target = model.encode(batch, probe={} if looked_into else None), batch.text["target"]
        ids, segment = (array.reshape(-1, array.shape[-1]) for array in (target.ids, target.segment))
        return model.single.decode(model.single.read(ids, segment), memory).hidden, memory.tokens

    (few, kept), (same, whole) = speak(told, False), speak(told, True)
    np.testing.assert_allclose(few, same, atol=1e-5)
    assert kept["image"].values.shape[1] == 3 and kept["source"].values.shape[1] == 2
    assert whole["image"].values.shape[1] > 3 and (np.asarray(whole["image"].segment > 0).sum(axis=1) <= 3).all()
    with config.unlocked():
        config.model.keep = {}
    assert not nnx.eval_shape(lambda: make_model(config, nnx.Rngs(0))).keep


def test_words_that_choose_what_they_read_read_everything_where_there_is_room(model, model_config, batch):
    def speak(pairs):
        config = model_config.copy_and_resolve_references()
        with config.unlocked():
            config.model.single.pairs = pairs
        sparse = nnx.jit(lambda: make_model(config, nnx.Rngs(0)))()
        nnx.update(sparse, nnx.state(model))  # all but the routers of its blocks
        return _spoken(sparse, batch)

    np.testing.assert_allclose(speak(9999), _spoken(model, batch), atol=1e-5)
    assert np.abs(speak(16) - _spoken(model, batch)).max() > 1e-3


def _spoken(model, batch):
    graph, state = nnx.split(model)

    @jax.jit
    def speak(state, batch):
        model, target = nnx.merge(graph, state), batch.text["target"]
        ids, segment = (array.reshape(-1, array.shape[-1]) for array in (target.ids, target.segment))
        return model.single.decode(model.single.read(ids, segment), model.encode(batch)).hidden

    return np.asarray(speak(state, batch))


def test_items_are_laid_behind_one_another():
    examples, items, places, width = 2, 3, 5, 7
    values = jnp.arange(examples * items * places * width, dtype=jnp.float32).reshape(-1, places, width)
    segment = jnp.ones((examples * items, places), jnp.int32).at[4, 3:].set(0)
    tokens = Tokens(values, segment, values[..., :2], segment, jnp.zeros_like(segment))
    mask = jnp.array([[True, False, True], [False, True, True]])
    anchor = jnp.array([[3, 1, 4], [1, 5, 9]])
    joined, pooled = join_items(TowerOutput(tokens, values[:, 0], {}, {}), mask, anchor)
    for b, i, p in np.ndindex(examples, items, places):
        place = i * places + p
        np.testing.assert_array_equal(joined.values[b, place], values[b * items + i, p])
        assert (joined.segment[b, place] > 0) == (mask[b, i] and segment[b * items + i, p] > 0)
        assert joined.anchor[b, place] == anchor[b, i]
    means = [[values[b * items + i, 0] for i in range(items) if mask[b, i]] for b in range(examples)]
    np.testing.assert_allclose(pooled, np.mean(means, axis=1), rtol=1e-6)


def test_a_probe_shows_the_attention_of_one_tower(model, batch):
    probed = jax.jit(lambda batch: model.encode(batch, probe={"image": {"0": {"self0": jnp.float32(0)}}}))(batch)
    assert set(probed.trace) == {"image"}
    trace = probed.trace["image"]["0"]["self0"]
    assert trace.shape == (2, 6, 3, 7, 7)  # layers, pictures, heads, the class token and six patches
    total = np.asarray(trace.sum(axis=-1))
    np.testing.assert_allclose(total, np.round(total), atol=1e-5)


def test_a_bfloat16_model_has_float32_parameters_and_embeddings(model, model_config, encode, batch):
    config = model_config.copy_and_resolve_references()
    config.model.dtype = "bfloat16"
    small = nnx.jit(lambda: make_model(config, nnx.Rngs(0)))()
    nnx.update(small, nnx.state(model))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(small, nnx.Param))} == {jnp.dtype("float32")}

    @jax.jit
    def run(batch):
        memory = small.encode(batch)
        target = batch.text["target"]
        ids, segment = (array.reshape(-1, array.shape[-1]) for array in (target.ids, target.segment))
        return memory, small.single.decode(small.single.read(ids, segment), memory).hidden

    with jax.numpy_dtype_promotion("standard"):  # the attention kernel mixes bfloat16 and float32 on purpose
        memory, hidden = run(batch)
    assert hidden.dtype == memory.tokens["image"].values.dtype == jnp.bfloat16
    exact = encode(batch)
    for name, embedding in memory.embeddings.items():
        assert embedding.dtype == jnp.float32
        np.testing.assert_allclose(embedding, exact.embeddings[name], atol=0.05)


def test_without_evidence_a_decoder_reads_what_it_would_of_absent_signals(model, batch):
    graph, state = nnx.split(model)
    nothing = {name: {"item_mask": jnp.zeros_like(batch.signals[name].item_mask)} for name in NAMES}
    absent = replace(replace(batch, "image", **nothing["image"]), "audio", **nothing["audio"])

    @jax.jit
    def decode(state, batch, keep):
        model, target = nnx.merge(graph, state), batch.text["target"]
        ids, segment = (array.reshape(-1, array.shape[-1]) for array in (target.ids, target.segment))
        memory = model.keep_evidence(model.encode(batch), keep)
        return jnp.where(segment[..., None] > 0, model.single.decode(model.single.read(ids, segment), memory).hidden, 0)

    kept, dropped = decode(state, batch, jnp.array(True)), decode(state, batch, jnp.array(False))
    np.testing.assert_array_equal(dropped, decode(state, absent, jnp.array(True)))
    assert (np.abs(kept - dropped).max(axis=(1, 2)) > 1e-3).all()


def test_each_example_stands_once_in_each_view():
    tokens = {}
    for place, name in enumerate(("image", "audio", "rest")):
        segment = jnp.array([1, 0, 1], jnp.int32)[:, None] * jnp.array([[1, 1, 0]])
        values = 100.0 * place + jnp.arange(9.0).reshape(3, 3, 1)
        tokens[name] = Tokens(values, segment, values, segment, segment)
    views = [("image", "audio"), ("audio",), ("image",), ()]
    memory = in_views(Memory(tokens, {}, {}, {}, {}), views, ("image", "audio"))
    for name, seen in {"image": [1, 0, 1, 0], "audio": [1, 1, 0, 0], "rest": [1, 1, 1, 1]}.items():
        found = Tokens(*(np.asarray(array).reshape(3, 4, *array.shape[1:]) for array in memory.tokens[name]))
        for view in range(4):
            np.testing.assert_array_equal(found.values[:, view], tokens[name].values)
            np.testing.assert_array_equal(found.segment[:, view], np.asarray(tokens[name].segment) * seen[view])


def test_pictures_and_texts_alone_are_embedded_as_in_a_batch(model, batch, encode):
    alone = np.array([[True, False]] * len(batch.valid))
    size = jnp.broadcast_to(jnp.array(batch.signals["image"].values.shape[2:4]), (*alone.shape, 2))
    whole = replace(batch, "image", item_mask=jnp.asarray(alone), size=size)
    memory, pixels = encode(whole), jnp.round(whole.signals["image"].values[:, 0])
    integers = replace(whole, "image", values=jnp.round(whole.signals["image"].values))
    expected = encode(integers).embeddings["image"][:, 0]
    embed_image = jax.jit(model.embed_image)
    np.testing.assert_allclose(embed_image(pixels.astype(jnp.uint8)), expected, atol=1e-5)
    np.testing.assert_allclose(embed_image(pixels / 127.5 - 1), expected, atol=1e-5)
    caption = batch.text["caption"]
    text = model.embed_text(caption.ids[:, 0], caption.segment[:, 0])
    np.testing.assert_allclose(text, memory.embeddings["caption"][:, 0], atol=1e-5)
    full = model.embed_text(caption.ids[:, 0])
    np.testing.assert_array_equal(full, model.embed_text(caption.ids[:, 0], jnp.ones_like(caption.ids[:, 0], bool)))
    np.testing.assert_allclose(model.similarity(expected, text), model.dual.logits(expected, text))
