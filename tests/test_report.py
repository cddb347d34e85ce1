"""The page of a backtest, looked at in a real browser: it needs no network, and everything can be read."""

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from streamlearn.studies.backtest.report import page
from tests.browser import Browser

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
LAPTOP, PHONE = (1280, 800), (375, 740)


def result(models: tuple[str, ...] = ("tree", "logistic"), points: int = 120) -> dict[str, Any]:
    """What a backtest of these models could have given."""

    def wave(n: int) -> list[float]:
        return [0.9 - 0.1 * n + 0.03 * math.sin(at / 9 + n) for at in range(points)]

    def model(n: int, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "use": f"my_models:{name}",
            "version": "0123456789ab",
            "scores": {"accuracy": 0.9 - 0.1 * n, "log_loss": 0.3 + 0.1 * n, "kappa_m": -0.0123},
            "us_per_event": 34.56 + n,
            "model_bytes": 20480 * (n + 1),
            "growth_bytes_per_event": 1.2,
            "digests": {"predictions": "ab" * 32, "scores": "cd" * 32},
        }

    def pair(a: str, b: str) -> dict[str, Any]:
        return {
            "a": a,
            "b": b,
            "metric": "accuracy",
            "method": "Howard et al. 2021, exact",
            "words": f"{a} is better than {b} by 0.1 [0.08, 0.12] accuracy",
        }

    against = [(models[0], models[-1]), (models[0], "no_change")]
    shrinking = [1 / (at + 1) for at in range(points)]
    band = {
        "mean": [0.1 for _ in shrinking],
        "low": [0.1 - half for half in shrinking],
        "high": [0.1 + half for half in shrinking],
    }
    return {
        "source": "river:Phishing",
        "task": "classification",
        "metric": "accuracy",
        "delay": "5m",
        "events": 12_345,
        "labels": 12_000,
        "window": 1000,
        "seconds": 3.21,
        "warnings": ["logistic does not beat no_change."],
        "models": [model(n, name) for n, name in enumerate(models)],
        "baselines": [
            {"name": "no_change", "scores": {"accuracy": 0.97, "log_loss": None}},
            {"name": "prior", "scores": {"accuracy": 0.5, "log_loss": 0.69}},
        ],
        "pairs": [pair(*two) for two in against],
        "versions": {"python": "3.11", "river": "0.26.1"},
        "curves": {
            "events": [at * 100 for at in range(1, points + 1)],
            "models": {name: wave(n) for n, name in enumerate(models)},
            "baselines": {"no_change": [None, *wave(3)[1:]], "prior": wave(4)},
            "us": {name: [20 + 40 * v for v in wave(n)] for n, name in enumerate(models)},
            "pairs": [band, band],
        },
    }


class Outline(HTMLParser):
    """Every element and its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_refers_to_nothing_outside_itself() -> None:
    outline = Outline()
    outline.feed(page(result()))
    assert not {tag for tag, _ in outline.found} & {"img", "iframe", "object", "base", "form", "a"}
    for tag, attributes in outline.found:
        address = attributes.get("href") or attributes.get("src")
        assert address in (None, "data:,"), (tag, address)


def test_numbers_are_written_for_people() -> None:
    text = page(result())
    for number in ("12,345", "34.6 µs", "20.5 kB", "0.9000", "3.2 s"):
        assert number in text


def test_the_best_of_each_column_is_marked_lowest_where_lower_is_better() -> None:
    best = re.findall(r'class="(?:main )?best">([^<]+)<', page(result()))
    assert best == ["0.3000", "0.9700"]


def test_what_is_vendored_is_uplot_with_its_licence() -> None:
    room = Path(__file__).parent.parent / "streamlearn" / "studies" / "backtest" / "page" / "uplot"
    assert "(v1.6.32)" in (room / "uPlot.iife.min.js").read_text()[:60]
    assert "MIT" in (room / "LICENSE").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


BOXES = """
[...document.querySelectorAll(
    "h1, h2, h3, .facts, .warning, section > p, table, ul.verdicts, .u-wrap, .u-legend")]
    .map((one) => {
        const {left, top, right, bottom} = (one.closest(".wide") ?? one).getBoundingClientRect();
        const what = `${one.tagName} ${one.className}: ${one.textContent.slice(0, 40)}`;
        return {what, left, top, right, bottom};
    })
