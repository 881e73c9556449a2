"""Tests of mmfuse.objectives.cost, against XLA's own count and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from mmfuse.objectives import cost
from mmfuse.objectives.cost import count_flops, model_flops_utilization, peak_flops, tree_bytes

ROWS, COLUMNS = 7, 11
X = jnp.linspace(0.1, 2.0, ROWS * COLUMNS).reshape(ROWS, COLUMNS)


def ours(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def xla(function, *arguments):
    """What XLA counts before (what is written) and after it optimises (what is run)."""
    lowered = jax.jit(function).lower(*arguments)
    return tuple(
        analysis.get("flops", 0.0) for analysis in (lowered.cost_analysis(), lowered.compile().cost_analysis())
    )


ELEMENTWISE = {
    "add": lambda x: x + x,
    "divide": lambda x: x / (x + 1.0),
    "compare and select": lambda x: jnp.where(x > 1.0, x, -x),
    "convert": lambda x: x.astype(jnp.bfloat16),
    "cube": lambda x: x**3,
    "fifth power": lambda x: x**5,
    "inverse square": lambda x: x**-2,
    "square": jnp.square,
    "clip": lambda x: jax.lax.clamp(0.5, x, 1.5),
    "not": lambda x: ~(x > 1.0),
    "logistic": jax.nn.sigmoid,
    "transcendental": lambda x: jnp.tanh(jnp.exp(x)) * jax.lax.rsqrt(jnp.log(x)),
    "moved": lambda x: jnp.concatenate([x.T[::-1], jnp.broadcast_to(x[:1, :7], (5, 7))]),
    "gelu": jax.nn.gelu,
}


@pytest.mark.parametrize("function", ELEMENTWISE.values(), ids=ELEMENTWISE.keys())
def test_elementwise_operations_count_as_xla_counts_them(function):
    assert ours(function, X) == xla(function, X)[0]


@pytest.mark.parametrize("reduce", [jnp.sum, jnp.max, jnp.prod])
def test_a_reduction_counts_its_input(reduce):
    # XLA does not count the first element of each row.
    assert ours(lambda x: reduce(x, axis=1), X) == xla(lambda x: reduce(x, axis=1), X)[0] + ROWS == ROWS * COLUMNS


def test_a_scattered_gradient_counts_its_updates():
    gradient = jax.grad(lambda table, ids: table[ids].sum())
    ids = jnp.array([1, 2, 2])
    assert ours(gradient, X, ids) == pytest.approx(3 * COLUMNS + 2 * ids.size + 3 * COLUMNS, abs=ids.size)


def test_batched_product_of_matrices():
    a, b = jnp.ones((2, 3, 5, 7)), jnp.ones((11, 3, 2, 7))
    product = functools.partial(jnp.einsum, "abij,kbaj->bika")
    assert ours(product, a, b) == 2 * (2 * 3) * 5 * 11 * 7 == xla(product, a, b)[0]


CONVOLUTIONS = {
    "patches": ((2, 12, 12, 3), (4, 4, 3, 5), {"window_strides": (4, 4), "padding": "VALID"}),
    "padded": ((2, 13, 11, 3), (3, 5, 3, 7), {"window_strides": (1, 1), "padding": "SAME"}),
    "strided": ((2, 13, 11, 3), (3, 3, 3, 7), {"window_strides": (2, 3), "padding": ((1, 2), (0, 1))}),
    "grouped": ((2, 13, 11, 6), (3, 3, 2, 9), {"window_strides": (1, 2), "padding": "SAME", "feature_group_count": 3}),
    "dilated": ((2, 13, 11, 3), (3, 3, 3, 7), {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 3)}),
    "transposed": (
        (2, 7, 5, 3),
        (3, 3, 3, 7),
        {"window_strides": (1, 1), "padding": ((1, 2), (2, 0)), "lhs_dilation": (2, 3)},
    ),
}


@pytest.mark.parametrize("image, kernel, options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolutions_and_their_gradients_count_as_xla_counts_them(image, kernel, options):
    numbers = ("NHWC", "HWIO", "NHWC")
    convolve = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=numbers, **options)
    arguments = jnp.ones(image), jnp.ones(kernel)
    assert ours(convolve, *arguments) == xla(convolve, *arguments)[0]

    def gradient(x, k):
        out, pull = jax.vjp(convolve, x, k)
        return out, pull(out)

    assert ours(gradient, *arguments) == pytest.approx(xla(gradient, *arguments)[0], rel=1e-3)


def test_fourier_transform_counts_as_xla_counts_it():
    x = jnp.ones((3, 16))
    assert ours(jnp.fft.rfft, x) == pytest.approx(xla(jnp.fft.rfft, x)[0], rel=0.01)


def norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)


def block(x, p):
    """Pre-norm attention and MLP."""
    query, key, value = (jnp.einsum("btd,dnh->btnh", norm(x), p[name]) for name in ("query", "key", "value"))
    scores = jnp.einsum("btnh,bsnh->bnts", query, key) / 8.0
    may_look = jnp.broadcast_to(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores.shape)
    weights = jax.nn.softmax(jnp.where(may_look, scores, -1e9))
    x = x + jnp.einsum("bnts,bsnh,nhd->btd", weights, value, p["out"])
    return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"]


def unrolled(p, x):
    for layer in range(2):
        x = block(x, jax.tree.map(lambda a, layer=layer: a[layer], p))
    return jnp.square(x).mean()


def scanned(p, x):
    return jnp.square(jax.lax.scan(lambda x, p: (block(x, p), None), x, p)[0]).mean()


def transformer(width, length):
    shapes = dict.fromkeys(("query", "key", "value"), (width, 4, width // 4))
    shapes |= {"out": (4, width // 4, width), "up": (width, 4 * width), "down": (4 * width, width)}
    return {name: jnp.ones((2, *shape)) for name, shape in shapes.items()}, jnp.ones((3, length, width))


def value_and_gradient(function):
    return jax.value_and_grad(function, argnums=(0, 1))


@pytest.mark.parametrize(
    "width, length, transform", [(128, 48, lambda f: f), (256, 37, value_and_gradient)], ids=["forward", "backward"]
)
def test_a_transformer_scanned_or_not_costs_what_the_compiler_counts_unrolled(width, length, transform):
    p, x = transformer(width, length)
    written, run = xla(transform(unrolled), p, x)
    count = ours(transform(unrolled), p, x)
    assert count == pytest.approx(written, rel=1e-3)
    assert count == pytest.approx(run, rel=0.01)
    # Only the gradient's additions into slices of the stacked parameters differ.
    assert ours(transform(scanned), p, x) == pytest.approx(count, rel=2e-3)


MATMUL = 2 * 5 * 5 * 5
SQUARE = jnp.ones((5, 5))


def test_calls_are_looked_into():
    @jax.custom_vjp
    def custom(x):
        return x @ x

    custom.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
    assert ours(jax.jit(lambda x: x @ x), SQUARE) == MATMUL
    assert ours(custom, SQUARE) == MATMUL
    assert ours(jax.grad(lambda x: custom(x).sum()), SQUARE) == 3 * MATMUL + 2 * 25
    assert ours(jax.nn.relu, SQUARE) == 25  # a custom_jvp


def test_recomputation_is_counted():
    def chain(x):
        return jnp.sin(x @ x).sum()

    plain, again = (ours(jax.grad(f), SQUARE) for f in (chain, jax.checkpoint(chain)))
    assert again - plain == pytest.approx(MATMUL, rel=0.3)


def test_scans_multiply_branches_compete_and_loops_count_once():
    def scan(x):
        return jax.lax.scan(lambda c, _: (jax.lax.scan(lambda c, _: (c @ c, None), c, length=3)[0], None), x, length=7)

    assert ours(scan, SQUARE) == 7 * 3 * MATMUL
    # The branch is made an index.
    assert ours(lambda i, x: jax.lax.cond(i, lambda x: x @ x, lambda x: x, x), True, SQUARE) == MATMUL + 1
    assert ours(lambda i, x: jax.lax.switch(i, [lambda x: x, lambda x: x @ x @ x, lambda x: -x], x), 1, SQUARE) == (
        2 * MATMUL + 2  # the index is converted and clamped
    )
    assert ours(lambda x: jax.lax.while_loop(lambda x: True, lambda x: x @ x, x), SQUARE) == MATMUL


def test_a_sharded_body_counts_on_every_device():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:8])
    specs = {"in_specs": PartitionSpec(("data", "fsdp")), "out_specs": PartitionSpec(("data", "fsdp"))}
    product = jax.shard_map(lambda x: x @ jnp.ones((5, 3)), mesh=mesh, **specs)
    assert ours(product, jnp.ones((16, 5))) == 2 * 16 * 5 * 3


def test_hidden_work_is_refused():
    from jax.experimental import pallas

    def kernel(x, out):
        out[...] = x[...] + 1.0

    call = pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32), interpret=True)
    with pytest.raises(NotImplementedError, match="pallas_call cannot be seen"):
        ours(call, jnp.ones((8, 128)))


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v3", 61.5e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA B200", 2250e12),
    ],
)
def test_published_peaks(kind, peak):
    assert next(p for pattern, p in cost.PUBLISHED_PEAKS if cost.re.search(pattern, kind)) == peak


def test_the_peak_of_a_cpu_is_measured_once():
    first = peak_flops(jax.devices("cpu")[0])
    assert 1e9 < first < 1e14
    assert peak_flops(jax.devices("cpu")[0]) == first


def test_utilization_is_a_share_of_all_devices():
    device = jax.devices("cpu")[0]
    peak = peak_flops(device)
    assert model_flops_utilization(3 * peak, 2.0, np.array([device] * 5)) == pytest.approx(0.3)


def test_bytes():
    tree = {"a": jnp.ones((3, 5), jnp.bfloat16), "b": [jax.ShapeDtypeStruct((7,), jnp.int8), np.float64(0)]}
    assert tree_bytes(tree) == 3 * 5 * 2 + 7 + 8
