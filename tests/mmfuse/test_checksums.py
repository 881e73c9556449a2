"""Sums against numpy, over shardings, and over every single change of a bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmfuse.training.checksums import checksums

ROWS, COLUMNS = 6, 5
INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def array(dtype, shape=(ROWS, COLUMNS)):
    bits = np.random.default_rng(0).integers(0, 2**16, shape)
    return (bits % 2).astype(bool) if dtype is bool else (bits.astype(np.float64) / 7).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.int32, np.uint8, bool])
@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (7,), (), (2, 3, 5), (0, 3)])
def test_a_sum_is_that_of_weighted_integers(dtype, shape):
    numbers = np.asarray(array(dtype, shape))
    integers = [int(number) for number in numbers.reshape(-1).view(INTEGERS[numbers.dtype.itemsize])]
    expected = sum((2 * place + 1) * number for place, number in enumerate(integers)) % 2**32
    assert checksums({"a": jnp.asarray(numbers)}) == {"a": expected}


def test_a_sum_does_not_depend_on_the_sharding():
    numbers, mesh = jnp.asarray(array(np.float32)), jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    spread = {
        str(axes): jax.device_put(numbers, NamedSharding(mesh, PartitionSpec(*axes)))
        for axes in ((), ("data",), (("data",), None))
    }
    assert set(checksums({"one": numbers, **spread}).values()) == set(checksums({"one": numbers}).values())


def test_every_bit_counts():
    numbers = np.asarray(array(np.float32, (3, 2)))
    (right,) = checksums({"a": jnp.asarray(numbers)}).values()
    for place in range(numbers.size):
        for bit in range(32):
            changed = numbers.copy()
            changed.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            assert checksums({"a": jnp.asarray(changed)}) != {"a": right}
