"""How do gates behave as what they guard gets worse?

A chart for each evaluator of gates, modality and kind of corruption: the share of open gates and the mean probability
of being open, from what is clean (0) to the worst level, as the evaluator counts them.
"""

import re
from collections.abc import Mapping

from mmfuse.analysis.charts import Series, line_chart, run_class
from mmfuse.analysis.html import Html, join, tag

LINES = {"open": "share of open gates", "soft": "probability of being open"}
NUMBER = re.compile(rf"(.+)/({'|'.join(LINES)})/([^/]+)/([^/]+)/(\d+)")


def gate_charts(summary: Mapping[str, int | float]) -> Html:
    """The charts of all gates in a summary; empty where there are none."""
    charts: dict[str, dict[str, list[tuple[int, int | float]]]] = {}
    for name, value in summary.items():
        found = NUMBER.fullmatch(name)
        if found:
            evaluator, line, modality, kind, level = found.groups()
            lines = charts.setdefault(f"{evaluator}, {modality}: {kind.replace('_', ' ')}", {})
            clean = summary.get(f"{evaluator}/{line}/{modality}/clean")
            begin = [] if clean is None else [(0, clean)]
            lines.setdefault(LINES[line], begin).append((int(level), value))
    if not charts:
        return Html("")
    legend = tag(
        "p", *(tag("span", name, class_=f"key {run_class(index)}") for index, name in enumerate(LINES.values()))
    )
    drawn = [line_chart(title, _in_order(lines), over="levels of damage") for title, lines in charts.items()]
    return join(legend, tag("div", *drawn, class_="charts"))


def _in_order(lines) -> dict[str, Series]:
    return {name: sorted(lines[name]) for name in LINES.values() if name in lines}
