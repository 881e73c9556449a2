"""`tests/small.py` with a router for everything that it reads, and a consensus of it."""

from configs import parts
from tests import small


def get_config(heard: str = "audio"):
    """Answers alone, towers that read half or three quarters of the rows, and damage that a router could notice.

    With `heard` "nothing" there is less to compile.
    """
    config = small.get_config()
    damage = {"darkness": 0.2, "noise": 0.2, "audio_noise": 0.4, "gaps": 0.4, "missing": 0.1}
    with config.unlocked():
        config.sources.scenes.corruptions = damage
        description = {"take": "description", "number": 1, "length": 40}
        del config.streams.pairs
        stream = config.streams.answers
        stream.rows, stream.text.source, stream.objectives.cost = 16, description, 0.1
        stream.text.foil = {**description, "take": "foil"}
        # gaps are words, too, and leave less of the vocabulary for the others
        stream.text.target.length = 40
        config.objectives.cost = {"kind": "expected_cost"}
        capacity = {"image": 0.5, "audio": 0.75, "source": 0.5}
        config.sharding = parts.sharding((r"router/", ()))
        config.model.router = parts.router(capacity, groups=8, open_at_first=0.0, ladder=(0.0, 1.0), dense_steps=2)
        config.model.single.memories = ("image", "audio", "source")
        config.model.consensus = parts.consensus(("image", "audio", "source"), width=8, hidden=4)
        config.objectives.matching = {"kind": "matching", "between": (("image", "source"),), "mates": 1}
        stream.objectives.matching = 0.3
        looked_at = config.evaluators.retrieval.stream.copy_and_resolve_references()
        looked_at.text = {"source": description}
        source = {"kind": "scenes", "split": "test", "corruptions": damage}
        config.evaluators = {
            kind: {"kind": kind, "source": source, "stream": looked_at} for kind in ("gating", "agreement")
        }
        if heard == "nothing":
            del (
                config.model.towers["audio"],
                config.model.router.capacity["audio"],
                config.sources.scenes.corruptions["audio_noise"],
            )
            config.model.single.memories = config.model.consensus.between = ("image", "source")
            for part in (stream, looked_at):
                part.signals = {"image": part.signals.image}
    return config
