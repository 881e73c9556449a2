"""What does routing save?

    python -m benchmarks.routing runs/dense-0 runs/routed-0 runs/two-0 …

Finished runs of `configs/router.py` and its kin; the first is the dense control. Each gives two lines of
results/routing.jsonl:

    train      FLOPs of a step, as the compiler counts them on a build with unrolled layers, and its time; where the
               towers read everything at first, also the mean over all steps
    inference  the same for an example of the test split, from its signals to the first word of an answer; examples
               that the router sends the same way share a batch, and a program without the towers that are shut

Times are medians over turns in which all runs take part, one after another, in one process.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks.record import append
from input_pipeline.collate import Loaded
from mmfuse.experiment import Experiment
from mmfuse.phases import phases_of
from mmfuse.results import run_line
from mmfuse.routing.router import Router
from mmfuse.routing.routes import Routes
from mmfuse.training.processes import keep_memory
from mmfuse.training.sharding import place
from mmfuse.training.state import TrainState
from mmfuse.training.workdir import saved_config
from mmfuse.types import Batch

TASK = "vqa"  # the evaluator whose questions are read
BATCHES = 4  # batches of training that the steps take in turn


class Measured:
    """A finished run, and functions that do once what is measured."""

    def __init__(self, workdir: str, sizes: tuple[int, ...], examples: int):
        """Args: its folder; the sizes of batches at inference; how many examples are read there."""
        config = ConfigDict(saved_config(workdir))
        self.workdir, self.config, self.line = workdir, config, run_line(workdir)
        self.experiment = Experiment(config, workdir)
        self.state = self.experiment.restore()
        self.batch = first_examples(self.experiment.evaluation.evaluators[TASK].sweep.stream, examples)
        self.routes = make_routes(self.experiment, sizes)
        self._step = self.experiment.traced_step.lower().compile()
        self._batches = itertools.cycle(_placed(self.experiment))
        self._trained = jax.tree.map(lambda leaf: leaf.copy(), self.state)

    def train(self) -> None:
        """One step."""
        self._trained, metrics = self._step(self._trained, next(self._batches))
        jax.block_until_ready(metrics)

    def answer(self) -> None:
        """Reads the questions of all examples."""
        self.routes(self.state, self.batch)

    def training_flops(self) -> dict[str, float]:
        """Of a step, and of the mean of all steps of the run."""
        steps, first, over_run, flops = self.config.train.steps, 0, 0.0, 0.0
        for last, config in phases_of(unrolled(self.config)):
            flops = step_flops(config, self.workdir)
            over_run += flops * (min(last, steps) - first) / steps
            first = min(last, steps)
        return {"flops": flops, "flops_over_run": over_run}

    def inference_flops(self) -> dict[str, float]:
        """Of an example: of all programs that run for all of them, rows that fill up a batch too."""
        routes = make_routes(Experiment(unrolled(self.config), self.workdir), self.routes.sizes)
        routes(self.state, self.batch)
        decide = counted(routes.decide.lower(self.state, self.batch).compile())
        total = decide + sum(counted(routes.programs[route]) * uses for route, uses in routes.uses.items())
        examples = int(self.batch.valid.sum())
        return {"flops": total / examples, "router_share": decide / total, "routes": float(len(routes.programs))}


def make_routes(experiment: Experiment, sizes: tuple[int, ...]) -> Routes:
    """From signals to the likeliest first words; where there is no router, all examples go the same way."""
    merge = experiment.maker.merge

    def decide(state: TrainState, batch: Batch) -> dict[str, Any]:
        router = merge(state).router
        return {} if router is None else {name: gates.open for name, gates in router(batch).items()}

    def compute(state: TrainState, batch: Batch) -> jax.Array:
        model = merge(state)
        model.router = cast(Router, None)  # what is open is decided
        prompt = batch.text["prompt"]
        ids, segment = (array.reshape(-1, array.shape[-1]) for array in (prompt.ids, prompt.segment))
        out = model.single.decode(model.single.read(ids, segment), model.encode(batch))
        last = (segment > 0).sum(axis=1) - 1
        hidden = jax.vmap(lambda row, place: row[place])(out.hidden, last)
        return model.single.readout(hidden).argmax(axis=-1).reshape(len(batch.valid), -1)

    return Routes(TASK, decide, compute, sizes=sizes)


def first_examples(stream: Any, number: int) -> Batch:
    """The first examples of a finite stream as one batch."""
    batches: list[Loaded] = [stream[index] for index in range(len(stream))]
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays)[:number], *(loaded.batch for loaded in batches))
    kept = {role: joined.text[role] for role in ("prompt", "source") if role in joined.text}
    return joined._replace(text=kept)


def unrolled(config: ConfigDict) -> ConfigDict:
    """The config without loops, whose body the compiler counts once: over layers, and over chunks of a text."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        for stack in (*changed.model.towers.values(), changed.model.single):
            if stack.get("kind") != "convnet":
                stack.unroll = True
        for objective in changed.objectives.values():
            if objective.kind == "generation":
                objective.chunk = changed.model.single.length
    return changed


