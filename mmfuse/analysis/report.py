"""What would a person want to see of a run?

    python -m mmfuse.analysis.report WORKDIR           writes WORKDIR/report.html again, from the files that are there
    python -m mmfuse.analysis.report A B …             compares runs: numbers, curves, configs; writes compare.html

One file that needs no other and no network. A run writes it by itself when it ends and when it is evaluated.
"""

import argparse
import base64
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mmfuse.analysis.cards import Looks, answer_cards, neighbour_rows, pointing_table
from mmfuse.analysis.charts import number, run_class
from mmfuse.analysis.gates import gate_charts
from mmfuse.analysis.html import Html, data_block, join, tag
from mmfuse.analysis.record import Record, named, read_record, with_controls
from mmfuse.analysis.sections import Section, charts, facts, headline_tiles, number_tables, show_section, spoken, table
from mmfuse.training.workdir import flatten
from mmfuse.types import MmfuseError

HERE = Path(__file__).parent


def write_report(workdir: str | Path, evaluation: str = "") -> Path:
    """Writes `report.html`, or `report-{evaluation}.html`, into a workdir; returns its path.

    Raises:
      CheckpointError: nothing was evaluated in the workdir.
    """
    path = report_path(workdir, evaluation)
    _write(path, run_page(read_record(workdir, evaluation)))
    return path


def report_path(workdir: str | Path, evaluation: str = "") -> Path:
    """Where the page of a run, or of one of its evaluations, stands."""
    return Path(workdir) / named("report", evaluation, ".html")


def reported_step(workdir: str | Path, evaluation: str = "") -> int | None:
    """The step that the page of a run is about, which may have gone on since; None where there is no page."""
    path = report_path(workdir, evaluation)
    found = re.search(r'<meta name="step" content="(\d+)">', path.read_text("utf-8")) if path.exists() else None
    return int(found[1]) if found else None


def run_page(record: Record) -> Html:
    """The page of one run."""
    looks, parts = Looks(), []
    for name, shown in record.examples.items():
        if "answers" in shown:
            parts += _answers(name, shown["answers"], looks)
    for name, shown in record.examples.items():
        if "neighbours" in shown:
            parts.append(Section(name, f"{name}: what each query found", neighbour_rows(shown["neighbours"])))
    parts += [
        Section("numbers", "Numbers beside their controls", number_tables(record)),
        Section("curves", "Curves", charts({record.name: record})),
    ]
    gates = gate_charts(record.summary)
    if gates:
        parts.append(Section("gates", "Gates, as what they guard gets worse", gates))
    parts.append(Section("facts", "Where this comes from", facts(record)))
    return page(f"Run {record.name}", headline_tiles(record), parts, looks, record.summary.get("step"))


def _answers(name, answers, looks) -> list[Section]:
    how = tag(
        "p",
        "Point at a word, or reach it with the Tab key: every map opens where the model looked when it wrote the word. "
        "Layers are the decoder's, averaged over heads; the rollout adds them up through the towers. Per cents say how "
        "much of the attention fell there. Dashed boxes are the objects that the question is about. Of the first "
        f"{answers['examples']} examples that were looked at.",
        class_="quiet",
    )
    game = pointing_table(answers["pointing"])
    cards = answer_cards(answers["shown"], looks, f"{name}, example")
    parts = [Section(name, f"{name}: what it wrote, and where it looked", join(how, game, cards))]
    if answers["worst"]:
        worst = answer_cards(answers["worst"], looks, f"{name}, worst case")
        judged = any(text["right"] is False for card in answers["worst"] for text in card["texts"])
        title = "wrong, and most sure of it" if judged else "least like what people said"
        parts.append(Section(f"{name}-worst", f"{name}: {title}", worst))
    return parts


def compare_page(records: Sequence[Record]) -> Html:
    """The page that sets runs beside one another; the first is what the others are compared with."""
    runs = {f"{index}: {record.name}": record for index, record in enumerate(records, 1)}
    legend = tag("p", *(tag("span", name, class_=f"key {run_class(index)}") for index, name in enumerate(runs)))
    parts = [
        Section("numbers", "Numbers", _compared(runs)),
        Section("curves", "Curves", charts(runs)),
        Section("config", "What differs in the configs", _differences(runs)),
    ]
    return page(" against ".join(record.name for record in records), legend, parts, Looks())


def _compared(runs) -> Html:
    numbers = {name: with_controls(record.summary) for name, record in runs.items()}
    first = next(iter(numbers))
    every = list(dict.fromkeys(key for found in numbers.values() for key in found))
    rows = []
    for key in every:
        values = [found.get(key, {}).get("") for found in numbers.values()]
        cells = [tag("td", "–" if value is None else number(value)) for value in values]
        cells += [_change(values[0], value) for value in values[1:]]
        rows.append(tag("tr", tag("th", spoken(key), scope="row"), *cells))
    heads = ["number", *runs, *(f"{name} less {first}" for name in list(runs)[1:])]
    return table("Every number of the runs, without controls", heads, rows)


def _change(before, after) -> Html:
    if before is None or after is None:
        return tag("td", "–")
    change = after - before
    return tag("td", f"{'+' if change > 0 else '−' if change < 0 else ''}{number(abs(change))}", class_="change")


def _differences(runs) -> Html:
    flat = {name: flatten(record.config.get("config", {})) for name, record in runs.items()}
    every = sorted({key for found in flat.values() for key in found})
    rows = [
        tag("tr", tag("th", key, scope="row"), *(tag("td", str(found.get(key, "–"))) for found in flat.values()))
        for key in every
        if len({str(found.get(key, "–")) for found in flat.values()}) > 1
    ]
    return table("Settings", ["setting", *runs], rows) if rows else tag("p", "Nothing.")


def page(title: str, top: Html, parts: Sequence[Section], looks: Looks, step: int | None = None) -> Html:
    """A whole document; its only script is ours, and nothing is fetched from anywhere. `step` is that of the run."""
    style, script = ((HERE / name).read_text() for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        *([] if step is None else [tag("meta", name_="step", content=step)]),
        tag("title", title),
        tag("style", Html(style)),
    )
    links = [tag("li", tag("a", part.title, href=f"#{part.name}")) for part in parts]
    nav = tag("nav", tag("ul", *links), aria_label="Parts of this page")
    main = tag("main", tag("h1", title), top, nav, *(show_section(part) for part in parts))
    body = tag("body", main, data_block("looks", looks), tag("script", Html(script)))
    return join(Html("<!doctype html>"), tag("html", head, body, lang="en"))


def _write(path: Path, text: Html) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    # a key or an answer may hold what is no Unicode text
    fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
    fresh.replace(path)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mmfuse.analysis.report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("workdirs", nargs="+", help="one run to report on, or several to compare")
    parser.add_argument("--out", default="compare.html", help="where the comparison of several runs goes")
    given = parser.parse_args(arguments)
    try:
        if len(given.workdirs) == 1:
            path = write_report(given.workdirs[0])
        else:
            _write(path := Path(given.out), compare_page([read_record(workdir) for workdir in given.workdirs]))
    except MmfuseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
