"""How does a config become a run?

`Experiment` makes what a config describes, in the order in which one thing needs another, and nothing before it is
asked for: an abstract model costs no memory, and `dry_run` never makes a real one.
"""

import functools
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import jax
import optax
from ml_collections import ConfigDict

from input_pipeline.collate import collate
from input_pipeline.tokenizers import CaptionTokenizer
from mmfuse import build, build_data, build_goals
from mmfuse.analysis.report import report_path, reported_step
from mmfuse.describe import describe_batches, describe_cost, describe_state
from mmfuse.evaluation import Evaluation
from mmfuse.objectives.cost import count_flops
from mmfuse.phases import first_steps, phases_of
from mmfuse.training.checkpoint import Checkpointer
from mmfuse.training.loop import Program, Run, train
from mmfuse.training.metrics import MetricWriter
from mmfuse.training.optimizer import keep_part, make_optimizer
from mmfuse.training.processes import first_decides
from mmfuse.training.rules import named_leaves
from mmfuse.training.sharding import batch_sharding, batch_shards, make_mesh, replicated, rows_of
from mmfuse.training.state import StateMaker, TrainState
from mmfuse.training.step import check_pieces, make_step
from mmfuse.training.workdir import FREE, MEASURED_ON, alone, check_claimed, claim
from mmfuse.types import CheckpointError, ConfigError
from mmfuse.validate import validate
from mmfuse.weights.pretrained import load_weights, weight_hashes

LOGGER = logging.getLogger(__name__)
TOKENIZER, CHECKPOINTS = "tokenizer", "checkpoints"  # folders of the workdir


