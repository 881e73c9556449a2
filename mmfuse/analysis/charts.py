"""How does a number change over a run?

A line chart as inline SVG: the mean over bins of steps in front of the values themselves, for one run or several. Its
colours are those of the page's style sheet.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmfuse.analysis.html import Html, tag

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 320, 190, 46, 24, 10, 12
POINTS = 120  # bins of a line
COLOURS = 4  # of the style sheet; a fifth run has that of the first

Number = int | float
Series = Sequence[tuple[Number, Number]]  # (step, or what else a line goes over; value)


def line_chart(title: str, runs: Mapping[str, Series], *, over: str = "steps") -> Html:
    """A figure with a line for each run, over what x counts; values that are not finite are left out."""
    kept = {name: [(x, y) for x, y in series if math.isfinite(y)] for name, series in runs.items()}
    points = [point for series in kept.values() for point in series]
    if not points:
        return Html("")
    xs, ys = (ticks(min(axis), max(axis)) for axis in zip(*points))
    place = _Place(min(x for x, _ in points), max(x for x, _ in points), ys[0], ys[-1])
    lines = [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place.y(y), y2=place.y(y), class_="rule") for y in ys]
    labels = [tag("text", f"{y:.6g}", x=LEFT - 6, y=place.y(y) + 4, class_="tick end") for y in ys]
    inside = [x for x in xs if place.low <= x <= place.high]
    labels += [tag("text", f"{x:,.6g}", x=place.x(x), y=HEIGHT - 6, class_="tick middle") for x in inside]
    drawn = [part for index, series in enumerate(kept.values()) for part in _line(series, place, run_class(index))]
    last = [(name, number(series[-1][1])) for name, series in kept.items() if series]
    spoken = "; ".join(" ".join(pair) for pair in last)
    picture = tag(
        "svg",
        *lines,
        *labels,
        *drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title} over {over}; at the end {spoken}",
    )
    return tag(
        "figure",
        tag("figcaption", title, tag("span", " · ".join(value for _, value in last), class_="last")),
        picture,
        class_="chart",
    )


def ticks(low: Number, high: Number, about: int = 4) -> list[Number]:
    """Round numbers, evenly apart, from below the lowest value to above the highest."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: Number) -> str:
    """Three decimals below 10, one or none above: 0.020, 2.031, 12.5, 1,200; 0.00012 and whole numbers as they are."""
    if not math.isfinite(value) or value == int(value):
        return f"{value:,.0f}" if math.isfinite(value) else str(value)
    if abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:,.{3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"


class _Place:
    """Where values stand in the picture."""

    def __init__(self, low, high, bottom, top):
        self.low, self.high, self.bottom, self.top = low, high, bottom, top

    def x(self, value):
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value):
        share = (value - self.bottom) / (self.top - self.bottom)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def run_class(index: int) -> str:
    """The class of a run's line, dot and key in the style sheet."""
    return f"run{index % COLOURS}"


def _line(series, place, colour):
    if not series:
        return
    if len(series) == 1:
        yield tag("circle", cx=place.x(series[0][0]), cy=place.y(series[0][1]), r=3, class_=f"dot {colour}")
        return
    bins = np.array_split(np.array(series, float), min(POINTS, len(series)))
    for part, name in (
        ([chunk[-1] for chunk in bins], "raw"),
        (_smooth([chunk.mean(axis=0) for chunk in bins]), "line"),
    ):
        points = " ".join(f"{place.x(x)},{place.y(y)}" for x, y in part)
        yield tag("polyline", points=points, class_=f"{name} {colour}")


def _smooth(points):
    """A running mean over a tenth of the line, both ways."""
    half = max(0, len(points) // 20)
    values = np.array(points)
    return [(values[i, 0], values[max(0, i - half) : i + half + 1, 1].mean()) for i in range(len(values))]
