"""A scanned stack is a loop over its layers, in the order in which its blocks were given."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmfuse.fusion.gated_cross_attention import GatedCrossBlock
from mmfuse.nn.attention import Attention
from mmfuse.nn.masks import Mask
from mmfuse.nn.mlp import Mlp
from mmfuse.stack.block import Context, SelfBlock
from mmfuse.stack.stack import Segment, Stack

B, T, S, D, HEADS = 2, 5, 7, 12, 3
FIRST, SECOND = ("second", "cross", "a_last"), ("only",)  # not in the order of the alphabet
REPEATS = (3, 2)
random = np.random.default_rng(0)
VALUES, MEMORY = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((B, T, D), (B, S, D)))


class CountingMlp(Mlp):
    """An MLP with a scalar to tell of."""

    def __call__(self, tokens):
        return super().__call__(tokens)[0], {"mean": tokens.mean()}


def make_block(kind, rngs, mlp=Mlp):
    rotary = 1e4 if kind is SelfBlock else None
    attention = Attention(D, HEADS, rotary_base=rotary, rngs=rngs)
    return kind(attention, mlp(D, 8, rngs=rngs), nnx.LayerNorm(D, rngs=rngs), nnx.LayerNorm(D, rngs=rngs))


def make_stack(**options):
    def first(rngs):
        return {name: make_block(GatedCrossBlock if name == "cross" else SelfBlock, rngs) for name in FIRST}

    def second(rngs):
        return {name: make_block(SelfBlock, rngs, CountingMlp) for name in SECOND}

    rngs = nnx.Rngs(0)
    segments = [Segment(unit, repeats, **options, rngs=rngs) for unit, repeats in zip((first, second), REPEATS)]
    return Stack(segments, nnx.LayerNorm(D, rngs=rngs))


@pytest.fixture(scope="module")
def stack(shake):
    return shake(nnx.jit(make_stack)())


@nnx.jit
def run(stack, values, probe=None):
    """What a stack makes of values, in one program."""
    return stack(values, context(), probe=probe)


def context():
    segment = jnp.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    mask = Mask(query_segment=segment, key_segment=segment, causal=True)
    position = jnp.broadcast_to(jnp.arange(T, dtype=jnp.float32)[None, :, None], (B, T, 1))
    memory_mask = Mask(key_segment=jnp.asarray(np.arange(S)[None] < [[4], [7]], jnp.int32))
    return Context(mask, position, MEMORY, memory_mask)


def layers_in_order(stack):
    """(segment, layer, name, block) of every block, taken out of the stacked parameters."""
    for index, (segment, names) in enumerate(zip(stack.segments, (FIRST, SECOND))):
        graph, state = nnx.split(segment.unit)
        for layer in range(REPEATS[index]):
            blocks = nnx.merge(graph, jax.tree.map(lambda array, layer=layer: array[layer], state))
            yield from ((str(index), layer, name, blocks[name]) for name in names)


@nnx.jit
def loop(stack, values, probes=None):
    """The same in a Python loop; `probes`, and the aux and traces that it returns, go by (segment, layer, name)."""
    aux, traces = {}, {}
    for *place, block in layers_in_order(stack):
        out = block(values, context(), None, (probes or {}).get(tuple(place)))
        values, aux[tuple(place)], traces[tuple(place)] = out.values, out.aux, out.trace
    return stack.norm(values), aux, traces


def test_a_scan_is_a_loop_over_layers_in_the_order_given(stack):
    expected, aux, _ = loop(stack, VALUES)
    out = run(stack, VALUES)
    np.testing.assert_allclose(out.values, expected, atol=1e-5)
    assert out.cache is None and out.trace == {} and set(out.aux) == {"1/only/mean"}
    np.testing.assert_allclose(
        out.aux["1/only/mean"], sum(aux["1", layer, "only"]["mean"] for layer in range(2)), rtol=1e-4, atol=1e-6
    )


def test_more_than_ten_blocks_stay_in_order():
    def unit(rngs):
        return {f"block{i}": make_block(SelfBlock, rngs) for i in range(12)}

    segment = jax.eval_shape(lambda: nnx.split(Segment(unit, 1, rngs=nnx.Rngs(0))))
    assert nnx.merge(*segment).order == tuple(f"block{i}" for i in range(12))


def test_layers_draw_their_own_parameters():
    for segment in nnx.jit(make_stack)().segments:
        for path, value in nnx.to_flat_state(nnx.state(segment.unit, nnx.Param)):
            assert path[-1] != "kernel" or (np.asarray(value[0]) != np.asarray(value[1])).all(), path


def measure(stack):
    """A loss and its gradient."""
    graph, state = nnx.split(stack)

    def loss(state, values):
        return jnp.sin(nnx.merge(graph, state)(values, context()).values).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(state, VALUES)


@pytest.fixture(scope="module")
def measured(stack):
    return measure(stack)


@pytest.mark.parametrize("options", [{"remat": True}, {"unroll": True}, {"remat": True, "unroll": True}], ids=str)
def test_recomputation_and_unrolling_change_no_value_and_no_gradient(stack, measured, options):
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_stack(**options)))
    other = nnx.merge(graph, nnx.state(stack))
    for a, b in zip(jax.tree.leaves(measure(other)), jax.tree.leaves(measured), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("repeats", [(1, 1), (3, 2)], ids=str)
def test_remat_is_in_the_program_only_where_asked_and_guarded_where_there_is_no_loop(monkeypatch, repeats):
    monkeypatch.setattr(sys.modules[__name__], "REPEATS", repeats)

    def program(**options):
        return str(jax.make_jaxpr(lambda values: make_stack(**options)(values, context()).values)(VALUES))

    looped, unrolled, kept = program(remat=True), program(remat=True, unroll=True), program()
    assert looped.count(f"prevent_cse={repeats == (1, 1)}") == unrolled.count("prevent_cse=True") == 2
    assert "remat" not in kept and "checkpoint" not in kept


def test_probes_reach_the_named_block_of_every_layer(stack):
    ε = jnp.asarray(0.1 * random.standard_normal((3, B, HEADS, T, S)), jnp.float32)
    out = run(stack, VALUES, {"0": {"cross": ε}, "1": {"only": jnp.float32(0.2)}})
    probes = {("0", layer, "cross"): ε[layer] for layer in range(3)} | {
        ("1", layer, "only"): jnp.float32(0.2) for layer in range(2)
    }
    expected, _, traces = loop(stack, VALUES, probes)
    np.testing.assert_allclose(out.values, expected, atol=1e-5)
    assert {segment: set(blocks) for segment, blocks in out.trace.items()} == {"0": {"cross"}, "1": {"only"}}
    for segment, name, layers in (("0", "cross", 3), ("1", "only", 2)):
        trace = jnp.stack([traces[segment, layer, name] for layer in range(layers)])
        np.testing.assert_allclose(out.trace[segment][name], trace, atol=1e-5)
    assert np.abs(out.values - run(stack, VALUES).values).max() > 1e-2


def test_a_probe_with_one_layer_is_for_all_of_them(stack):
    one = jnp.full((1, 1, 1, T, S), 0.1)
    np.testing.assert_array_equal(
        run(stack, VALUES, {"0": {"cross": one}}).values,
        run(stack, VALUES, {"0": {"cross": jnp.repeat(one, 3, axis=0)}}).values,
    )


def test_the_gradient_of_a_probe_is_the_change_of_the_loss(stack):
    @jax.jit
    def loss(ε):
        return jnp.sin(stack(VALUES, context(), probe={"0": {"cross": ε}}).values).sum()

    zero = jnp.zeros((3, B, HEADS, T, S))
    gradient = jax.grad(loss)(zero)
    for place in ((0, 0, 2, 1, 3), (2, 1, 0, 4, 6)):
        step = zero.at[place].set(1e-2)
        np.testing.assert_allclose(gradient[place], (loss(step) - loss(-step)) / 2e-2, rtol=3e-2, atol=1e-3)


def test_looking_changes_nothing(stack):
    looked = run(stack, VALUES, {"0": {name: jnp.float32(0) for name in FIRST}})
    np.testing.assert_allclose(looked.values, run(stack, VALUES).values, atol=1e-5)
