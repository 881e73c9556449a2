"""What does a scene sound like?

Two seconds at 16 kHz, in five slots of 0.4 s. The objects sound one after another, from left to right, one a slot;
the slots that are left over are silent. Within its slot a tone starts up to 0.08 s late and lasts 0.32 s. Of its
object it tells

    colour    pitch: the fundamental lies in `BANDS[colour]` (Hz), anywhere in it
    shape     timbre: which of the partials 1 to 5 sound (`TIMBRES`); the fundamental is the strongest
    size      loudness: root mean square `LOUDNESS[size]` of the undamped tone, full scale being 1
    texture   envelope: solid holds, striped swells 12.5 times a second, dotted beats 31.25 times a second

It says nothing of height, background and light. Bands are 0.4 octaves apart and 0.2 wide, so a pitch belongs to one.
"""

import functools
import random
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from input_pipeline.sources.scenes.world import COLOURS, MOST_OBJECTS, SceneObject
from mmfuse.types import AUDIO_RATE

SLOT = AUDIO_RATE * 2 // MOST_OBJECTS  # samples
TONE = AUDIO_RATE * 8 // 25  # samples
BANDS: dict[str, tuple[float, float]] = {
    colour: (200.0 * 2 ** (0.4 * step - 0.1), 200.0 * 2 ** (0.4 * step + 0.1)) for step, colour in enumerate(COLOURS)
}
TIMBRES: dict[str, tuple[int, ...]] = {
    "circle": (1,),
    "triangle": (1, 2),
    "square": (1, 3),
    "diamond": (1, 4),
    "cross": (1, 5),
    "heart": (1, 2, 3),
    "moon": (1, 2, 4),
    "star": (1, 2, 3, 4, 5),
}
LOUDNESS = {"small": 0.08, "medium": 0.16, "large": 0.32}

_PARTIAL = 0.6  # amplitude of a partial; the fundamental has 1
_BEATS = {"solid": 0, "striped": 4, "dotted": 10}  # a tone
_CYCLE = 4096  # samples of one period in the table: nearest look-up is then 60 dB below the tone


def synthesise(objects: Sequence[SceneObject], rng: random.Random) -> Float[np.ndarray, "f"]:
    """Returns the waveform of objects that stand in order from left to right: (32000,) float32 in [-1, 1]."""
    wave = np.zeros(MOST_OBJECTS * SLOT, np.float32)
    for place, thing in enumerate(objects):
        start = place * SLOT + rng.randint(0, SLOT - TONE)
        pitch, phase = rng.uniform(*BANDS[thing.colour]), rng.random()
        steps = (np.arange(TONE, dtype=np.float32) * np.float32(pitch / AUDIO_RATE) + np.float32(phase)) * _CYCLE
        period = _period(thing.shape)[steps.astype(np.int32) % _CYCLE]
        wave[start : start + TONE] = period * (_envelope(thing.texture) * np.float32(LOUDNESS[thing.size]))
    return wave


@functools.cache
def _period(shape: str) -> Float[np.ndarray, "k"]:
    """Returns one period of a shape's tone, with root mean square 1."""
    turn = 2 * np.pi * np.arange(_CYCLE) / _CYCLE
    period = sum((1.0 if k == 1 else _PARTIAL) * np.sin(k * turn) for k in TIMBRES[shape])
    return (period / np.sqrt(np.mean(period**2))).astype(np.float32)


@functools.cache
def _envelope(texture: str) -> Float[np.ndarray, "f"]:
    """Returns the envelope of a tone: 10 ms of rise and fall, and between them beats down to a fifth."""
    time = np.arange(TONE) / TONE
    rise = np.minimum(np.minimum(time, 1 - time) * (TONE / (AUDIO_RATE / 100)), 1)
    return (rise * (0.6 + 0.4 * np.cos(2 * np.pi * _BEATS[texture] * time))).astype(np.float32)
