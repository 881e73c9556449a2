"""What does a function cost, before it is run?

FLOPs are counted on the jaxpr, with the rules of XLA's own cost analysis: 2·m·n·k for a product of matrices, one for an
element that is added, multiplied, compared or converted, one for an element that is reduced, none for transcendental
functions and for data that moves. XLA counts the body of a scan once, whatever its length; here it is multiplied, so
that a scanned stack costs what an unrolled one does.

Limits. A `while` whose number of rounds is not known is counted as one round. What is recomputed (`jax.checkpoint`) is
counted again, since it is done again: for the utilization of a model, count the step without it. XLA later drops
what nobody needs; the counts agreed within 1 % on transformers of width 128 to 256, forward and backward.

How fast a run goes is measured by the loop; memory is asked of the compiler.
"""

import functools
import math
import re
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# One operation for each element of the output.
ELEMENTWISE = re.compile(
    "abs|add|add_any|and|ceil|clamp|convert_element_type|div|eq|floor|ge|gt|is_finite|le|lt|max|min|mul|ne|neg|not|or|"
    "population_count|reduce_precision|rem|round|select_n|shift_left|shift_right_(arithmetic|logical)|sign|square|sub|xor"
)
# One operation for each element of the input.
REDUCTION = re.compile("arg(max|min)|cum(logsumexp|max|min|prod|sum)|reduce_(and|max|min|or|prod|sum|xor)")
# One operation for each element that is scattered, as in the gradient of an embedding table.
SCATTER = re.compile("scatter[-_](add|max|min|mul|sub)")
# Kernels whose work a jaxpr does not show.
OPAQUE = re.compile("pallas_call|ffi_call|dot_product_attention_.*")

# Dense bf16 FLOP/s of one chip as its maker publishes it, by the first regex found in `device_kind`.
# TPU: cloud.google.com/tpu/docs, "System architecture". A device of JAX is half a chip of v2 (45e12) and v3 (123e12).
# GPU: the data sheets of NVIDIA; where they give the rate with sparsity, half of it.
PUBLISHED_PEAKS = (
    (r"TPU v2", 22.5e12),
    (r"TPU v3", 61.5e12),
    (r"TPU v4$", 275e12),
    (r"TPU v5 ?(lite|e)", 197e12),
    (r"TPU v5p?$", 459e12),
    (r"TPU v6 ?(lite|e)", 918e12),
    (r"A100\b", 312e12),
    (r"H100 PCIe", 756e12),
    (r"H[12]00 NVL", 835e12),
    (r"H[12]00\b", 989e12),
    (r"B200\b", 2250e12),
)


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> float:
    """Returns the FLOPs of one call, on all devices together, of what `jax.make_jaxpr(function)(*arguments)` gives.

    Raises:
      NotImplementedError: at a kernel whose work the jaxpr does not show.
    """
    return float(_jaxpr_flops(jaxpr))


def peak_flops(device: jax.Device) -> float:
    """Returns the peak FLOP/s of one device.

    That is the published bf16 peak of a known accelerator. Any other device, such as a CPU, has no single published
    number: its peak is what a float32 product of matrices reaches, measured once in this process.
    """
    for pattern, peak in PUBLISHED_PEAKS:
        if re.search(pattern, device.device_kind):
            return peak
    return _measured_peak(device)


def model_flops_utilization(flops: float, seconds: float, devices: Iterable[jax.Device]) -> float:
    """Returns flops / (seconds · Σ peak), the share of the devices' peak that a step made use of.

    Args:
      flops: of one step, on all devices together.
      seconds: that the step took.
      devices: those that took part.

    Source: MFU, arXiv 2204.02311, appendix B.
    """
    return flops / (seconds * sum(map(peak_flops, devices)))


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of all leaves (arrays, or their shapes and dtypes), each counted once however it is sharded."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.cache
def _measured_peak(device: jax.Device) -> float:
    n, rounds = 1024, 5
    x = jax.device_put(np.ones((n, n), np.float32), device)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)


