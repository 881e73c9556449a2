"""What does a signal tell before anybody reads it?

Thin probes: a few statistics of a quarter of the raw signal (every fourth row of a picture, a quarter of each part of a
sound), on a scale of about 1, so that a small network learns from them how far the modality can be relied on. That is
fewer than three operations a sample, whatever the towers cost:

    image   light, contrast, how rough it is, how much of it is flat
    audio   level, how much of it is silent, the quietest and the loudest part, how rough it is
    text    how long it is, how many of its tokens differ from one another

Rough is the root mean square of the differences of neighbours, by that of the deviations from the mean: √2 for white
noise, little for what is smooth.
"""

import dataclasses
from typing import ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from mmfuse.types import Signal, Text

PARTS = 20  # of a sound, whose levels are compared
THIN = 4  # one row of so many; of a part of a sound, the first of so many pieces
SILENT = 1e-3  # root mean square of a part, full scale being 1
FLAT = 2.0  # of 255: a difference of neighbours that nobody sees


@runtime_checkable
class Probe(Protocol):
    """The form that every probe has: what stands in a batch → so many (`number`) statistics of each example."""

    number: int

    def __call__(self, signal) -> Float[Array, "B F"]: ...


@dataclasses.dataclass(frozen=True)
class LightProbe:
    """Of pictures, one of the item that is first in each example: (light, contrast, roughness, flat share)."""

    number: ClassVar[int] = 4

    def __call__(self, signal: Signal) -> Float[Array, "B 4"]:
        grey = signal.values[:, 0, ::THIN].astype(jnp.float32).mean(axis=-1)  # (B h/4 w)
        inside = _inside(signal.size[:, 0], grey.shape[1:])
        light = _mean(grey, inside)
        deviation = jnp.sqrt(_mean(jnp.square(grey - light[:, None, None]), inside) + 1.0)
        steps = jnp.diff(grey, axis=2)
        both = inside[:, :, 1:]
        rough = jnp.sqrt(_mean(jnp.square(steps), both)) / deviation
        flat = _mean((jnp.abs(steps) < FLAT).astype(jnp.float32), both)
        return jnp.stack([light / 64 - 2, jnp.log2(deviation) - 4, 2 * rough - 1, 2 * flat - 1], axis=-1)


@dataclasses.dataclass(frozen=True)
class LevelProbe:
    """Of sounds: (level, silent share, quietest part, loudest part, roughness), levels in units of 20 dB."""

    number: ClassVar[int] = 5

    def __call__(self, signal: Signal) -> Float[Array, "B 5"]:
        wave, size = signal.values[:, 0], signal.size[:, 0, 0]
        length = wave.shape[1] // PARTS  # of a part
        heard = max(2, length // THIN)
        cut = wave[:, : length * PARTS].reshape(-1, PARTS, length)[:, :, :heard]
        place = length * jnp.arange(PARTS)[:, None] + jnp.arange(heard)[None]
        inside = place[None] < size[:, None, None]
        power = jnp.where(inside, jnp.square(cut), 0.0).mean(axis=2)
        step = jnp.where(inside[:, :, 1:], jnp.square(jnp.diff(cut, axis=2)), 0.0).mean(axis=(1, 2))
        level = power.mean(axis=1)
        rough = jnp.sqrt(step / jnp.maximum(level, 1e-8))
        silent = (power < SILENT**2).astype(jnp.float32).mean(axis=1)
        decades = [jnp.log10(jnp.maximum(x, 1e-8)) / 2 + 1 for x in (level, power.min(axis=1), power.max(axis=1))]
        return jnp.stack([decades[0], 2 * silent - 1, decades[1], decades[2], 2 * rough - 1], axis=-1)


@dataclasses.dataclass(frozen=True)
class LengthProbe:
    """Of texts: (share of the places that are filled, share of the tokens that are unlike the one before)."""

    number: ClassVar[int] = 2

    def __call__(self, text: Text) -> Float[Array, "B 2"]:
        filled = text.segment[:, 0] > 0
        length = filled.sum(axis=1).astype(jnp.float32)
        new = (jnp.diff(text.ids[:, 0], axis=1) != 0) & filled[:, 1:]
        share = new.sum(axis=1).astype(jnp.float32) / jnp.maximum(length - 1, 1.0)
        return jnp.stack([2 * length / filled.shape[1] - 1, 2 * share - 1], axis=-1)


PROBES: dict[str, type] = {"image": LightProbe, "audio": LevelProbe, "source": LengthProbe}


def _inside(size, shape):
    rows = THIN * jnp.arange(shape[0])[None] < size[:, 0, None]
    columns = jnp.arange(shape[1])[None] < size[:, 1, None]
    return rows[:, :, None] & columns[:, None, :]


def _mean(values, inside):
    number = jnp.maximum(inside.sum(axis=(1, 2)), 1).astype(values.dtype)
    return jnp.where(inside, values, 0.0).sum(axis=(1, 2)) / number
