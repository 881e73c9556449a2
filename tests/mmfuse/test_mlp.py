"""Activations: each by its formula."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from mmfuse.nn.mlp import ACTIVATIONS

POINTS = np.linspace(-4, 4, 33)
FORMULAS = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name):
    got = ACTIVATIONS[name](jnp.asarray(POINTS, jnp.float32))
    np.testing.assert_allclose(got, [FORMULAS[name](x) for x in POINTS], atol=2e-6)
