"""What does a run measure, and where can a person read it?

Numbers go to `summary.json`, what was written to `results/`, and both with examples into `report.html`. An evaluation
that has a name, on other data or under other conditions, has its own: `summary-{name}.json`, and so on.
"""

import json
import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from input_pipeline.sources.contract import Source
from input_pipeline.streams import evaluation_stream
from input_pipeline.tokenizers import CaptionTokenizer
from mmfuse import build_data, build_goals
from mmfuse.analysis.examples import show_examples
from mmfuse.analysis.record import named, time_spent, write_examples
from mmfuse.analysis.report import write_report
from mmfuse.evaluators.evaluator import Evaluator
from mmfuse.evaluators.question_only import QuestionOnly
from mmfuse.evaluators.writing import Writing
from mmfuse.models.multimodal import Multimodal
from mmfuse.training.state import TrainState

LOGGER = logging.getLogger(__name__)


class Evaluation:
    """The evaluators of a config, and what they leave in a workdir."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        tokenizer: CaptionTokenizer,
        merge: Callable[[TrainState], Multimodal],
        mesh: Mesh,
    ):
        """Args: the run's config, folder, tokenizer, what makes a model of its state, and mesh."""
        self.config, self.workdir, self.tokenizer, self.merge, self.mesh = config, workdir, tokenizer, merge, mesh
        self._readers: dict[str, QuestionOnly] = {}

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Evaluator name → the records it looks at."""
        configs = self.config.evaluators.items()
        return {name: build_data.make_source(config.source, config.stream.signals) for name, config in configs}

    def open(self) -> None:
        """Opens all sources, so that what is not there is known before anything is learned. Raises DataError."""
        sizes = (f"{name} ({len(source):,} records)" for name, source in self.sources.items())
        LOGGER.info("to be measured: %s", ", ".join(sizes))

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """Evaluator name → evaluator."""
        made = {}
        for name, config in self.config.evaluators.items():
            recipe, sizes = build_data.make_recipe(config.stream, self.tokenizer), config.stream
            stream = evaluation_stream(name, self.sources[name], recipe, rows=sizes.rows, examples=sizes.examples)
            own = {"tokenizer": self.tokenizer, "workers": self.config.loader.workers}
            if "question_only" in config:
                own["question_only"] = self._question_only(config.question_only)
            made[name] = build_goals.make_evaluator(config, stream, self.merge, self.mesh, **own)
        return made

    def _question_only(self, config):
        """Trained once for all evaluators whose control it is."""
        key = config.to_json()
        if key not in self._readers:
            self._readers[key] = QuestionOnly(build_data.read_questions(config))
        return self._readers[key]

    def measure(self, state: TrainState, name: str = "") -> dict[str, float]:
        """The numbers of all evaluators, and how many records could not be used by any of them.

        A number is called evaluator/number, or what the evaluator's `called` says. What was written goes to
        `results/{evaluator}.json`.
        """
        numbers, rejected = {}, set()
        folder = self.workdir / named("results", name)
        for part, evaluator in self.evaluators.items():
            found, called = evaluator(state), self.config.evaluators[part].get("called", {})
            numbers |= {called.get(number, f"{part}/{number}"): value for number, value in found.items()}
            rejected |= evaluator.sweep.rejected
            for number in set(called) - set(found):
                LOGGER.warning("evaluators.%s.called names '%s', which is none of its numbers", part, number)
            if isinstance(evaluator, Writing) and jax.process_index() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{part}.json").write_text(json.dumps(evaluator.results, indent=1))
        return numbers | {"rejected/total": float(len(rejected))}

    def summarize(self, numbers: Mapping[str, float | int], name: str = "") -> None:
        """Writes `summary.json`; beside the numbers of a run's own evaluation stands the time that its steps took."""
        numbers = {**numbers, **({} if name else time_spent(self.workdir))}
        text, path = json.dumps(numbers, indent=2), self.workdir / named("summary", name, ".json")
        if jax.process_index() == 0:
            path.write_text(text + "\n")
            LOGGER.info("%s\nwritten to %s", text, path)

    def report(self, state: TrainState, name: str = "") -> None:
        """Writes `report.html`, with examples of every evaluator."""
        shown = show_examples(state, self.evaluators, self.sources, self.merge, self.mesh)
        if jax.process_index() == 0:
            write_examples(self.workdir, shown, name)
            LOGGER.info("look at %s", write_report(self.workdir, name))
