"""What stands on a run's page besides its examples: the headlines, all numbers beside their controls, curves, facts."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from mmfuse.analysis.charts import Series, line_chart, number
from mmfuse.analysis.html import Html, join, tag
from mmfuse.analysis.record import CONTROLS, Record, curves, headlines, with_controls

COUNTS = ("candidates", "questions", "rejected", "total", "step", "games")  # ends of names that are no scores
CURVES = ("loss", "accuracy", "_to_")  # what of the metrics is a curve that people look at


class Section(NamedTuple):
    """A part of the page: what links call it, its heading, and what it holds."""

    name: str
    title: str
    content: Html


def show_section(part: Section) -> Html:
    """A part with a heading that can be linked to."""
    return tag("section", tag("h2", part.title), part.content, id=part.name)


def table(caption: str, heads: Sequence[str], rows: Sequence[Html]) -> Html:
    """A table that scrolls by itself where the page is too narrow for it; heads are texts, or `th` elements."""
    cells = [head if isinstance(head, Html) else tag("th", head, scope="col") for head in heads]
    whole = tag("table", tag("caption", caption), tag("thead", tag("tr", *cells)), tag("tbody", *rows))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def spoken(name: str) -> str:
    """`retrieval/image_to_text/recall_at_1` → `retrieval · image to text · recall at 1`."""
    return name.replace("/", " · ").replace("_", " ")


def headline_tiles(record: Record) -> Html:
    """The most important numbers, large, each with its controls."""
    numbers = with_controls(record.summary)
    return tag("div", *(_tile(name, numbers[name]) for name in headlines(record.summary)), class_="tiles")


def _tile(name, values) -> Html:
    controls = " · ".join(f"{control} {number(values[control])}" for control in CONTROLS if control in values)
    return tag(
        "div",
        tag("span", spoken(name), class_="what"),
        tag("span", number(values[""]), class_="value"),
        tag("span", controls or "no control was measured", class_="controls"),
        class_="tile",
    )


def number_tables(record: Record) -> Html:
    """A table for each evaluator: every number, its controls, and both on one scale where they are shares."""
    groups: dict[str, dict[str, Mapping[str, int | float]]] = {}
    for name, values in with_controls(record.summary).items():
        if "/" in name:
            group, rest = name.split("/", 1)
            groups.setdefault(group, {})[rest] = values
    scored = {group: rows for group, rows in groups.items() if not all(_is_count(name) for name in rows)}
    return join(*(_table(group, rows) for group, rows in scored.items()))


def _table(group, rows) -> Html:
    controls = [control for control in CONTROLS if any(control in values for values in rows.values())]
    marked = [tag("th", control, scope="col", class_=f"control {control}") for control in controls]
    body = []
    for name, values in rows.items():
        cells = [tag("td", number(values[control]) if control in values else "–") for control in ("", *controls)]
        body.append(
            tag("tr", tag("th", spoken(name), scope="row"), *cells, tag("td", _scale(name, values), class_="scale"))
        )
    return table(group, ["number", "value", *marked, tag("th", "of 1", scope="col", class_="scale")], body)


def _is_count(name) -> bool:
    return name.split("/")[-1] in COUNTS


def _scale(name, values) -> Html:
    """A bar for the value and a mark for each control."""
    if _is_count(name) or not all(0 <= value <= 1 for value in values.values()):
        return Html("")
    bar = tag("rect", x=0, y=3, width=round(100 * values[""], 1), height=6, class_="bar")
    marks = [
        tag("rect", x=round(100 * value, 1) - 0.75, y=0, width=1.5, height=12, class_=f"mark {control}")
        for control, value in values.items()
        if control
    ]
    ground = tag("rect", x=0, y=3, width=100, height=6, class_="ground")
    return tag(
        "svg", ground, bar, *marks, viewBox="0 0 100 12", preserveAspectRatio="none", aria_hidden="true", class_="meter"
    )


def charts(records: Mapping[str, Record]) -> Html:
    """Losses, accuracies and whatever was evaluated more than once, over the steps of one run or several."""
    trained = {name: curves(record.metrics) for name, record in records.items()}
    evaluated = {name: curves(record.evaluation) for name, record in records.items()}
    drawn = [
        line_chart(spoken(name), _by_run(trained, name))
        for name in _names(trained)
        if any(part in name for part in CURVES)
    ]
    often = any(len(record.evaluation) > 1 for record in records.values())
    drawn += [
        line_chart(f"evaluated: {spoken(name)}", _by_run(evaluated, name))
        for name in (headlines(next(iter(records.values())).summary) if often else ())
    ]
    return tag("div", *drawn, class_="charts")


def _names(curves_by_run) -> list[str]:
    names = list(dict.fromkeys(name for found in curves_by_run.values() for name in found))
    return sorted(names, key=lambda name: (name != "loss", not name.endswith("loss")))


def _by_run(curves_by_run, name) -> dict[str, Series]:
    return {run: found[name] for run, found in curves_by_run.items() if name in found}


def facts(record: Record) -> Html:
    """Where the numbers come from: steps, data, time, versions."""
    last, seconds = (record.metrics or [{}])[-1], [line["seconds"] for line in record.timing]
    rows = {"steps": f"{record.summary.get('step', 0):,}"}
    for name, count in last.items():
        if name.startswith("data/") and name.endswith("/read"):
            source = name.split("/")[1]
            rows[f"records of {source}"] = f"{count:,.0f} read, {last.get(f'data/{source}/used', 0):,.0f} used"
    rows |= {spoken(name): f"{value:,.0f}" for name, value in record.summary.items() if name == "rejected/total"}
    if seconds:
        rate, waited = (median(line[key] for line in record.timing) for key in ("examples_per_second", "wait_share"))
        minutes, rest = divmod(round(sum(seconds)), 60)
        rows["time in steps"] = f"{minutes} min {rest} s"
        rows["pace"] = f"{rate:,.0f} examples a second, {waited:.1%} of the time waiting for data (medians)"
    for key in ("git", "flags", "python", "jax", "flax"):
        value = record.provenance.get(key)
        if value:
            rows[key] = " ".join(value) if isinstance(value, list) else str(value)
    pairs = [part for name, value in rows.items() for part in (tag("dt", name), tag("dd", value))]
    return tag("dl", *pairs, class_="facts")
