"""Where did the model look while it wrote what it wrote for a batch of prompts?

One program for a batch: it reads what is written once more with probes, and keeps what a page can show: heads averaged,
the places of written tokens alone, and behind the layers the rollout. It writes nothing itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from mmfuse.analysis.rollout import roll_out
from mmfuse.analysis.trace import looks, trace, written_text
from mmfuse.models.multimodal import Multimodal
from mmfuse.towers.audio import AudioTower
from mmfuse.towers.convnet import ConvNet
from mmfuse.towers.vit import ViT
from mmfuse.training.state import TrainState
from mmfuse.types import Batch, Tokens


class Reading(NamedTuple):
    """What one program says of a batch: t tokens for each of C prompts of B examples, in M = L + 1 maps each.

    Attributes:
      heat: memory name → attention over its tokens: L fusion layers, then the rollout.
      tokens: memory name → what these tokens are.
      items: signal → how many of them an example has room for; their tokens follow one another.
      extent: rows and columns of the grid of each example's first picture, or None. Tokens of it that are not read are
        padding, as are those beyond it.
      spectrogram: of the sounds, or None.
      decided: modality → whether it takes part, and how likely that was, where it has a gate.
    """

    heat: dict[str, Float[Any, "M B C t S"]]
    tokens: dict[str, Tokens]
    items: dict[str, int]
    extent: Int[Any, "B 2"] | None
    spectrogram: Float[Any, "B frames bands"] | None
    decided: dict[str, tuple[Bool[Any, "B"], Float[Any, "B"]]]

    def upright(self, name: str, row: int, heat: Float[Any, "S"]) -> Float[Any, "rows columns"] | None:
        """Heat over the first item of a row's memory as its picture shows it; None of what is no picture.

        Of a picture that is its own part of the array, or all of it where there is none. Pictures of sounds have time
        to the right and pitch upwards.
        """
        position = np.asarray(self.tokens[name].position[row])
        if position.shape[-1] != 2:
            return None
        there = first = np.arange(len(position)) < len(position) // int(self.items[name])
        if name == "image" and self.extent is not None and self.extent[row].all():
            there = first & (position < self.extent[row]).all(axis=1)
        place = position[there].astype(int)
        grid = np.zeros(place.max(axis=0) + 1, heat.dtype)
        grid[tuple(place.T)] = heat[there]  # a class token is said to stand at the first place, and comes before it
        return grid.T[::-1] if name == "audio" else grid


def make_reading(
    merge: Callable[[TrainState], Multimodal],
) -> Callable[[TrainState, Batch, Int[Any, "B C t"]], Reading]:
    """The program that reads what was written for each text of the role `prompt`."""

    def read(state, batch, ids):
        model, prompt = merge(state), batch.text["prompt"]
        traced = trace(model, batch, written_text(prompt, ids))
        before = jnp.maximum((prompt.segment > 0).sum(axis=-1).reshape(-1, 1) - 1, 0)
        places = before + jnp.arange(ids.shape[-1])[None]
        rolled, heat = roll_out(traced), {}
        for name, by_layer in looks(traced).items():
            maps = jnp.concatenate([by_layer.mean(axis=2), rolled[name][None]])
            maps = jnp.take_along_axis(maps, places[None, :, :, None], axis=2)
            heat[name] = maps.reshape(len(maps), *ids.shape, -1)
        items = {name: signal.values.shape[1] for name, signal in batch.signals.items()}
        return Reading(heat, traced.tokens, items, extent(model, batch), spectrogram(model, batch), traced.decided)

    return read


def extent(model: Multimodal, batch: Batch) -> Int[Array, "B 2"] | None:
    """Rows and columns of the grid into which each example's first picture is cut; None where there is none."""
    if "image" not in batch.signals:
        return None
    tower = model.towers["image"]
    reach = tower.reach if isinstance(tower, ConvNet) else cast(ViT, tower).patch
    return -(-batch.signals["image"].size[:, 0] // jnp.array([reach]))


def spectrogram(model: Multimodal, batch: Batch) -> Float[Array, "B frames bands"] | None:
    """What the audio tower sees of each example's first sound; None where there is none."""
    tower = model.towers["audio"] if "audio" in batch.signals else None
    if not isinstance(tower, AudioTower):
        return None
    return tower.spectrogram(batch.signals["audio"].values[:, 0])
