"""What does docs/routing.md say that was measured? Tables and a picture.

What runs reached is in results/router_{which}.jsonl, what they cost in results/routing.jsonl.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.generated import renewed
from benchmarks.record import read
from mmfuse.analysis.charts import ticks
from mmfuse.evaluators.damage import LEVELS
from mmfuse.results import Spread, newest_of_each_seed, over_seeds
from mmfuse.sweep import config_name

PAGE = Path(__file__).parent.parent / "docs" / "routing.md"
WHICH = re.compile(r"--config=configs/router\.py:(\S+)")
DENSE, ROUTED = "dense", ("routed", "frugal")
ANSWERS, CAPTIONS = "vqa/accuracy", "caption/attribute_f1"
# modality → kinds of damage that befall it at levels
DAMAGE = {"image": ("darkness", "noise", "occlusion"), "audio": ("audio_noise",), "source": ("gaps",)}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 56, 44, 16, 110  # of the picture, pixels

Reached = dict[str, dict[str, Spread]]  # what of a number → the number → over seeds


def routing_page() -> str:
    """`docs/routing.md` with its tables made anew."""
    found = measured()
    if DENSE not in found:
        return renewed(PAGE, ["No run of it has been measured yet."])
    return renewed(PAGE, [*_frontier(found), "", *_damage(found)])


def measured() -> dict[str, Reached]:
    """Which run → phase → number → over seeds, the newest of each; phases are train, inference, `run` for its summary,
    and `kept`, what it keeps of the dense run of the same seed.

    Runs that took other steps than the last dense one are of an experiment before this one. What a run costs was
    measured on a run of the same commit, where its line says of which.
    """
    newest: dict[tuple[str, str], dict[tuple[int, str | None], Mapping[str, Any]]] = {}
    for line in read("routing"):
        found = WHICH.search(line["run"])
        if found:
            newest.setdefault((found[1], line["phase"]), {})[line["seed"], line.get("run_git")] = line
    by_run: dict[str, Reached] = {}
    steps = [run["steps"] for run in _runs(DENSE)][-1:]

    def runs_of(which):
        return newest_of_each_seed([run for run in _runs(which) if run["steps"] in steps])

    dense = {run["seed"]: run["summary"] for run in runs_of(DENSE)}
    for (which, phase), costs in newest.items():
        runs = runs_of(which)
        measured_on = [costs.get((run["seed"], run["git"]), costs.get((run["seed"], None))) for run in runs]
        if any(measured_on):
            if which not in by_run:
                summaries = {run["seed"]: run["summary"] for run in runs}
                kept = (_kept(summaries[seed], dense[seed]) for seed in summaries if seed in dense)
                by_run[which] = {"run": over_seeds(summaries.values()), "kept": over_seeds(kept)}
            by_run[which][phase] = over_seeds(line for line in measured_on if line)
    return by_run


def _kept(summary, dense):
    return {number: summary[number] / dense[number] for number in (ANSWERS, CAPTIONS) if number in summary}


def _runs(which: str) -> list[dict[str, Any]]:
    return read(config_name(f"configs/router.py:{which}"))


def _frontier(found: Mapping[str, Reached]) -> Iterator[str]:
    yield "| run | seeds | answers | kept | captions, F1 | kept | FLOPs, time of an example | | of a step | |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for which, reached in sorted(found.items(), key=lambda item: -item[1]["inference"]["flops"].mean):
        run, cells = reached["run"], []
        for number in (ANSWERS, CAPTIONS):
            cells += [f"{run[number]:.3f}", f"{reached['kept'][number].mean:.1%}"]
        for phase in ("inference", "train"):
            cells += [f"{reached[phase][f'{what}_share'].mean:.0%}" for what in ("flops", "seconds")]
        yield f"| `:{which}` | {run[ANSWERS].seeds} | " + " | ".join(cells).replace("%", " %") + " |"


def _damage(found: Mapping[str, Reached]) -> Iterator[str]:
    """Of the routed run with the most seeds, of these the best: its gates, and its answers beside the dense ones."""
    routed = {which: reached["run"] for which, reached in found.items() if which.startswith(ROUTED)}
    if not routed:
        return
    which = max(routed, key=lambda name: (routed[name][ANSWERS].seeds, routed[name][ANSWERS].mean))
    run, dense = routed[which], found[DENSE]["run"]
    yield f"One modality of three is spoiled, and two are clean; `:{which}`, by level of the damage:"
    yield ""
    yield "| damage | number | clean | " + " | ".join(map(str, range(1, LEVELS + 1))) + " |"
    yield "|---|---|---:|" + "---:|" * LEVELS
    for modality, kinds in DAMAGE.items():
        for kind in kinds:
            opens = [run[f"gating_spoiled/soft/{modality}/{part}"] for part in ("clean", *levels(kind))]
            yield f"| {kind.replace('_', ' ')} | probability of the gate of {modality} | " + _cells(opens)
            for name, numbers in (("routed", run), ("dense", dense)):
                right = [numbers[f"spoiled/accuracy/{part}"] for part in levels(kind)]
                yield f"| | answers, {name} | | " + _cells(right)
    for name, numbers in (("routed", run), ("dense", dense)):
        clean, missing = numbers["vqa/accuracy/clean"].mean, numbers["spoiled/accuracy/missing/5"].mean
        # at level n it is missing in n of LEVELS examples
        right = " | ".join(f"{clean + (missing - clean) * level / LEVELS:.3f}" for level in range(LEVELS + 1))
        yield f"| {'missing' if name == 'routed' else ' '} | answers, {name} | {right} |".replace("|   |", "| |")


def levels(kind: str) -> list[str]:
    """The parts of a number that are about one kind of damage, from the mildest to the worst."""
    return [f"{kind}/{level}" for level in range(1, LEVELS + 1)]


def _cells(numbers: Sequence[Spread]) -> str:
    return " | ".join(f"{number.mean:.2f}" for number in numbers) + " |"


def routing_picture() -> str:
    """`docs/routing.svg`: answers over the FLOPs of an example, a dot for each run, the mean over its seeds."""
    found = measured()
    dots = {
        which: (reached["inference"]["flops_share"].mean, reached["run"][ANSWERS].mean)
        for which, reached in found.items()
    }
    ys = ticks(min(y for _, y in dots.values()), max(y for _, y in dots.values()))

    def place(x, y):
        share = (y - ys[0]) / (ys[-1] - ys[0])
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">']
    parts += [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    for y in ys:
        (left, height), (right, _) = place(0, y), place(1, y)
        parts += [f'<path d="M{left:.0f} {height:.1f}H{right:.0f}" stroke="#ddd"/>']
        parts += [f'<text x="{left - 8:.0f}" y="{height + 4:.1f}" font-size="12" text-anchor="end">{y:.3g}</text>']
    for x in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            f'<text x="{place(x, 0)[0]:.0f}" y="{HEIGHT - 24}" font-size="12" text-anchor="middle">{x:.0%}</text>'
        ]
    middle = f'<text x="{place(0.5, 0)[0]:.0f}" y="{HEIGHT - 6}" font-size="12" text-anchor="middle">'
    parts += [middle + "FLOPs of an example, as a share of the dense model's; upwards: share of right answers</text>"]
    for which, dot in sorted(dots.items()):
        x, y = place(*dot)
        colour = "#0b6" if which.startswith(ROUTED) else "#777"
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>']
        parts += [f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" font-size="12">{which}</text>']
    return "\n".join([*parts, "</svg>"]) + "\n"
