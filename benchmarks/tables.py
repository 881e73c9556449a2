"""The tables of `docs/`, made of `results/`.

python -m benchmarks.tables
"""

import re
from pathlib import Path

from benchmarks.consensus_page import consensus_page
from benchmarks.generated import renewed
from benchmarks.hostile.page import hostile_input_page
from benchmarks.own_data_page import own_data_page
from benchmarks.quickstart_page import quickstart_page
from benchmarks.record import read
from benchmarks.routing_page import routing_page, routing_picture
from mmfuse.results import newest_of_each_seed, over_seeds, runs_in_words
from mmfuse.sweep import config_name

ROOT = Path(__file__).parent.parent
DOCS, README = ROOT / "docs", ROOT / "README.md"
EXPERIMENTS = (  # config, what it is, what it reaches, page
    (
        "quickstart",
        "pictures found, described and asked about, in a quarter of an hour",
        (
            ("R@1 of 256", "retrieval/text_to_image/recall_at_1"),
            ("answers", "vqa/accuracy"),
            ("blind", "vqa/accuracy_blind"),
            ("digits", "classification/digits"),
        ),
        "quickstart.md",
    ),
    (
        "scenes",
        "the same, longer and with sound, in two hours at most",
        (
            ("R@1 of 256", "retrieval/text_to_image/recall_at_1"),
            ("answers", "vqa/accuracy"),
            ("blind", "vqa/accuracy_blind"),
            ("caption F1", "caption/attribute_f1"),
            ("digits", "classification/digits"),
        ),
        "quickstart.md",
    ),
    (
        "router:frugal_50",
        "which of three modalities are worth reading, decided for each example; one at most is read",
        (("answers", "vqa/accuracy"), ("caption F1", "caption/attribute_f1")),
        "routing.md",
    ),
    (
        "router_consensus:asked",
        "which of three modalities disagrees with the others, and is not believed",
        (("AUROC of a swap", "agreement/auroc/swap"), ("of a near miss", "agreement/auroc/alter")),
        "consensus.md",
    ),
    (
        "emoji",
        "names of emoji in eight languages, found in another artist's drawings, in half an hour",
        (
            ("R@1 of 1,506, English, image to text", "retrieval/image_to_text/en/recall_at_1"),
            ("text to image", "retrieval/text_to_image/en/recall_at_1"),
        ),
        "benchmarks.md",
    ),
    (
        "tiny",
        "everything at once, with sound, under a million parameters, in a minute or two",
        (("R@10 of 256", "retrieval/text_to_image/recall_at_10"), ("answers", "vqa/accuracy")),
        "benchmarks.md",
    ),
    ("clip", "CLIP as published: `:b32`, `:b16`, `:l14`", (), "weights.md"),
    ("siglip", "SigLIP as published: `:b16`, `:l16`, `:so400m`", (), "weights.md"),
    ("zero_shot", "a released CLIP or SigLIP as it is: `:FOLDER`", (), "weights.md"),
    ("finetune", "a released CLIP or SigLIP learns from a person's tars: `:FOLDER`", (), "weights.md"),
    ("own_data", "towers for every modality that a person's tars have, in the minutes there are", (), "own_data.md"),
)
TINY = (
    ("first_step_seconds", "s from the command to the end of step 1, compilation cached", "{:.1f}"),
    ("cold_first_step_seconds", "s from the command to the end of step 1, nothing cached", "{:.1f}"),
    ("steps_seconds", "s for the other 199 steps, without evaluation", "{:.1f}"),
    ("total_seconds", "s in all, with the evaluation at the end, compilation cached", "{:.1f}"),
    ("mfu", "share of the measured float32 peak (median step)", "{:.1%}"),
    ("wait_share", "share of time waiting for data (median step)", "{:.2%}"),
)
INPUT = (
    ("stream", "examples a second from tars to batches of 224 × 224", "{:,.0f}"),
    ("raw", "by the fastest decoder alone, whole and not resized: raw decoding", "{:,.0f}"),
    ("raw_share", "of raw decoding", "{:.0%}"),
    ("control", "by the fastest decoder alone, to half the sides and with the same resizing: the control", "{:,.0f}"),
    ("stream_share", "of the control", "{:.0%}"),
    ("opencv", "by OpenCV, whole, and resized", "{:,.0f}"),
    ("opencv_reduced", "by OpenCV, to half the sides, and resized", "{:,.0f}"),
    ("pillow", "by Pillow, whole, and resized", "{:,.0f}"),
    ("pillow_reduced", "by Pillow, to half the sides, and resized", "{:,.0f}"),
    ("simplejpeg", "by simplejpeg, whole, and resized", "{:,.0f}"),
    ("simplejpeg_reduced", "by simplejpeg, to half the sides, and resized: what the stream does", "{:,.0f}"),
    ("simplejpeg_alone", "by simplejpeg, whole, not resized", "{:,.0f}"),
    ("simplejpeg_reduced_alone", "by simplejpeg, to half the sides, not resized", "{:,.0f}"),
    ("opencv_alone", "by OpenCV, whole, not resized", "{:,.0f}"),
    ("opencv_reduced_alone", "by OpenCV, to half the sides, not resized", "{:,.0f}"),
    ("many_sources_share", "of that rate with a mixture of 100 sources", "{:.0%}"),
    ("megabytes_before", "MB resident before the long run", "{:,.0f}"),
    ("megabytes_after", "MB resident after it", "{:,.0f}"),
    ("start_seconds", "s to start a source of as many records as below", "{:.1f}"),
    ("start_entries", "records of that source", "{:,}"),
    ("start_megabytes", "MB resident in that process, Python and its libraries among them", "{:,.0f}"),
    ("start_read_microseconds", "µs to read one of its records, in any order", "{:.0f}"),
)
WAYS = ("image_to_text", "text_to_image")
REACHED = ("retrieval/image_to_text/recall_at_10", "retrieval/text_to_image/recall_at_10", "vqa/accuracy")


