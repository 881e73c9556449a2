"""How do towers and heads make one model?

Two phases: `encode` runs the towers and makes a memory; heads read it. The dual tower's embeddings are in the memory;
the single tower decodes text over it. Towers are owned here, once, and shared by whatever reads them.
"""

from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from mmfuse.fusion.prefix import ModalityPrefix, Told, expected_alignment
from mmfuse.models.dual_tower import DualTower
from mmfuse.models.memory import Memory, in_views, join_items, keep_tokens, valid_values
from mmfuse.models.single_tower import SingleTower
from mmfuse.routing.answers import AnswerConsensus
from mmfuse.routing.capacity import keep_rows
from mmfuse.routing.consensus import NO_AGREEMENT, Agreement, Consensus
from mmfuse.routing.gates import Gates
from mmfuse.routing.router import Moment, Router
from mmfuse.routing.tokens import TokenSelection
from mmfuse.towers.vit import ViT
from mmfuse.types import ENCODED_ROLES, Batch, Text, Tokens

TEXT_TOWER = "text"
PREFIX = "prefix"  # the memory that says which modalities there are


class Multimodal(nnx.Module):
    """Towers, and a dual-tower head, a single-tower head, or both."""

    def __init__(
        self,
        towers: Mapping[str, nnx.Module],
        dual: DualTower | None,
        single: SingleTower | None,
        router: Router | None = None,
        prefix: ModalityPrefix | None = None,
        consensus: Consensus | AnswerConsensus | None = None,
        keep: Mapping[str, TokenSelection] | None = None,
    ):
        """Args: `towers` by the name of their signal; `text` reads the roles `source`, `foil` and `caption`. Of the
        memories that `keep` names, the best tokens alone are read."""
        self.towers = nnx.Dict(towers)
        self.dual = dual
        self.single = cast(SingleTower, single)  # whoever decodes has been validated to have one
        self.router = cast(Router, router)  # None where every tower reads every example
        self.prefix = prefix
        self.keep = nnx.Dict(keep or {})
        self.consensus = cast(Consensus | AnswerConsensus, consensus)  # None where all modalities are believed

    def encode(self, batch: Batch, probe: dict | None = None, moment: Moment | None = None) -> Memory:
        """Runs the towers of all signals, and of the texts that are to be encoded, in the batch.

        Where there is a router, the tower of a modality reads those examples alone for which its gate is open.

        Args:
          batch: a stream's rows.
          probe: signal name or text role → probe of that tower's stack. With one, tokens that are not kept stay where
            they were, as padding.
          moment: of training; None in evaluation, where routing does not depend on batch-mates.
        """
        gates = {} if self.router is None else self.router(batch, moment)
        memory = Memory({}, {}, {}, {}, gates)
        for name, signal in batch.signals.items():
            self._remember(memory, name, name, signal, probe, moment)
        for role in ENCODED_ROLES:
            if role in batch.text:
                self._remember(memory, role, TEXT_TOWER, batch.text[role], probe, moment)
        if self.consensus is not None:
            memory = self._without_the_odd(memory, self._compare(memory, batch, moment))
        if self.prefix is not None:
            key = None if moment is None else jax.random.fold_in(moment.key, 1)
            memory.tokens[PREFIX] = self.prefix(self._told(memory, batch), batch.valid, key)
        return memory

    def keep_evidence(self, memory: Memory, keep: Bool[Array, ""]) -> Memory:
        """The memory as it is; or, where `keep` is false, that of examples of which nothing is there: padding, behind a
        prefix that says so."""
        kept = keep_tokens(memory, dict.fromkeys(memory.tokens, keep))
        if self.prefix is not None:
            kept.tokens[PREFIX] = self.prefix.keep_told(memory.tokens[PREFIX], keep)
        return kept

    def _compare(self, memory: Memory, batch: Batch, moment: Moment | None) -> Agreement:
        """How far modalities agree. By their answers in evaluation alone: in training each is told what is right, and
        one that were shut where it errs would not learn."""
        if isinstance(self.consensus, Consensus):
            return self.consensus(memory.tokens)
        text = batch.text.get("prompt", batch.text.get("target"))
        names = [name for name in self.consensus.between if name in memory.tokens]
        if moment is not None or text is None or not names:
            return NO_AGREEMENT
        views = [*([name] for name in names), []]
        texts = Text(*(jnp.repeat(array, len(views), axis=0) for array in text))
        seen = in_views(memory, views, self.single.memories)
        answers, asked = self.single.first_words(texts, seen, self.consensus.questions)
        answers = answers.reshape(-1, len(views), *answers.shape[1:])
        found = {name: answers[:, view] for view, name in enumerate(names)}
        return self.consensus(memory.tokens, found, answers[:, -1], asked[:: len(views)])

    def _without_the_odd(self, memory: Memory, agreement: Agreement) -> Memory:
        """The memory, in which a modality that disagrees with the others is padding."""
        kept = {name: _gated(memory.tokens[name], gates) for name, gates in agreement.gates.items()}
        embedded = {
            name: _scaled(memory.embeddings[name], gates)
            for name, gates in agreement.gates.items()
            if name in memory.embeddings
        }
        return memory._replace(
            tokens=memory.tokens | kept, embeddings=memory.embeddings | embedded, agreement=agreement
        )

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

    def _told(self, memory, batch) -> Told:
        """What is known of the modalities that the prefix speaks of."""
        names = cast(ModalityPrefix, self.prefix).modalities
        none = jnp.zeros(len(batch.valid), bool)
        there = {name: batch.present(name).any(axis=1) if name in memory.tokens else none for name in names}
        part = {name: memory.taking_part(batch, name).any(axis=1) if name in memory.tokens else none for name in names}
        relied = [memory.gates[name].soft if name in memory.gates else part[name].astype(jnp.float32) for name in names]
        embedded = {name: memory.embeddings[name][:, 0] for name in names if name in memory.embeddings}
        aligned = expected_alignment(embedded, part)
        alignment = [aligned.get(name, jnp.zeros(len(batch.valid))) for name in names]
        columns = [*there.values()], [*part.values()], relied, alignment
        return Told(*(jnp.stack(column, axis=1) for column in columns))

    @property
    def _head(self) -> DualTower:
        return cast(DualTower, self.dual)  # whoever embeds has been validated to have one

    def _remember(self, memory, name, tower, part, probe, moment):
        looked_into, probe = probe is not None, (probe or {}).get(name)
        if name in memory.gates:
            tokens, vectors, aux, trace = self._read_open(name, tower, part, memory.gates[name], probe, moment)
        else:
            tokens, vectors, aux, trace = self._read(name, tower, part, probe)
        if name in self.keep:
            selection = self.keep[name]
            tokens = selection.in_place(tokens) if looked_into else selection(tokens)
        memory.tokens[name] = tokens
        if self.dual is not None and tower in self.dual.projections:
            embedded = self.dual.embed(tower, vectors)
            memory.embeddings[name] = _scaled(embedded, memory.gates[name]) if name in memory.gates else embedded
        memory.aux.update({f"{name}/{key}": scalar for key, scalar in aux.items()})
        if trace:
            memory.trace[name] = trace

    def _read(self, name, tower, part, probe):
        """The tokens of each example, its pooled vectors (B C D), and what else the tower says."""
        if isinstance(part, Text):
            arrays, mask, anchor = (part.ids, part.segment), part.present, jnp.zeros(part.present.shape, jnp.int32)
        else:
            arrays, mask, anchor = (valid_values(part), part.size), part.item_mask, part.anchor
        out = self.towers[tower](*(array.reshape(-1, *array.shape[2:]) for array in arrays), probe=probe)
        tokens, pooled = join_items(out, mask, anchor)
        # each caption has an embedding of its own; the items of a signal share one
        vectors = out.pooled.reshape(*mask.shape, -1) if name == "caption" else pooled[:, None]
        return tokens, vectors, out.aux, out.trace

    def _read_open(self, name, tower, part, gates, probe, moment):
        """The same for those examples alone for which the gate is open; nothing of the others."""
        aux, trace = {}, {}
        if probe is None:
            read = self.router.read_open(
                lambda part: self._read(name, tower, part, None)[:2], part, name, gates, moment
            )
        else:  # whoever looks into a tower has it read all
            *read, aux, trace = self._read(name, tower, part, probe)
            read = keep_rows(read, gates.open)
        tokens, vectors = read
        return _gated(tokens, gates), vectors, aux, trace


def _gated(tokens: Tokens, gates: Gates) -> Tokens:
    """Padding where the gate is shut; the gradient of how much it is open comes by what is read of its tokens."""
    segment = jnp.where(gates.open[:, None], tokens.segment, 0)
    return tokens._replace(values=_scaled(tokens.values, gates), segment=segment)


def _scaled(vectors: Float[Array, "B C E"], gates: Gates) -> Float[Array, "B C E"]:
    """Zero where the gate is shut. An open gate feels what more of a vector would be worth: in a contrastive loss, what
    the match is."""
    return vectors * gates.value[:, None, None].astype(vectors.dtype)
