"""Which objective or evaluator does a name in a config stand for?

What a model learns for, and how it is measured; what it is made of stands in `build.py`.
"""

from ml_collections import ConfigDict

from input_pipeline.tokenizers import CaptionTokenizer
from mmfuse.build_towers import lookup
from mmfuse.evaluators.agreement import Agreeing
from mmfuse.evaluators.answering import Answering
from mmfuse.evaluators.captioning import Captioning
from mmfuse.evaluators.classification import Classification
from mmfuse.evaluators.evaluator import Evaluator
from mmfuse.evaluators.gating import Gating
from mmfuse.evaluators.retrieval import Retrieval
from mmfuse.evaluators.writing import Writing
from mmfuse.objectives.contrastive import Contrastive, sigmoid_loss, softmax_loss
from mmfuse.objectives.generation import Generation
from mmfuse.objectives.matching import Matching
from mmfuse.objectives.routing import ExpectedCost, balance, entropy_floor
from mmfuse.training.step import StreamObjectives

CONTRASTIVE_LOSSES = {"info_nce": softmax_loss, "sigmoid": sigmoid_loss}


def make_objectives(config: ConfigDict) -> dict[str, StreamObjectives]:
    """What each stream is for."""
    return {
        name: StreamObjectives(
            {
                objective: (_objective(lookup(config.objectives, objective, "objective")), coefficient)
                for objective, coefficient in stream.objectives.items()
            },
            stream.accumulate,
            {source: number for number, source in enumerate(stream.mixture)} if len(stream.mixture) > 1 else {},
        )
        for name, stream in config.streams.items()
    }


def _objective(config):
    arguments = {key: value for key, value in config.items() if key != "kind"}
    if "loss" in arguments:
        arguments["loss"] = lookup(CONTRASTIVE_LOSSES, arguments["loss"], "contrastive loss")
    return lookup(OBJECTIVES, config.kind, "kind of objective")(**arguments)


def make_evaluator(
    config: ConfigDict, stream, merge, mesh, *, tokenizer: CaptionTokenizer, workers: int, **own
) -> Evaluator:
    """An evaluator over a finite stream; `merge` makes a model of a state; `own` goes to this kind alone."""
    others = ("kind", "source", "stream", "called", "question_only", "optional")
    arguments = own | {key: value for key, value in config.items() if key not in others}
    kind = lookup(EVALUATORS, config.kind, "evaluator")
    if issubclass(kind, Writing | Classification):
        arguments["tokenizer"] = tokenizer
    if issubclass(kind, Writing):
        arguments["decoding"] = dict(config.get("decoding", {}))
    return kind(stream, merge, mesh, workers=workers, **arguments)


OBJECTIVES = {
    "contrastive": Contrastive,
    "generation": Generation,
    "matching": Matching,
    "expected_cost": ExpectedCost,
    "balance": balance,
    "entropy_floor": entropy_floor,
}
EVALUATORS = {
    "retrieval": Retrieval,
    "answering": Answering,
    "captioning": Captioning,
    "classification": Classification,
    "gating": Gating,
    "agreement": Agreeing,
}