def benchmarks_page() -> str:
    """`docs/benchmarks.md`."""
    lines = ["# Benchmarks", "", "Generated by `python -m benchmarks.tables` from `results/`."]
    return "\n".join([*lines, *_tiny(), *_emoji(), *_input()]) + "\n"


def _tiny() -> list[str]:
    lines = ["", "## `configs/tiny.py`", ""]
    measured = [line for line in read("tiny") if line["command"] == "python -m benchmarks.tiny"]
    for result in measured[-1:]:
        lines += [f"`{result['command']}`, {result['machine']}, {result['runs']} warm runs, medians.", ""]
        lines += _numbers(TINY, result)
        lines += [
            "",
            f"What 200 steps reach on the test split, seed {result['seed']} alone, to show that they learn:",
            "",
        ]
        lines += ["| number | value |", "|---|---:|"]
        lines += [f"| `{name}` | {result['summary'][name]:.3f} |" for name in REACHED]
    return lines


def _emoji() -> list[str]:
    runs = newest_of_each_seed(read("emoji"))
    reached = over_seeds(run["summary"] for run in runs)
    one_of = re.compile("retrieval/image_to_text/([^/]+)/recall_at_1")
    languages = sorted(match[1] for match in map(one_of.fullmatch, reached) if match)
    candidates = reached["retrieval/text_to_image/candidates"].mean
    lines = ["", "## `configs/emoji.py`", "", runs_in_words(runs)]
    lines += [f"Names of drawings by an artist never seen, among {candidates:,.0f}:", ""]
    lines += ["| language | image to text: recall at 1 | 5 | 10 | text to image: recall at 1 | 5 | 10 |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for language in languages:
        keys = [f"retrieval/{way}/{language}/recall_at_{k}" for way in WAYS for k in (1, 5, 10)]
        lines += [f"| {language} | " + " | ".join(f"{reached[key]:.3f}" for key in keys) + " |"]
    return lines


def _input() -> list[str]:
    lines = []
    for result in read("input")[-1:]:
        lines += ["", "## Input pipeline", ""]
        sizes = f"JPEGs of 640 × 480 and {result['image_kilobytes']:.0f} kB, {result['long']:,} of them in the long run"
        how = f"{result['threads']} threads, medians of {result['turns']} turns"
        lines += [f"`{result['command']}`, {result['machine']}, {how}. {sizes}.", ""]
        lines += _numbers(INPUT, result)
    return lines


def _numbers(rows, result) -> list[str]:
    return [
        "| number | what |",
        "|---:|---|",
        *(f"| {form.format(result[name])} | {words} |" for name, words, form in rows),
    ]


def readme() -> str:
    """`README.md` with its table of experiments made anew."""
    lines = ["| config | what it is | reached | as in |", "|---|---|---|---|"]
    for name, words, numbers, page in EXPERIMENTS:
        file, _, argument = name.partition(":")
        runs = newest_of_each_seed(read(config_name(name))) if numbers else []
        reached = over_seeds(run["summary"] for run in runs)
        shown = "; ".join(f"{what} {reached[key]:.2f}" for what, key in numbers) or "—"
        called = f"configs/{file}.py" + (f":{argument}" if argument else "")
        lines.append(f"| [`{called}`](configs/{file}.py) | {words} | {shown} | [docs/{page}](docs/{page}) |")
    return renewed(README, lines)


PAGES = {
    "quickstart.md": quickstart_page,
    "benchmarks.md": benchmarks_page,
    "hostile_input.md": hostile_input_page,
    "consensus.md": consensus_page,
    "own_data.md": own_data_page,
    "routing.md": routing_page,
    "routing.svg": routing_picture,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    README.write_text(readme())
