"""Are these the numbers that were written?

One number for each array, the same on any sharding, computed where the array lies:

    Σ_i (2i + 1) · bits_i  mod 2³²        bits_i: the i-th number of the array as an integer

A weight that is odd has an inverse, so that one number that has changed, by a bit or by all, always changes the sum;
any other damage does but for one case in 2³². Sums of integers do not depend on their order.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# By bytes; a number of 8 is two.
INTEGERS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def checksums(leaves: Mapping[str, Array]) -> dict[str, int]:
    """Name → checksum of each array; waits for them."""
    groups: dict[frozenset, dict[str, Array]] = {}  # a program runs on one set of devices
    for name, leaf in leaves.items():
        groups.setdefault(frozenset(leaf.sharding.device_set), {})[name] = leaf
    found = jax.device_get([_sums(group) for group in groups.values()])
    return {name: int(sums[name]) for sums in found for name in sums}


@jax.jit
def _sums(leaves):
    return {name: _sum(leaf) for name, leaf in leaves.items()}


def _sum(array):
    array = array.astype(jnp.uint8) if array.dtype == bool else array
    bits = jax.lax.bitcast_convert_type(array, INTEGERS[array.dtype.itemsize]).astype(jnp.uint32)
    place, step = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):  # not reshaped: a part of the array stays where it is
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * np.uint32(step % 2**32)
        step *= bits.shape[axis]
    return (bits * (2 * place + 1)).sum(dtype=jnp.uint32)
