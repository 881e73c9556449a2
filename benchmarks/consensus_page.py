"""What does docs/consensus.md say that was measured? From results/router_consensus_{which}.jsonl."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.generated import renewed
from benchmarks.record import read
from benchmarks.routing_page import DAMAGE, levels
from mmfuse.evaluators.damage import LEVELS
from mmfuse.results import Spread, newest_of_each_seed, over_seeds, runs_in_words

PAGE = Path(__file__).parent.parent / "docs" / "consensus.md"
RUNS = ("asked", "dense")
REACHED = (
    ("answers, all agree", "clean/accuracy"),
    ("one is of another scene", "vqa/accuracy"),
    ("one is a near miss", "altered/accuracy"),
    ("another scene noticed, AUROC", "agreement/auroc/swap"),
    ("near miss noticed, AUROC", "agreement/auroc/alter"),
)

Numbers = Mapping[str, Spread]


def consensus_page() -> str:
    """`docs/consensus.md` with its tables made anew."""
    runs = {which: newest_of_each_seed(lines) for which in RUNS if (lines := read(f"router_consensus_{which}"))}
    if "asked" not in runs:
        return renewed(PAGE, ["No run of it has been measured yet."])
    found = {which: over_seeds(run["summary"] for run in its) for which, its in runs.items()}
    lines = [runs_in_words(runs["asked"]), "", *_reached(found), "", *_gates(found["asked"]), "", *_damage(found)]
    return renewed(PAGE, lines)


def _cell(numbers: Numbers, name: str, form: str = "{:.3f}") -> str:
    return form.format(numbers[name]) if name in numbers else "—"


def _reached(found: Mapping[str, Numbers]) -> Iterator[str]:
    yield "| run | " + " | ".join(words for words, _ in REACHED) + " |"
    yield "|---|" + "---:|" * len(REACHED)
    for which, numbers in found.items():
        yield f"| `:{which}` | " + " | ".join(_cell(numbers, name) for _, name in REACHED) + " |"


def _gates(numbers: Numbers) -> Iterator[str]:
    yield "| open gates of `:asked` | left as it is | near miss | of another scene |"
    yield "|---|---:|---:|---:|"
    for modality in DAMAGE:
        parts = ("clean", "alter/5", "swap/5")
        yield (
            f"| {modality} | "
            + " | ".join(_cell(numbers, f"agreement/open/{modality}/{part}") for part in parts)
            + " |"
        )


def _damage(found: Mapping[str, Numbers]) -> Iterator[str]:
    """Damage that training never had: how often the gate is open, and answers of either run."""
    yield "| damage, none in training | number | " + " | ".join(map(str, range(1, LEVELS + 1))) + " |"
    yield "|---|---|" + "---:|" * LEVELS
    for modality, kinds in DAMAGE.items():
        for kind in kinds:
            parts = levels(kind)
            opened = [_cell(found["asked"], f"agreement_spoiled/open/{modality}/{part}", "{:.2f}") for part in parts]
            yield f"| {kind.replace('_', ' ')} | gate of {modality} open | " + " | ".join(opened) + " |"
            for which in ("asked", "dense"):
                if which in found:
                    right = [_cell(found[which], f"spoiled/accuracy/{part}", "{:.2f}") for part in parts]
                    yield f"| | answers, `:{which}` | " + " | ".join(right) + " |"
