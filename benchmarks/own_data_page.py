"""What does docs/own_data.md say that was reached on stamps? From results/own_data_small.jsonl."""

from pathlib import Path

from benchmarks.generated import renewed
from benchmarks.record import read
from mmfuse.results import newest_of_each_seed, over_seeds, runs_in_words

PAGE = Path(__file__).parent.parent / "docs" / "own_data.md"
RANKS = (1, 5, 10)
WAYS = tuple(
    f"{a}_to_{b}" for pair in (("image", "text"), ("audio", "text"), ("image", "audio")) for a, b in (pair, pair[::-1])
)


def own_data_page() -> str:
    """`docs/own_data.md` with its table made anew."""
    runs = newest_of_each_seed(read("own_data_small"))
    reached = over_seeds(run["summary"] for run in runs)
    lines = [runs_in_words(runs), ""]
    lines += [f"| looked for | among | {' | '.join(f'R@{k}' for k in RANKS)} | R@{RANKS[-1]}, chance |"]
    lines += ["|---|---:|" + "---:|" * (len(RANKS) + 1)]
    for way in WAYS:
        names = [f"retrieval/{way}/recall_at_{k}" for k in RANKS]
        numbers = [f"{reached[name]:.3f}" for name in (*names, f"{names[-1]}_chance")]
        among = f"{reached[f'retrieval/{way}/candidates'].mean:,.0f}"
        lines += [f"| {way.replace('_', ' ')} | {among} | {' | '.join(numbers)} |"]
    captions = " and ".join(
        f"{reached[name]:.3f}{words}"
        for name, words in (("caption/cider", ""), ("caption/cider_blind", " without looking"))
    )
    waited = f"The steps waited {reached['data/wait_share'].mean:.0%} of the time for data."
    return renewed(PAGE, [*lines, "", f"Captions that it writes: CIDEr-D {captions}. {waited}"])
