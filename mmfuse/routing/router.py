"""Which modalities take part, decided before any tower runs?

    reliability   r_m = MLP_m(probe of the raw signal), a logit for each modality
    logits        r_m + MLP(what is present, σ(r) of it, the task)
    gates         of the logits; in training each routing group then keeps its likeliest (`capacity.py`)

The task is what the batch asks of the memory: to be matched with captions, to be spoken of, or both. With the codes of
presence and task this is the dynamic assignment of modalities to a task; with the probes it also notices what cannot be
relied on. In evaluation one modality at least is open wherever any is there, and no more than are wanted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from mmfuse.routing.capacity import choose, on_open, room, taken
from mmfuse.routing.evidence import Probe
from mmfuse.routing.gates import Gate, Gates, among_highest, anneal, straight_through
from mmfuse.types import Batch, Signal, Text

MATCHED, SPOKEN = ("caption",), ("prompt", "target")  # roles of text


class Moment(NamedTuple):
    """When in training a batch is read: a key for what is drawn, and the number of updates done before."""

    key: Array
    step: Int[Array, ""]


class Reliability(nnx.Module):
    """How far one modality can be relied on: a logit, from the statistics of its probe."""

    def __init__(self, probe: Probe, hidden: int, *, rngs: nnx.Rngs):
        self.probe = probe
        self.up, self.down = nnx.Linear(probe.number, hidden, rngs=rngs), nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, part: Signal | Text, present: Bool[Array, "B"]) -> Float[Array, "B"]:
        """The logit where the modality is present, 0 elsewhere, whatever stands there."""
        statistics = jnp.where(present[:, None], self.probe(part), 0.0)
        return jnp.where(present, self.down(jax.nn.relu(self.up(statistics)))[:, 0], 0.0)


class Router(nnx.Module):
    """Gates for the modalities that are named; others always take part."""

    def __init__(
        self,
        probes: Mapping[str, Probe],
        gate: Gate,
        *,
        costs: Mapping[str, float],
        capacity: Mapping[str, float],
        ladder: Sequence[float],
        groups: int,
        hidden: int,
        temperature: Mapping[str, float],
        at_most: int | None = None,
        open_at_first: float = 2.0,
        learns: bool = True,
        rngs: nnx.Rngs,
    ):
        """Builds the probes' networks and the one that joins them.

        Args:
          probes: modality → its probe.
          gate: what makes decisions of logits.
          costs: modality → FLOPs of its tower for one example.
          capacity: modality → share of each group that its tower reads in training.
          ladder: shares among which evaluation finds the one that has room; the last is 1.
          groups: of a batch, in training and in evaluation.
          hidden: width of the networks.
          temperature: arguments of `anneal`; its end holds in evaluation.
          at_most: modalities that evaluation opens, the likeliest ones; None: as many as there are.
          open_at_first: the logit of all gates before anything is learned.
          learns: whether the logits have a gradient in training. A gate that is open feels what a little more would be
            worth: next to nothing, and noise; what it learned while all was read is better kept.
          rngs: draws the parameters.
        """
        self.modalities = tuple(probes)
        self.gate, self.groups, self.ladder = gate, groups, tuple(ladder)
        self.capacity = tuple(capacity[name] for name in probes)
        total = sum(costs[name] for name in probes)
        self.shares = tuple(costs[name] / total for name in probes)
        self.temperature = tuple(temperature[key] for key in ("start", "end", "steps"))
        self.at_most, self.open_at_first, self.learns = at_most or len(probes), open_at_first, learns
        self.reliability = nnx.Dict({name: Reliability(probe, hidden, rngs=rngs) for name, probe in probes.items()})
        number = len(probes)
        self.up = nnx.Linear(2 * number + 2, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, number, kernel_init=nnx.initializers.zeros, rngs=rngs)

    @property
    def costs(self) -> dict[str, float]:
        """The share of each modality's tower in the cost of all that are named."""
        return dict(zip(self.modalities, self.shares))

    def __call__(self, batch: Batch, moment: Moment | None = None) -> dict[str, Gates]:
        """Gates (B) of each modality that the batch has; in evaluation, where there is no moment, none is drawn."""
        logits, present = self.logits(batch)
        logits = logits if self.learns else jax.lax.stop_gradient(logits)
        start, end, steps = self.temperature
        if moment is None:
            gates = self._within_bounds(self.gate(logits, present, temperature=end), present)
        else:
            temperature = anneal(moment.step, start=start, end=end, steps=steps)
            gates = self.gate(logits, present, temperature=temperature, key=moment.key)
            gates = self._within_capacity(gates, present)
        return {
            name: Gates(*(part[:, index] for part in gates))
            for index, name in enumerate(self.modalities)
            if name in batch.signals or name in batch.text
        }

    def read_open(self, read: Callable, part: Any, name: str, gates: Gates, moment: Moment | None) -> Any:
        """What `read` makes of the part of a batch that is the modality, for the examples with an open gate alone."""
        rows = len(gates.open)
        ladder = self.ladder if moment is None else (self.capacity[self.modalities.index(name)],)
        return on_open(read, part, gates.open, groups=math.gcd(rows, self.groups), ladder=ladder)

    def logits(self, batch: Batch) -> tuple[Float[Array, "B M"], Bool[Array, "B M"]]:
        """The logits of the gates, and which modalities are there (B M)."""
        rows = len(batch.valid)
        parts = {name: batch.signals.get(name, batch.text.get(name)) for name in self.modalities}
        none = jnp.zeros(rows, bool)
        there = [none if part is None else batch.present(name).any(axis=1) for name, part in parts.items()]
        present = jnp.stack(there, axis=1)
        relied = [
            jnp.zeros(rows) if part is None else self.reliability[name](part, present[:, index])
            for index, (name, part) in enumerate(parts.items())
        ]
        reliability = jnp.stack(relied, axis=1)
        task = jnp.array([[any(role in batch.text for role in roles) for roles in (MATCHED, SPOKEN)]], jnp.float32)
        known = [present.astype(jnp.float32), jnp.where(present, jax.nn.sigmoid(reliability), 0.0)]
        joined = jnp.concatenate([*known, jnp.broadcast_to(task, (rows, 2))], axis=1)
        return reliability + self.down(jax.nn.relu(self.up(joined))) + self.open_at_first, present

    def _within_capacity(self, gates, present):
        """Each group's likeliest, as many as the capacity, also of those that a gate would shut that is not strict.

        What was drawn has no say in their order: it would leave out what can be relied on, for what cannot.
        """
        rows, columns = len(present), []
        candidates = gates.wanted if self.gate.strict else present
        for index, share in enumerate(self.capacity):
            number = room(rows, self.groups, share)
            score = jax.lax.stop_gradient(gates.soft[:, index])
            columns.append(taken(choose(score, candidates[:, index], groups=self.groups, number=number), rows))
        decision = jnp.stack(columns, axis=1)
        value = jnp.where(decision & gates.open, gates.value, straight_through(decision, gates.soft))
        return Gates(decision, value, gates.soft, gates.wanted)

    def _within_bounds(self, gates, present):
        """Those that are open, the likeliest alone where they are too many; the likeliest where none is."""
        wanted = jnp.where(gates.open, 1 + gates.soft, jnp.where(present, gates.soft, -jnp.inf))
        few, one = among_highest(wanted, self.at_most), among_highest(wanted, 1)
        decision = present & jnp.where(gates.open, few, one)
        value = jnp.where(decision, jnp.where(gates.open, gates.value, 1.0), 0.0)
        return Gates(decision, value, gates.soft, gates.wanted)