class Experiment:
    """A config's run in a workdir."""

    def __init__(self, config: ConfigDict, workdir: str | Path, asked: ConfigDict | None = None):
        """Refuses a config that cannot be run, and allocates nothing.

        Args:
          config: of `configs/`.
          workdir: the folder of the run, which need not be there.
          asked: the config before it was fitted to the data and the machine; None: it was not.

        Raises:
          ConfigError: what is wrong, and what to write instead.
        """
        self.config, self.workdir, self.asked = config, Path(workdir), asked
        self.mesh = make_mesh(**config.mesh)
        validate(config, shards=batch_shards(self.mesh))
        self.objectives = build_goals.make_objectives(config)
        for name, stream in self.objectives.items():
            check_pieces(name, stream)
        self.maker = StateMaker(
            lambda rngs: build.make_model(config, rngs),
            lambda params: _optimizer(config, params),
            frozen=config.optimizer.frozen,
            sharding=config.sharding,
            mesh=self.mesh,
        )

    def with_config(self, config: ConfigDict) -> "Experiment":
        """The run of a config that differs in its steps only: what has been read of the data need not be read again."""
        other = Experiment(config, self.workdir, self.asked)
        for known in {"tokenizer", "streams"} & vars(self).keys():
            setattr(other, known, getattr(self, known))
        return other

    @cached_property
    def tokenizer(self) -> CaptionTokenizer:
        """The workdir's tokenizer; the first start takes that of a folder, or learns it from the sources' texts."""
        return build_data.make_tokenizer(self.config, self.workdir / TOKENIZER)

    @cached_property
    def streams(self) -> dict:
        """Stream name → what gives the batch of step n at index n."""
        return {
            name: build_data.make_training_stream(
                self.config, name, self.tokenizer, mine=rows_of(self.mesh.local_devices, self.mesh, stream.rows)
            )
            for name, stream in self.config.streams.items()
        }

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self.maker.abstract,
            self.maker.shardings,
        )

    @cached_property
    def abstract_batches(self) -> dict:
        """Shapes, dtypes and shardings of one step's global batches; no record is read."""
        empty = {
            name: collate([], stream.rows, dict(stream.signals), build_data.make_text_specs(stream)).batch
            for name, stream in self.config.streams.items()
        }
        sharding = batch_sharding(self.mesh)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), empty)

    @cached_property
    def traced_step(self) -> jax.stages.Traced:
        """The step as a program, not yet compiled."""
        step = make_step(self.maker.graph, self.maker.optimizer, self.objectives, seed=self.config.seed)
        shardings = self.maker.shardings, batch_sharding(self.mesh)
        jitted = jax.jit(
            step, in_shardings=shardings, out_shardings=(shardings[0], replicated(self.mesh)), donate_argnums=0
        )
        return jitted.trace(self.abstract_state, self.abstract_batches)

    @cached_property
    def flops(self) -> float:
        """Model FLOPs of one step: what is computed a second time to save memory does not count."""
        plain = _without_remat(self.config)
        return count_flops((Experiment(plain, self.workdir) if plain else self).traced_step.jaxpr)

    @cached_property
    def evaluation(self) -> Evaluation:
        """What the run measures."""
        return Evaluation(self.config, self.workdir, self.tokenizer, self.maker.merge, self.mesh)

    def begin(self) -> TrainState:
        """The state before the first step: drawn, or with the parameters of the folder that `config.weights` names."""
        if "weights" not in self.config:
            return self.maker.create(self.config.seed)
        places = named_leaves(self.maker.shardings.trainable) | named_leaves(self.maker.shardings.frozen)
        return self.maker.adopt(load_weights(self.config.weights.folder, self.config, places))

    def restore(self) -> TrainState:
        """The newest checkpoint's state; where nothing is trained, that before the first step.

        Raises:
          CheckpointError: the workdir has no run, or one of another config, or one that has saved nothing.
        """
        if not self.config.streams:
            self._claim(free=FREE + MEASURED_ON)
            return self.begin()
        check_claimed(self.workdir, self.config)
        folder = self.workdir / CHECKPOINTS
        checkpointer = Checkpointer(folder, **self.config.checkpoint, read_only=True) if folder.exists() else None
        if checkpointer is None or checkpointer.latest_step() is None:
            raise CheckpointError(f"the run in {self.workdir} has saved nothing yet: go on with it first.")
        state, _ = checkpointer.restore(self.abstract_state)
        checkpointer.close()
        step, steps = int(state.step), self.config.train.steps
        if step < steps:
            LOGGER.info("the run in %s is not finished: this is step %d of %d", self.workdir, step, steps)
        return state

    # --- modes --------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Trains from where the workdir stands; writes `summary.json` and `report.html` at the end.

        Raises:
          DataError: what it is to be measured on is not there.
        """
        config = self.config
        if not config.streams:
            raise ConfigError("this config has no streams to learn from: evaluate what there is, --mode=evaluate.")
        self.evaluation.open()
        self._claim()
        with alone(self.workdir):
            self._train_alone()
        LOGGER.info("the run of %d steps is complete: look at %s", config.train.steps, report_path(self.workdir))

    def _train_alone(self):
        config = self.config
        checkpointer = Checkpointer(self.workdir / CHECKPOINTS, **config.checkpoint)
        writer = MetricWriter(self.workdir)
        try:
            state, steps = None, config.train.steps
            if not first_decides(checkpointer.latest_step() == steps and writer.is_evaluated(steps)):
                state = self._train(checkpointer, writer)
            if jax.process_index() == 0:
                last = (self.workdir / "evaluation.jsonl").read_text().splitlines()[-1]
                self.evaluation.summarize(json.loads(last))
            if not first_decides(reported_step(self.workdir) == steps):
                self.evaluation.report(state or checkpointer.restore(self.abstract_state)[0])
        finally:
            writer.close()
            checkpointer.close()

    def evaluate(self) -> None:
        """Evaluates the newest checkpoint, or where nothing is trained what there is.

        Writes `summary.json` and `report.html`, with `-{name}` where it has one.

        Raises:
          CheckpointError: as `restore`.
        """
        state, name = self.restore(), self.config.eval.name
        self.evaluation.summarize({"step": int(state.step), **self.evaluation.measure(state, name)}, name)
        self.evaluation.report(state, name)

    def describe(self) -> None:
        """Prints what the run would be: parameters, FLOPs, memory, a batch. Allocates nothing, and writes nothing."""
        print(describe_state(self.abstract_state))
        if not self.config.streams:
            return
        print(describe_batches(self.abstract_batches))
        print(describe_cost(self.traced_step.lower().compile(), self.flops, self.mesh))

    def _train(self, checkpointer, writer) -> TrainState:
        config = self.config
        program, firsts = self._programs(), first_steps(config, checkpointer.latest_step() or 0)
        # the compiler works beside what makes or restores the state; what it cannot compile is known before any step
        with ThreadPoolExecutor(1) as beside:
            compiling = beside.submit(lambda: [program(step) for step in firsts])
            state, tally = self._resume(checkpointer, writer)
            writer.rewind(int(state.step))
            compiling.result()
        rows = sum(stream.rows for stream in config.streams.values())
        run = Run(program, self.streams, self.evaluation.measure, self.mesh, checkpointer, writer, rows)
        return train(
            run,
            state,
            tally,
            steps=config.train.steps,
            log_every=config.log_every,
            evaluate_every=config.train.evaluate_every,
            workers=config.loader.workers,
            rejected_share=config.loader.rejected_share,
        )[0]

    def _programs(self) -> Callable[[int], Program]:
        """The program of each step: those of a phase have one, compiled when it is first asked for."""
        phases = [*phases_of(self.config)]

        @functools.cache
        def compiled(phase):
            config = phases[phase].config
            experiment = self if config is self.config else Experiment(config, self.workdir)
            return Program(experiment.traced_step.lower().compile(), experiment.flops)

        return lambda step: compiled(next(at for at, phase in enumerate(phases) if step <= phase.last))

    def _claim(self, free=FREE):
        sources = {name: build_data.make_source(source, ()) for name, source in self.config.sources.items()}
        data = {
            "tokenizer": self.tokenizer.sha256,
            "records": {name: len(source) for name, source in sources.items()},
            # of those that lie in files: others that have as many records are another run
            "files": {name: source.fingerprint for name, source in sources.items() if hasattr(source, "fingerprint")},
        }
        if "weights" in self.config:
            data["weights"] = weight_hashes(self.config.weights.folder)
        claim(self.workdir, self.config, data, free=free, asked=self.asked)
        folder = self.workdir / TOKENIZER
        if jax.process_index() == 0 and not folder.exists():
            fresh = folder.with_name(f"{TOKENIZER}.{os.getpid()}")
            self.tokenizer.save(fresh)
            fresh.rename(folder)  # whole or not at all

    def _resume(self, checkpointer, writer) -> tuple[TrainState, Counter]:
        if checkpointer.latest_step() is None:
            checkpointer.check_none_lost(writer.steps_recorded())
            return self.begin(), Counter()
        state, position = checkpointer.restore(self.abstract_state)
        LOGGER.info("going on from step %d of %s", int(state.step), self.workdir)
        # it is that of the first process: the others judge the records that they read from now on
        return state, Counter(position["tally"] if jax.process_index() == 0 else {})


def _optimizer(config, params) -> optax.GradientTransformationExtraArgs:
    """Where nothing is trained, a config need not say how."""
    if not jax.tree.leaves(params):
        return optax.with_extra_args_support(optax.identity())
    optimizer = make_optimizer(config.optimizer, params, config.train.steps)
    kept = "router" in config.model and not config.model.router.get("learns", True)
    return keep_part(optimizer, "router") if kept else optimizer


def _without_remat(config: ConfigDict) -> ConfigDict | None:
    """The config with all activations kept, or None where they are."""
    plain = config.copy_and_resolve_references()
    stacks = [*plain.model.towers.values(), *([plain.model.single] if "single" in plain.model else [])]
    if not any(stack.get("remat", False) for stack in stacks):
        return None
    for stack in stacks:
        stack.remat = False
    return plain
