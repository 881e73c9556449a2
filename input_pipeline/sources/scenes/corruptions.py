"""How is a signal spoiled, and by how much?

A corruption has a kind and a level from 0, which changes nothing, to 1, the worst:

    darkness     image × (1 − level)                          1: black
    noise        (1 − level) × image + level × uniform noise  1: noise alone
    occlusion    a mid-grey square, of `level` of the area    1: nothing else is left
    audio_noise  (1 − level) × wave + level × uniform noise   1: noise alone, in [-1, 1]
    gaps         words of the description become "…", each with the probability `level`
    swap         that of another example                      always 1
    alter        that of a near miss: one attribute differs   always 1
    missing      no signal                                    always 1

This file draws what befalls a signal, and spoils it. The last three concern the whole example: see `source.py`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num, UInt8

from input_pipeline.sources.scenes.arguments import one_of
from mmfuse.types import ConfigError

WHOLE = ("swap", "alter", "missing")  # kinds that have no level of their own
# The kinds that may befall each modality.
KINDS: dict[str, tuple[str, ...]] = {
    "image": ("darkness", "noise", "occlusion", *WHOLE),
    "audio": ("audio_noise", *WHOLE),
    "description": ("gaps", "swap", "alter"),
}
GAP = "…"

Picture = UInt8[np.ndarray, "h w 3"]
Wave = Float[np.ndarray, "f"]


class Chance(NamedTuple):
    """How often a kind is drawn, and at which level: None is uniform in (0, 1]."""

    kind: str
    share: float
    level: float | None


def chances(spec: Mapping[str, Any]) -> dict[str, tuple[Chance, ...]]:
    """Returns for each modality what may befall it.

    Args:
      spec: kind → share of the examples, or (share, fixed level); both from 0 to 1.

    Raises:
      ConfigError: for an unknown kind, a share or level outside [0, 1], or shares that sum to more than 1.
    """
    found = [_chance(kind, value) for kind, value in spec.items()]
    plan = {modality: tuple(c for c in found if c.kind in kinds) for modality, kinds in KINDS.items()}
    for modality, befalling in plan.items():
        total = sum(chance.share for chance in befalling)
        if total > 1 + 1e-9:
            raise ConfigError(
                f"corruptions: the shares that befall {modality} sum to {total:g}; a signal suffers one corruption at "
                "most, so lower them until they sum to 1 or less"
            )
    return plan


def _chance(kind: str, value: Any) -> Chance:
    one_of("corruptions", kind, sorted({kind for kinds in KINDS.values() for kind in kinds}))
    match value:
        case float() | int() as share:
            level = None
        case (float() | int() as share, float() | int() as level):
            pass
        case _:
            raise ConfigError(f"corruptions[{kind!r}]: {value!r} cannot be read; write a share, or (share, level)")
    if kind in WHOLE:
        if level not in (None, 1):
            raise ConfigError(f"corruptions[{kind!r}]: it has no level, got {level}; write its share alone")
        level = 1.0
    for name, number in (("share", share), ("level", 0 if level is None else level)):
        if not 0 <= number <= 1:
            raise ConfigError(f"corruptions[{kind!r}]: {name} {number} is outside [0, 1]; write a number within")
    return Chance(kind, float(share), None if level is None else float(level))


def draw(befalling: Sequence[Chance], rng: random.Random) -> tuple[str, float] | None:
    """Returns the (kind, level) that befalls a signal, or None."""
    ticket, level = rng.random(), 1 - rng.random()
    for chance in befalling:
        if ticket < chance.share:
            return chance.kind, level if chance.level is None else chance.level
        ticket -= chance.share
    return None


def spared(reliable: Sequence[float | int], rng: random.Random) -> list[str]:
    """Returns the modalities that nothing befalls: as many as is drawn, 1, 2, … with the weights of `reliable`."""
    number = rng.choices(range(1, len(reliable) + 1), reliable)[0]
    return rng.sample(tuple(KINDS), number)


def certain(befalling: Sequence[Chance]) -> tuple[Chance, ...]:
    """Returns the same kinds in the same proportions, one of which befalls for sure."""
    total = sum(chance.share for chance in befalling)
    return tuple(chance._replace(share=chance.share / total) for chance in befalling)


def tear(text: str, level: float, rng: random.Random) -> str:
    """Returns a description with gaps."""
    return " ".join(GAP if rng.random() < level else word for word in text.split())


def spoil(signal: Num[np.ndarray, "..."], kind: str, level: float, rng: random.Random) -> Num[np.ndarray, "..."]:
    """Returns the signal under a corruption that has a level; shape and dtype stay."""
    return _SPOIL[kind](signal, np.float32(level), np.random.default_rng(rng.getrandbits(64)))


def _darkness(image: Picture, level: np.float32, _: np.random.Generator) -> Picture:
    return np.rint(image * (1 - level)).astype(np.uint8)


def _noise(image: Picture, level: np.float32, noise: np.random.Generator) -> Picture:
    return np.rint((1 - level) * image + level * 255 * noise.random(image.shape, np.float32)).astype(np.uint8)


def _occlusion(image: Picture, level: np.float32, place: np.random.Generator) -> Picture:
    image = image.copy()
    side = np.rint(np.sqrt(level) * np.array(image.shape[:2])).astype(int)
    top, left = place.integers(image.shape[:2] - side, endpoint=True)
    image[top : top + side[0], left : left + side[1]] = 127
    return image


def _audio_noise(wave: Wave, level: np.float32, noise: np.random.Generator) -> Wave:
    return (1 - level) * wave + level * noise.uniform(-1, 1, wave.shape).astype(np.float32)


_SPOIL: dict[str, Callable[..., Num[np.ndarray, "..."]]] = {
    "darkness": _darkness,
    "noise": _noise,
    "occlusion": _occlusion,
    "audio_noise": _audio_noise,
}
