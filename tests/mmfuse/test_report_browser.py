"""The page in a real browser: a word that is pointed at shows where it looked; the page fits a phone and a desk."""

import pytest

from mmfuse.analysis.report import write_report
from tests.browser import Browser
from tests.small_report import GRID, MAPS, WORDS, heat, write_workdir

CANVASES = "[...document.querySelector('.card').querySelectorAll('canvas')]"
SHOWN = f"{CANVASES}.map((canvas) => canvas.toDataURL())"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_report(write_workdir(tmp_path_factory.mktemp("runs") / "one"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def veil(browser, canvas):
    """How opaque each patch of a canvas is."""
    script = f"(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])({CANVASES}[{canvas}])"
    return browser.run(script)[3::4]


def test_pointing_at_a_word_changes_every_map(browser, path):
    browser.open(path, width=1280)
    before = browser.run(SHOWN)
    assert len(set(before)) == 2 * MAPS  # the first word is shown at first, in three maps of two memories
    browser.point_at(".card .word:nth-of-type(2)")
    after = browser.run(SHOWN)
    assert not set(before) & set(after)
    assert browser.run("document.querySelector('.card .told').textContent").startswith(f"“{WORDS[1]}”")
    assert not browser.complaints()


def test_a_map_is_open_where_the_word_looked(browser, path):
    browser.open(path, width=1280)
    browser.point_at(".card .word:nth-of-type(2)")
    for canvas, seed in ((0, 10), (2, 12), (3, 110)):  # layer 1 and the rollout of the picture, layer 1 of the sound
        wanted = heat(seed)
        opaque = 215 * (1 - wanted / wanted.max()).ravel()
        seen = veil(browser, canvas)
        assert len(seen) == GRID[0] * GRID[1]
        assert max(abs(a - b) for a, b in zip(seen, opaque, strict=True)) < 2
    box = "document.querySelector('.card .boxes rect')"
    assert [browser.run(f"{box}.getAttribute('{name}')") for name in ("x", "y")] == ["0.1", "0.2"]


def test_words_are_reached_with_the_keyboard(browser, path):
    browser.open(path, width=1280)
    browser.run("document.querySelector('.card .word').focus()")
    before = browser.run(SHOWN)
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.textContent") == WORDS[1]
    assert not set(before) & set(browser.run(SHOWN))
    label = browser.run(f"{CANVASES}[0].getAttribute('aria-label')")
    assert label.startswith(f"layer 1, picture, for “{WORDS[1]}”: 25 %, most at the ")


@pytest.mark.parametrize(("width", "phone"), [(390, True), (1280, False)])
def test_the_page_fits(browser, path, width, phone):
    browser.open(path, width=width, phone=phone)
    assert browser.run("document.documentElement.scrollWidth") == width
    beyond = (
        f"[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll') && "
        f"e.getBoundingClientRect().right > {width} + 1).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert browser.run(beyond) == []
    assert browser.run("document.querySelector('.word').getBoundingClientRect().height") >= 24  # WCAG 2.2, 2.5.8


@pytest.mark.parametrize(("width", "height"), [(375, 553), (320, 568), (390, 664)])
def test_words_are_seen_beside_what_stays_in_sight_on_a_phone(browser, path, width, height):
    browser.open(path, width=width, height=height, phone=True)
    word = "document.querySelector('.card .word:last-of-type')"
    browser.run(f"{word}.focus()")
    middle = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({word}.getBoundingClientRect())"
    assert browser.run(f"document.elementFromPoint(...{middle}) === {word}")
    assert browser.run("document.querySelector('.card .seen').getBoundingClientRect().height") <= 0.46 * height