def step_flops(config: ConfigDict, workdir: str) -> float:
    """FLOPs of a step of training."""
    return counted(Experiment(config, workdir).traced_step.lower().compile())


def counted(program: jax.stages.Compiled) -> float:
    """FLOPs of a program, as the compiler counts them."""
    return (program.cost_analysis() or {}).get("flops", 0.0)


def alternate(functions: Mapping[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Seconds of each, the median of so many turns; before them each is called twice."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(-2, turns):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _placed(experiment) -> Iterator[dict[str, Batch]]:
    for index in range(BATCHES):
        yield {name: place(stream[index].batch, experiment.mesh) for name, stream in experiment.streams.items()}


def report(runs: list[Measured], turns: int) -> None:
    """Measures all runs, and appends two lines for each."""
    examples = {run.workdir: int(run.batch.valid.sum()) for run in runs}
    seconds = {
        "train": alternate({run.workdir: run.train for run in runs}, turns),
        "inference": alternate({run.workdir: run.answer for run in runs}, turns),
    }
    first: dict[str, dict[str, float]] = {}
    for run in runs:
        for phase, flops in (("train", run.training_flops()), ("inference", run.inference_flops())):
            took = seconds[phase][run.workdir] / (1 if phase == "train" else examples[run.workdir])
            numbers = {**flops, "seconds": took}
            control = first.setdefault(phase, numbers)
            shares = {f"{name}_share": numbers[name] / control[name] for name in ("flops", "seconds")}
            if phase == "train":
                shares["flops_over_run_share"] = numbers["flops_over_run"] / control["flops_over_run"]
            append(
                "routing",
                command=f"python -m benchmarks.routing {Path(runs[0].workdir).name} {Path(run.workdir).name}",
                seed=run.line["seed"],
                numbers={"phase": phase, "run": run.line["command"], "run_git": run.line["git"], "turns": turns}
                | {**numbers, **shares, "router_parameters": router_parameters(run)},
            )


def router_parameters(run: Measured) -> float:
    """The router's share of all parameters."""
    model = run.experiment.maker.merge(run.state)
    whole = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    router = model.router
    return 0.0 if router is None else sum(leaf.size for leaf in jax.tree.leaves(nnx.state(router, nnx.Param))) / whole


def main() -> None:
    """Measures, and appends to results/routing.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", help="of finished runs, the dense control first")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--examples", type=int, default=512, help="that are read at inference")
    parser.add_argument("--sizes", type=int, nargs="+", default=(16, 32, 64), help="of batches at inference")
    options = parser.parse_args()
    keep_memory()  # as main.py does
    report([Measured(workdir, tuple(options.sizes), options.examples) for workdir in options.workdirs], options.turns)


if __name__ == "__main__":
    main()
