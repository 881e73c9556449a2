"""Which example is number i of the procedural scenes?

An example is a pure function of (seed, split, index): each part has a generator of its own, so the texts are the same
whatever signals are made, and a signal that nobody asked for costs nothing. Nothing is stored and nothing is read.
"""

import operator
import random
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Num

from input_pipeline.sources.scenes import corruptions as corrupting
from input_pipeline.sources.scenes.arguments import one_of
from input_pipeline.sources.scenes.image import render
from input_pipeline.sources.scenes.language import captions, description
from input_pipeline.sources.scenes.questions import KINDS, ask
from input_pipeline.sources.scenes.sound import synthesise
from input_pipeline.sources.scenes.world import MOST_OBJECTS, PAIRS, Scene, alter, sample_scene
from mmfuse.types import ConfigError, Example

SIZES = {"train": 1_000_000, "validation": 2_048, "test": 2_048, "test_systematic": 2_048}
SIGNALS = ("image", "audio")
LEAST_CANVAS = 32  # pixels; below it shapes and textures cannot be told apart


class Scenes:
    """A source of scenes with pictures, sounds, texts and their ground truth.

    Args:
      split: train, validation, test, or test_systematic, whose (shape, colour) pairs occur in no other split.
      signals: the modalities to make: image (canvas canvas 3) uint8, audio (32000,) float32.
      size: number of examples; by default one of `SIZES`.
      canvas: height and width of the picture in pixels.
      objects: how many a scene has, the fewest and the most; 5 are the most of all.
      seed: another seed is another data set.
      corruptions: kind → share of the examples, or (share, level). See `corruptions.py`.
      reliable: the weights of 1, 2 and 3 modalities (image, audio, description) of an example being left as they are;
        each of the others is spoiled for sure, by the corruptions in proportion to their shares. None: each modality
        is spoiled as often as the shares say, whatever befell the others.
      questions: the kinds that are asked; none named: all of them.

    `truth` of an example has `objects` (from left to right, see `SceneObject`), `background`, `light`, `corruptions`
    (modality → (kind, level)) and, where image is among the signals, `masks` (n h w) of the visible pixels.
    Texts and truth are always those of the true scene, whatever befell its signals; a description may have gaps. The
    foil is the description of a near miss.

    Raises:
      ConfigError: for an argument that makes no data set.
    """

    def __init__(
        self,
        split: str,
        *,
        signals: Sequence[str] = ("image", "audio"),
        size: int | None = None,
        canvas: int = 64,
        objects: tuple[int, int] = (1, MOST_OBJECTS),
        seed: int = 0,
        corruptions: Mapping[str, Any] | None = None,
        reliable: Sequence[float | int] | None = None,
        questions: Sequence[str] = (),
    ):
        self._split = one_of("split", split, tuple(PAIRS))
        self._signals = tuple(one_of("signals", name, SIGNALS) for name in signals)
        self._size = SIZES[split] if size is None else size
        self._canvas = canvas
        self._objects = fewest, most = objects
        self._seed = seed
        self._chances = corrupting.chances(corruptions or {})
        self._reliable = reliable and tuple(reliable)
        self._kinds = tuple(one_of("questions", name, tuple(KINDS)) for name in questions)
        if self._size < 1:
            raise ConfigError(f"size: {size} examples are none; write 1 or more")
        if canvas < LEAST_CANVAS:
            raise ConfigError(f"canvas: {canvas} pixels are too few to tell shapes apart; write {LEAST_CANVAS} or more")
        if not 1 <= fewest <= most <= MOST_OBJECTS:
            raise ConfigError(f"objects: {fewest} to {most} is no range; write two numbers of 1 to {MOST_OBJECTS}")
        if self._size < 2 and (corruptions or {}).get("swap"):
            raise ConfigError("corruptions['swap']: one example has no other to swap with; raise size, or drop swap")
        if self._reliable is not None:
            self._check_reliable(self._reliable)
            self._chances = {modality: corrupting.certain(chances) for modality, chances in self._chances.items()}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: SupportsIndex) -> Example:
        index = operator.index(index)
        if not 0 <= index < self._size:
            raise IndexError(f"scenes/{self._split} has examples 0 to {self._size - 1}, asked for {index}")
        scene = self._scene(index)
        signals, masks = self._make(index, scene)
        signals, told, befallen = self._corrupt(index, scene, signals)
        truth = {"objects": scene.objects, "background": scene.background, "light": scene.light}
        key = f"{self._split}/{index}"
        return Example(
            key=key,
            concept=key,
            signals=signals,
            captions=captions(scene, self._generator(index, "captions")),
            questions=ask(scene, self._generator(index, "questions"), self._kinds),
            description=told,
            foil=description(alter(scene, self._generator(index, "foil"))),
            truth=truth | masks | {"corruptions": befallen},
        )

    def _generator(self, index: int, part: str) -> random.Random:
        # Seeding with a string hashes it: streams of neighbouring indices are independent, on every platform.
        return random.Random(f"{self._seed}/{self._split}/{index}/{part}")

    def _scene(self, index: int) -> Scene:
        return sample_scene(self._split, self._canvas, self._generator(index, "scene"), self._objects)

    def _make(self, index: int, scene: Scene) -> tuple[dict[str, Num[np.ndarray, "..."]], dict[str, Any]]:
        """Returns the clean signals, and with an image the masks."""
        signals: dict[str, Num[np.ndarray, "..."]] = {}
        masks: dict[str, Bool[np.ndarray, "n h w"]] = {}
        if "image" in self._signals:
            signals["image"], masks["masks"] = render(scene)
        if "audio" in self._signals:
            signals["audio"] = synthesise(scene.objects, self._generator(index, "audio"))
        return signals, masks

    def _corrupt(
        self, index: int, scene: Scene, clean: dict[str, Num[np.ndarray, "..."]]
    ) -> tuple[dict[str, Num[np.ndarray, "..."]], str, dict[str, tuple[str, float]]]:
        """Returns what is left of the signals and of the description, and what befell them."""
        signals, told, befallen = dict(clean), description(scene), {}
        for modality in (*clean, "description"):
            rng = self._generator(index, f"corruption of {modality}")
            drawn = None if modality in self._spared(index) else corrupting.draw(self._chances[modality], rng)
            if drawn is None:
                continue
            kind, level = befallen[modality] = drawn
            if kind == "missing":
                del signals[modality]
            elif kind in ("swap", "alter"):
                of, other = self._other(kind, index, scene, rng)
                if modality == "description":
                    told = description(other)
                else:
                    signals[modality] = self._make(of, other)[0][modality]
            elif kind == "gaps":
                told = corrupting.tear(told, level, rng)
            else:
                signals[modality] = corrupting.spoil(signals[modality], kind, level, rng)
        return signals, told, befallen

    def _other(self, kind: str, index: int, scene: Scene, rng: random.Random) -> tuple[int, Scene]:
        """Returns the scene that a modality is of instead, and the index by which its signals are made."""
        if kind == "alter":
            return index, alter(scene, rng)
        of = (index + rng.randint(1, self._size - 1)) % self._size
        return of, self._scene(of)

    def _spared(self, index: int) -> Sequence[str]:
        return corrupting.spared(self._reliable, self._generator(index, "spared")) if self._reliable else ()

    def _check_reliable(self, reliable: Sequence[float | int]) -> None:
        number = len(corrupting.KINDS)
        if len(reliable) != number or min(reliable) < 0 or sum(reliable) <= 0:
            raise ConfigError(
                f"reliable: {reliable} are no weights of 1 to {number} modalities; write {number}, none below 0"
            )
        for modality, chances in self._chances.items():
            if not sum(chance.share for chance in chances):
                raise ConfigError(f"reliable: no corruption befalls {modality}; give one of its kinds a share")