"""
# Pixels that are not the canvas's ground: inside the axes, left of them and below them; and how many colours.
PLOTS = """
[...document.querySelectorAll("figure[data-plot]")].map((figure) => {
    const canvas = figure.querySelector("canvas"), over = figure.querySelector(".u-over");
    const at = canvas.getBoundingClientRect(), inner = over.getBoundingClientRect();
    const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const [left, bottom] = [inner.left - at.left, inner.bottom - at.top];
    const seen = {left: 0, bottom: 0, inside: 0}, strong = new Set();
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
        const i = 4 * (y * width + x);
        if (!data[i + 3]) continue;
        seen[x < left ? "left" : y > bottom ? "bottom" : "inside"] += 1;
        if (x > left && y < bottom && data[i + 3] === 255) strong.add(data.slice(i, i + 3).join());
    }
    const legend = [...figure.querySelectorAll(".u-legend .u-label")].map((one) => one.textContent);
    return {...seen, colours: strong.size, legend, name: canvas.getAttribute("aria-label"), ground: at.width};
})
"""


def overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    wide = min(a["right"], b["right"]) - max(a["left"], b["left"])
    high = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
    return wide > 1 and high > 1


@pytest.mark.browser
@pytest.mark.parametrize("screen", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(
    browser: Browser, tmp_path: Path, screen: tuple[int, int], dark: bool
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(result()))
    browser.open(file, *screen, dark=dark)
    boxes = browser.run(BOXES)
    assert len(boxes) > 20
    for n, box in enumerate(boxes):
        assert box["right"] - box["left"] > 20, box
        assert box["bottom"] - box["top"] > 8, box
        assert box["left"] >= 0, box
        assert box["right"] <= screen[0], box
        for other in boxes[:n]:
            assert not overlap(box, other), (box, other)
    assert browser.run("document.documentElement.scrollWidth") <= screen[0], "no scrolling sideways"
    assert browser.complaints == []


@pytest.mark.browser
def test_every_plot_has_axes_a_legend_and_lines(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(result()))
    browser.open(file, *LAPTOP)
    plots = browser.run(PLOTS)
    assert [plot["legend"] for plot in plots] == [
        ["event", "tree", "logistic", "no_change", "prior"],
        ["event", "difference", "95 % high", "95 % low"],
        ["event", "difference", "95 % high", "95 % low"],
        ["event", "tree", "logistic"],
    ]
    assert [plot["name"] for plot in plots] == [
        "accuracy by events read",
        "difference in accuracy, in favour of the first by events read",
        "difference in accuracy, in favour of the first by events read",
        "µs per event by events read",
    ]
    for plot in plots:
        assert plot["left"] > 100, "numbers and a label at the y axis"
        assert plot["bottom"] > 100, "numbers and a label at the x axis"
        assert plot["inside"] > 1000
        assert plot["colours"] >= 2, "lines in their own colours, over the grid"


@pytest.mark.browser
def test_the_page_asks_no_network_and_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    hostile = result(models=(HOSTILE, "other"))
    hostile["source"] = hostile["warnings"][0] = HOSTILE
    file = tmp_path / "page.html"
    file.write_text(page(hostile))
    browser.open(file, *LAPTOP)
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.requests == [file.as_uri()]
    assert browser.complaints == []
    assert browser.run("document.title") == f"Backtest of {HOSTILE}"
    assert browser.run("document.scripts.length") == 3
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert HOSTILE in browser.run("document.querySelector('.u-legend').textContent")
    assert browser.run("document.querySelector('.verdicts').textContent").startswith(HOSTILE)


@pytest.mark.browser
def test_a_run_without_labels_still_makes_a_page(browser: Browser, tmp_path: Path) -> None:
    empty = result(models=("tree",), points=0)
    empty |= {"labels": 0, "pairs": [], "warnings": []}
    empty["curves"]["pairs"] = []
    empty["curves"]["baselines"] = {"no_change": [], "prior": []}
    file = tmp_path / "page.html"
    file.write_text(page(empty))
    browser.open(file, *PHONE)
    assert browser.complaints == []
    assert len(browser.run(PLOTS)) == 2


@pytest.mark.browser
def test_the_best_is_bold_also_when_it_is_a_baseline_and_names_are_not(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(result()))
    browser.open(file, *LAPTOP)
    weights = (
        "[...document.querySelectorAll('.scores tbody %s')].map((one) => getComputedStyle(one).fontWeight)"
    )
    assert browser.run(weights % "td.best") == ["700", "700"]
    assert set(browser.run(weights % "th")) == {"400"}
    assert "0.9700" in browser.run("document.querySelector('tr.baseline td.best').textContent")
    assert browser.run("document.querySelector('p.winner').textContent") == "best by accuracy: no_change"


def test_a_model_whose_numbers_mean_something_else_is_marked_and_never_the_best() -> None:
    odd = result()
    odd["models"][0] |= {"frozen": "raised", "frozen_at": 400, "labels": 11_000, "learned": 396}
    odd["models"][0]["scores"]["accuracy"] = 0.99
    text = page(odd)
    assert "<small>stopped learning at event 400</small>" in text
    assert "best by accuracy: no_change" in text
    assert re.findall(r'class="(?:main )?best">([^<]+)<', text) == ["0.4000", "0.9700"]
    assert "11,000 (tree), 12,000 (logistic)" in text
