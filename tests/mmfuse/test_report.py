"""The page of a run holds what the run's files say, and nothing of the data becomes a part of the page."""

import html.parser
import json
import re
from pathlib import Path

import pytest

from mmfuse.analysis import report
from mmfuse.analysis.charts import line_chart, number, ticks
from mmfuse.analysis.gates import gate_charts
from mmfuse.analysis.html import data_block, join, tag
from mmfuse.analysis.record import (
    CONTROLS,
    headlines,
    read_record,
    split_control,
    time_spent,
    with_controls,
    write_examples,
)
from tests.small_report import HOSTILE, write_workdir

STYLE = (Path(report.__file__).parent / "page.css").read_text()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_workdir(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def page(workdir):
    return Page(report.write_report(workdir).read_text())


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, and the text of each."""

    def __init__(self, source):
        super().__init__()
        self.source, self.elements, self.open = source, [], []
        self.feed(source)
        assert not self.open, f"never closed: {[name for name, _, _ in self.open]}"

    def handle_starttag(self, name, attributes):
        element = (name, dict(attributes), [])
        self.elements.append(element)
        if name not in ("img", "meta"):
            self.open.append(element)

    def handle_endtag(self, name):
        assert self.open.pop()[0] == name

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def find(self, name, **wanted):
        wanted = {key.rstrip("_"): value for key, value in wanted.items()}
        return [
            (attributes, "".join(text))
            for found, attributes, text in self.elements
            if found == name and wanted.items() <= attributes.items()
        ]


def test_numbers_stand_beside_their_controls(page):
    rows = [text for _, text in page.find("tr")]
    assert "accuracy0.7500.3750.500" in rows  # majority, then blind
    assert "accuracy · colour0.625–0.125" in rows
    assert "image to text · recall at 10.0620.031" in rows
    assert "layer 10.6250.18816" in rows and not any("rollout" in row for row in rows)
    tile = page.find("div", class_="tile")[0][1]
    assert tile == "vqa · accuracy0.750majority 0.375 · blind 0.500"


def test_nothing_of_the_data_becomes_a_part_of_the_page(page):
    scripts = page.find("script")
    assert [attributes for attributes, _ in scripts] == [{"type": "application/json", "id": "looks"}, {}]
    assert not [attributes for name, attributes, _ in page.elements if "onerror" in attributes]
    assert all(attributes["src"].startswith("data:image/") for attributes, _ in page.find("img"))
    for name in ("h3", "q"):
        assert HOSTILE in [text for _, text in page.find(name)]
    assert HOSTILE in [text for _, text in page.find("p", class_="prompt")]
    assert f"--config={HOSTILE}" in [text for _, text in page.find("dd")]
    assert page.find("img", alt=HOSTILE)


def test_the_page_needs_nothing_but_itself(page):
    for _, attributes, _ in page.elements:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("data:", "#"))
    assert "http" not in re.sub(r"http://www.w3.org/2000/svg|http-equiv", "", page.source)
    policy = page.find("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"]
    assert policy.startswith("default-src 'none';")


def test_every_picture_has_words_and_every_link_a_goal(page):
    assert all("alt" in attributes for attributes, _ in page.find("img"))
    assert all(attributes.get("aria-label") or attributes.get("aria-hidden") for attributes, _ in page.find("svg"))
    names = {attributes["id"] for attributes, _ in page.find("section")}
    assert {attributes["href"] for attributes, _ in page.find("a")} == {f"#{name}" for name in names}
    for _, attributes, _ in page.elements:
        assert attributes.get("role") != "img" or attributes["aria-label"]
    assert all("scope" in attributes for attributes, _ in page.find("th"))


def test_a_card_says_which_gates_were_open(page):
    said = [text for _, text in page.find("p", class_="quiet gates")]
    assert said and set(said) == {"gates: image open (0.970) · audio shut (0.125)"}


def test_words_lead_to_where_they_looked(page):
    looks = json.loads(page.find("script", id="looks")[0][1])
    words = page.find("button", class_="word")
    assert [text for _, text in words] == [looks[int(attributes["data-look"])]["text"] for attributes, _ in words]
    assert len(words) == len(looks) == 4
    maps = [(attributes["data-memory"], attributes["data-map"]) for attributes, _ in page.find("canvas")]
    assert maps[:6] == [(name, str(index)) for name in ("image", "audio") for index in range(3)]


def test_runs_are_compared(tmp_path, workdir, capsys):
    other = write_workdir(tmp_path / "two", rate=0.5)
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**summary, "vqa/accuracy": 0.5, "new": 2.0}))
    out = tmp_path / "both.html"
    assert report.main([str(workdir), str(other), f"--out={out}"]) == 0
    assert str(out) in capsys.readouterr().out
    page = Page(out.read_text())
    rows = [text for _, text in page.find("tr")]
    assert "vqa · accuracy0.7500.500−0.250" in rows
    assert "caption · cider1.5001.5000" in rows
    assert "new–2–" in rows
    assert "optimizer.learning_rate0.10.5" in rows and not any(row.startswith("seed") for row in rows)
    assert len(page.find("polyline")) == 2 * 2 * 2  # raw and smooth, of two runs, of the loss and the accuracy


def test_a_page_says_which_step_it_is_about(tmp_path):
    workdir = write_workdir(tmp_path / "run")
    assert report.reported_step(workdir) is None
    report.write_report(workdir)
    assert report.reported_step(workdir) == 40
    summary = json.loads((workdir / "summary.json").read_text())
    (workdir / "summary.json").write_text(json.dumps({**summary, "step": 1000}))
    assert report.reported_step(workdir) == 40  # the run has gone on, its page has not
    report.write_report(workdir)
    assert report.reported_step(workdir) == 1000 and report.reported_step(workdir, "other") is None


def test_a_folder_without_numbers_is_refused_in_a_sentence(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "summary.json is missing" in capsys.readouterr().err


def test_what_is_no_unicode_text_is_shown_in_ascii(tmp_path):
    workdir = write_workdir(tmp_path / "run")
    examples = json.loads((workdir / "examples.json").read_text())
    card = examples["vqa"]["answers"]["shown"][1]
    card["key"], card["texts"][0]["expected"] = "caf\udce9.tar", ["\ud800"]
    write_examples(workdir, examples)
    page = Page(report.write_report(workdir).read_text())
    assert "caf\\udce9.tar" in [text for _, text in page.find("h3")]
    assert any(text.startswith("true: \\ud800 ·") for _, text in page.find("p", class_="truth"))


def test_a_line_that_a_kill_has_cut_is_passed_over(tmp_path):
    workdir = write_workdir(tmp_path / "run")
    whole = read_record(workdir)
    for name in ("metrics", "timing", "evaluation"):
        with (workdir / f"{name}.jsonl").open("a") as file:
            file.write('{"step": 41, "secon')
    assert read_record(workdir) == whole and time_spent(workdir)["time/wall_seconds"] == 40 * 0.5


def test_a_named_evaluation_has_a_page_of_its_own(tmp_path):
    workdir = write_workdir(tmp_path / "run")
    (workdir / "summary-shifted.json").write_text(json.dumps({"step": 40, "vqa/accuracy": 0.375}))
    path = report.write_report(workdir, "shifted")
    assert path.name == "report-shifted.html" and not (workdir / "report.html").exists()
    page = Page(path.read_text())
    assert page.find("div", class_="tile")[0][1] == "vqa · accuracy0.375no control was measured"
    assert not page.find("button")  # examples of another evaluation are not shown as its own


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("vqa/accuracy_blind/colour", ("vqa/accuracy/colour", "blind")),
        ("a/recall_at_1_chance", ("a/recall_at_1", "chance")),
        ("vqa/accuracy", ("vqa/accuracy", "")),
        ("blind/accuracy", ("blind/accuracy", "")),
        ("vqa_blind/accuracy_chance", ("vqa_blind/accuracy", "chance")),
    ],
)
def test_a_control_says_what_it_controls(name, split):
    assert split_control(name) == split


def test_the_first_numbers_are_those_that_people_ask_for(workdir):
    summary = read_record(workdir).summary
    assert headlines(summary) == ["vqa/accuracy", "retrieval/image_to_text/recall_at_1", "caption/cider"]
    assert with_controls(summary)["vqa/accuracy"] == {"": 0.75, "blind": 0.5, "majority": 0.375}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (1.1, 17.9, [0, 5, 10, 15, 20]),
        (-3, 3, [-4, -2, 0, 2, 4]),
        (2, 2, [1, 1.5, 2, 2.5, 3]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (512.0, "512"), (0.02, "0.020"), (12.34, "12.3"), (0.00012, "0.00012"), (-1234.5, "-1,234")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_a_chart_draws_values_where_they_are():
    chart = Page(line_chart("loss", {"run": [(1, 8.0), (2, float("nan")), (3, 0.0)]}))
    points = [tuple(map(float, pair.split(","))) for pair in chart.find("polyline")[0][0]["points"].split()]
    rules = [float(attributes["y1"]) for attributes, _ in chart.find("line")]
    assert points == [(46, min(rules)), (308, max(rules))]
    assert line_chart("loss", {"run": [(1, float("inf"))]}) == ""


def test_gates_are_drawn_from_clean_to_the_worst():
    levels = {f"gating/soft/audio/noise/{level}": 1 - level / 10 for level in (5, 1, 3)}
    other = {"gating/open/audio/noise/5": 0.25, "gating/soft/image": 0.5, "gating/soft/audio/clean": 1.0}
    chart = Page(gate_charts(levels | other))
    (figure,) = chart.find("figure")
    assert (
        figure[1].startswith("gating, audio: noise")
        and "over levels of damage" in chart.find("svg")[0][0]["aria-label"]
    )
    (soft,) = chart.find("polyline", class_="raw run1")
    places = [tuple(map(float, pair.split(","))) for pair in soft[0]["points"].split()]
    assert [round((x - 46) / 262, 2) for x, _ in places] == [0.0, 0.2, 0.6, 1.0]
    assert [y for _, y in places] == sorted(y for _, y in places)  # down, as the gate shuts
    assert len(chart.find("circle", class_="dot run0")) == 1
    assert gate_charts({"gating/open/audio": 1.0, "vqa/accuracy": 0.5}) == ""


def test_text_is_escaped_once():
    inner = tag("b", "a < b", title='"')
    assert inner == '<b title="&quot;">a &lt; b</b>'
    assert join(inner, "&") == inner + "&amp;"
    assert "</script" not in data_block("x", {"a": "</script><script>"}).removesuffix("</script>")


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_has_a_colour_of_its_own(control):
    (mark,) = re.findall(rf"\.mark\.{control} {{ fill: var\(--(\w+)\); }}", STYLE)
    (head,) = re.findall(rf"thead \.{control} {{ color: var\(--(\w+)\); }}", STYLE)
    assert mark == head == ("ink" if control == "chance" else control)


def luminance(colour):
    colour = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_text_can_be_read_in_light_and_dark(theme):
    """WCAG 2.1, 1.4.3: 4.5 to 1 between text and what is behind it."""
    colours = dict(re.findall(r"--(\w+): (#\w+);", re.findall(r":root \{(.*?)\}", STYLE, re.S)[theme]))
    for ground in ("ground", "card"):
        for ink in ("ink", "quiet", "accent", "good", "bad", *set(CONTROLS) - {"chance"}):
            light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
