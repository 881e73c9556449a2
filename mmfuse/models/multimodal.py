"""How do towers and heads make one model?

Two phases: `encode` runs the towers and makes a memory; heads read it. The dual tower's embeddings are in the memory;
the single tower decodes text over it. Towers are owned here, once, and shared by whatever reads them.
"""

from collections.abc import Mapping
from typing import cast

import jax.numpy as jnp
from flax import nnx

from mmfuse.models.dual_tower import DualTower
from mmfuse.models.memory import Memory, join_items, valid_values
from mmfuse.models.single_tower import SingleTower
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

    def _remember(self, memory, name, tower, out, item_mask, anchor):
        memory.tokens[name], pooled = join_items(out, item_mask, anchor)
        if self.dual is not None and tower in self.dual.projections:
            # each caption has an embedding of its own; the items of a signal share one
            vectors = out.pooled.reshape(*item_mask.shape, -1) if name == "caption" else pooled[:, None]
            memory.embeddings[name] = self.dual.embed(tower, vectors)
        memory.aux.update({f"{name}/{key}": scalar for key, scalar in out.aux.items()})
        if out.trace:
            memory.trace[name] = out.trace