def _jaxpr_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    return sum(map(_equation_flops, jaxpr.eqns))


def _equation_flops(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    if OPAQUE.fullmatch(name):
        raise NotImplementedError(f"The FLOPs of a {name} cannot be seen: count the model with plain XLA operations.")
    if ELEMENTWISE.fullmatch(name):
        return _size(equation.outvars[0])
    if REDUCTION.fullmatch(name):
        return _size(equation.invars[0])
    if SCATTER.fullmatch(name):
        return _size(equation.invars[2])
    if name in SPECIAL:
        return SPECIAL[name](equation)
    return sum(map(_jaxpr_flops, _inner(equation)))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _size(variable: Any) -> int:
    return math.prod(_shape(variable))


def _inner(equation: JaxprEqn) -> list[ClosedJaxpr | Jaxpr]:
    """Returns the jaxprs among the parameters of a call: jit, remat, custom rules of differentiation, while, cond."""
    parameters = jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr))
    return [x for x in parameters if isinstance(x, ClosedJaxpr | Jaxpr)]


def _dot_flops(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = _shape(equation.invars[0])
    return 2 * _size(equation.outvars[0]) * math.prod(shape[axis] for axis in contracted)


def _convolution_flops(equation: JaxprEqn) -> int:
    """Returns 2 · (products of an input and a kernel element), without those with padding and with dilation's holes."""
    p = equation.params
    numbers = p["dimension_numbers"]
    inputs, kernel, output = map(_shape, (*equation.invars, *equation.outvars))
    batch, features = inputs[numbers.lhs_spec[0]], inputs[numbers.lhs_spec[1]]
    products = batch // p["batch_group_count"] * (features // p["feature_group_count"]) * output[numbers.out_spec[1]]
    axes = zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:])
    for i, (lhs, rhs, out) in enumerate(axes):
        taps = np.arange(kernel[rhs]) * p["rhs_dilation"][i]
        at = np.arange(output[out])[:, None] * p["window_strides"][i] + taps - p["padding"][i][0]
        hole = p["lhs_dilation"][i]
        products *= int(np.sum((at >= 0) & (at % hole == 0) & (at <= (inputs[lhs] - 1) * hole)))
    return 2 * products


def _integer_power_flops(equation: JaxprEqn) -> int:
    """Returns the products of repeated squaring: x³ takes two, and a negative power one division more."""
    power = equation.params["y"]
    bits = bin(abs(power))[2:]
    return _size(equation.outvars[0]) * (len(bits) - 1 + bits.count("1") - 1 + (power < 0))


def _fft_flops(equation: JaxprEqn) -> int:
    """Returns 8 · n · log₂ n for each of the transforms, n being the real length: four fused products an element."""
    lengths = equation.params["fft_lengths"]
    size = max(map(_size, (*equation.invars, *equation.outvars)))
    return round(8 * size * math.log2(math.prod(lengths)))


def _shard_map_flops(equation: JaxprEqn) -> int:
    """Returns the FLOPs of all devices: the body sees the shapes of one."""
    # The parameter is called manual_axes or newly_manual_axes by different versions of jax.
    axes = next(value for name, value in equation.params.items() if name.endswith("manual_axes"))
    return _jaxpr_flops(equation.params["jaxpr"]) * math.prod(equation.params["mesh"].shape[axis] for axis in axes)


SPECIAL = {
    "dot_general": _dot_flops,
    "conv_general_dilated": _convolution_flops,
    "integer_pow": _integer_power_flops,
    "logistic": lambda equation: 3 * _size(equation.outvars[0]),  # 1 / (1 + exp(−x))
    "fft": _fft_flops,
    "scan": lambda equation: equation.params["length"] * _jaxpr_flops(equation.params["jaxpr"]),
    "cond": lambda equation: max(map(_jaxpr_flops, equation.params["branches"])),
    "shard_map": _shard_map_flops,
}
