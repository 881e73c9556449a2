"""How do towers and heads make one model?

Two phases: `encode` runs the towers and makes a memory; heads read it. The dual tower's embeddings are in the memory;
the single tower decodes text over it. Towers are owned here, once, and shared by whatever reads them.
"""

from collections.abc import Mapping
from typing import cast

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from mmfuse.models.dual_tower import DualTower
from mmfuse.models.memory import Memory, join_items, valid_values
from mmfuse.models.single_tower import SingleTower
from mmfuse.towers.vit import ViT
from mmfuse.types import Batch

TEXT_TOWER = "text"
ENCODED_ROLES = ("source", "caption")


class Multimodal(nnx.Module):
    """Towers, and a dual-tower head, a single-tower head, or both."""

    def __init__(self, towers: Mapping[str, nnx.Module], dual: DualTower | None, single: SingleTower | None):
        """Args: `towers` by the name of their signal; `text` reads the roles `source` and `caption`."""
        self.towers = nnx.Dict(towers)
        self.dual = dual
        self.single = cast(SingleTower, single)  # whoever decodes has been validated to have one

    def encode(self, batch: Batch, probe: dict | None = None) -> Memory:
        """Runs the towers of all signals, and of the texts that are to be encoded, in the batch.

        Args:
          batch: a stream's rows.
          probe: signal name or text role → probe of that tower's stack.
        """
        memory = Memory({}, {}, {}, {})
        for name, signal in batch.signals.items():
            flat = [array.reshape(-1, *array.shape[2:]) for array in (valid_values(signal), signal.size)]
            out = self.towers[name](*flat, probe=(probe or {}).get(name))
            self._remember(memory, name, name, out, signal.item_mask, signal.anchor)
        for role in ENCODED_ROLES:
            if role in batch.text:
                text = batch.text[role]
                flat = [array.reshape(-1, array.shape[-1]) for array in (text.ids, text.segment)]
                out = self.towers[TEXT_TOWER](*flat, probe=(probe or {}).get(role))
                self._remember(memory, role, TEXT_TOWER, out, text.present, jnp.zeros(text.present.shape, jnp.int32))
        return memory

    def embed_image(self, pixels: Num[Array, "B h w c"]) -> Float[Array, "B E"]:
        """Unit embeddings of whole pictures.

        Args:
          pixels: integers 0…255, which the tower normalises; or floats that are normalised already.
        """
        tower = cast(ViT, self.towers["image"])
        size = jnp.broadcast_to(jnp.array(pixels.shape[1:3]), (len(pixels), 2))
        read = tower.read if jnp.issubdtype(pixels.dtype, jnp.floating) else tower
        return self._head.embed("image", read(pixels, size).pooled)

    def embed_patches(
        self, patches: Float[Array, "B P phwc"], mask: Num[Array, "B P"] | Bool[Array, "B P"], shape: Int[Array, "B 2"]
    ) -> Float[Array, "B E"]:
        """Unit embeddings of pictures of different shapes, cut into patches.

        Args:
          patches: normalised; those of a picture's grid row by row, then padding.
          mask: 0 or False where there is padding.
          shape: rows and columns of each grid.
        """
        index, columns = jnp.arange(patches.shape[1])[None], shape[:, 1:]
        position = jnp.stack([index // columns, index % columns], axis=-1).astype(jnp.float32)
        tower = cast(ViT, self.towers["image"])
        pooled = tower.read_patches(patches, position, mask.astype(bool).astype(jnp.int32), shape).pooled
        return self._head.embed("image", pooled)

    def embed_text(
        self, ids: Int[Array, "B T"], mask: Num[Array, "B T"] | Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B E"]:
        """Unit embeddings of texts. `mask` is 0 or False where there is padding; None: there is none."""
        segment = jnp.ones_like(ids) if mask is None else mask.astype(bool).astype(jnp.int32)
        return self._head.embed(TEXT_TOWER, self.towers[TEXT_TOWER](ids, segment).pooled)

    def similarity(self, image: Float[Array, "A E"], text: Float[Array, "B E"]) -> Float[Array, "A B"]:
        """The logits of unit embeddings: cosines, times the learned scale, plus the learned bias where there is one."""
        return self._head.logits(image, text)

    @property
    def _head(self) -> DualTower:
        return cast(DualTower, self.dual)  # whoever embeds has been validated to have one

    def _remember(self, memory, name, tower, out, item_mask, anchor):
        memory.tokens[name], pooled = join_items(out, item_mask, anchor)
        if self.dual is not None and tower in self.dual.projections:
            # each caption has an embedding of its own; the items of a signal share one
            vectors = out.pooled.reshape(*item_mask.shape, -1) if name == "caption" else pooled[:, None]
            memory.embeddings[name] = self.dual.embed(tower, vectors)
        memory.aux.update({f"{name}/{key}": scalar for key, scalar in out.aux.items()})
        if out.trace:
            memory.trace[name] = out.trace
