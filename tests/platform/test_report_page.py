"""The report in a real browser: nothing is fetched, nothing hostile runs, charts answer, and a keyboard reaches everything.

Needs Playwright for Python and a Chromium (on PATH, or named by CHROMIUM); skipped where either is missing.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import report_case
from report_case import EVIL_TOKEN

from avalanche_llm.report.gather import PAPER, Evidence
from avalanche_llm.report.page import render

playwright_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Seen:
    """What a page said and asked for while it was open."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a measurement full of markup, as a file."""
    folder = tmp_path_factory.mktemp("page")
    job = report_case.measured(folder)
    path = folder / "report.html"
    path.write_bytes(render(Evidence.of(job.store, job.upstream(PAPER)), job.settings, job.config.sha256))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


def opened(browser: Any, address: str, *, viewport: dict[str, int] = DESKTOP, **options: Any) -> tuple[Any, Seen]:
    """The page, its charts drawn, and what it does from now on."""
    page, seen = browser.new_context(viewport=viewport, **options).new_page(), Seen()
    page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (seen.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(address)
    page.wait_for_selector("#chart-sizes .plot-container")
    return page, seen


@pytest.fixture(scope="module")
def desktop(browser: Any, address: str) -> tuple[Any, Seen]:
    return opened(browser, address)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_quiet_and_fits(browser: Any, address: str, viewport: dict[str, int], scheme: str) -> None:
    page, seen = opened(browser, address, viewport=viewport, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    page.mouse.wheel(0, 20000)
    assert seen.complaints == []
    assert [url[:60] for url in seen.requests if not url.startswith("data:")] == [address[:60]]
    page.context.close()


def test_colours_follow_the_scheme(browser: Any, address: str) -> None:
    page, _ = opened(browser, address, color_scheme="light")
    text = "[getComputedStyle(document.body).color, document.querySelector('#chart-branching .xtick text').style.fill]"
    light = page.evaluate(text)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"(before) => {text}.every((colour, i) => colour !== before[i])", arg=light)
    page.context.close()


def test_policy_stops_foreign_scripts_and_requests(browser: Any, address: str) -> None:
    page, seen = opened(browser, address)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hostile = 1' }))")
    page.evaluate("document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/pixel' }))")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hostile") is None
    assert len([text for text in seen.complaints if "Content Security Policy" in text]) == 2
    page.context.close()


def test_hover_over_the_raster_names_the_token(desktop: tuple[Any, Seen]) -> None:
    page, seen = desktop
    words = page.evaluate("Array.from(document.getElementById('passage').children, (word) => word.textContent)")
    places = [place for place, word in enumerate(words) if word == EVIL_TOKEN]
    plot = page.locator("#chart-raster")
    plot.scroll_into_view_if_needed()
    found = page.evaluate(
        """(places) => {
          const { _fullLayout: { xaxis, yaxis }, data } = document.getElementById("chart-raster");
          const layerOf = (token) => data[0].z.findIndex((row) => row[token] !== null);
          const token = places.find((place) => layerOf(place) >= 0);
          return token === undefined ? null : [xaxis._offset + xaxis.d2p(token), yaxis._offset + yaxis.d2p(layerOf(token))];
        }""",
        places,  # which of them has an event follows the windows, and these the folder's name
    )
    assert found is not None
    box = plot.bounding_box()
    page.mouse.move(box["x"] + found[0], box["y"] + found[1])
    page.wait_for_selector("#chart-raster .hoverlayer .hovertext")
    assert EVIL_TOKEN in page.text_content("#chart-raster .hoverlayer")
    assert seen.complaints == []


def test_choices_redraw_every_chart(desktop: tuple[Any, Seen]) -> None:
    page, _ = desktop
    drawn = "['chart-branching', 'chart-excess', 'chart-raster', 'chart-sizes'].map((id) => JSON.stringify(document.getElementById(id).data))"
    before, said = page.evaluate(drawn), page.text_content("#said")
    page.check("#pick-definition input:not(:checked)")
    after = page.evaluate(drawn)
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert page.text_content("#said") != said


def test_bands_end_where_a_gain_has_no_interval(browser: Any, address: str) -> None:
    """One fill over all gains would draw an interval at the gain that has none."""
    path = Path(unquote(urlparse(address).path))
    before, data, after = re.split(r'(?<=id="chart-data">)(.*?)(?=</script>)', path.read_text(encoding="utf-8"), maxsplit=1)
    charts = json.loads(data)
    for cell in charts["models"][0]["cells"].values():
        for curve in cell["curves"].values():
            for end in curve.keys() & {"low", "high"}:
                curve[end][1] = None
    gaps = path.with_name("gaps.html")
    gaps.write_text(before + json.dumps(charts).replace("<", "\\u003c") + after, encoding="utf-8")
    page, seen = opened(browser, gaps.as_uri())
    gains = next(iter(charts["models"][0]["cells"].values()))["g"]
    for chart, curves in (("chart-branching", 3), ("chart-excess", 4)):
        bands = page.evaluate(f"document.getElementById('{chart}').data.filter((trace) => trace.fill === 'toself').map((trace) => trace.x)")
        assert bands == [[gains[0]] * 2, [*gains[2:], *reversed(gains[2:])]] * curves
    assert seen.complaints == []
    page.context.close()


def test_slider_moves_by_keyboard_and_says_the_token(desktop: tuple[Any, Seen]) -> None:
    page, _ = desktop
    page.focus("#token")
    page.keyboard.press("Home")
    first = page.evaluate("document.getElementById('passage').children[0].textContent")
    assert page.text_content("#token-said").startswith(f"token 0 “{first}”")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#token-said").startswith("token 1 ")
    assert page.evaluate("document.getElementById('chart-raster').layout.shapes[0].x0") == 1
    assert page.get_attribute("#token", "aria-valuetext") == page.text_content("#token-said")


def test_heading_sorts_up_and_down(desktop: tuple[Any, Seen]) -> None:
    page, _ = desktop
    heading = page.locator("#t-T01_SUMMARY thead th", has_text=re.compile("^b_tot$"))
    column = heading.evaluate("(heading) => heading.cellIndex")
    read = f"Array.from(document.querySelector('#t-T01_SUMMARY tbody').rows, (row) => row.cells[{column}].title)"
    shown = page.evaluate(read)
    numbers, empty = [float(text) for text in shown if text], [None] * shown.count("")
    for state, downwards in (("ascending", False), ("descending", True)):
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == state
        found = [float(text) if text else None for text in page.evaluate(read)]
        assert found == sorted(numbers, reverse=downwards) + empty
        assert f"b_tot, {state}" in page.text_content("#sorted")
    assert page.locator("#t-T01_SUMMARY [aria-sort]").count() == 1


def test_missing_values_sort_last_both_ways(desktop: tuple[Any, Seen]) -> None:
    page, _ = desktop
    page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true })")
    heading = page.locator("#t-T05_CRACKLING_DIAGNOSTICS thead th", has_text=re.compile("^crackling_gamma$"))
    column = heading.evaluate("(heading) => heading.cellIndex")
    read = f"Array.from(document.querySelector('#t-T05_CRACKLING_DIAGNOSTICS tbody').rows, (row) => row.cells[{column}].textContent)"
    page.evaluate(f"document.querySelector('#t-T05_CRACKLING_DIAGNOSTICS tbody').rows[0].cells[{column}].textContent = 'n/a'")
    page.evaluate(f"document.querySelector('#t-T05_CRACKLING_DIAGNOSTICS tbody').rows[0].cells[{column}].title = ''")
    for _ in range(2):
        heading.locator("button").click()
        shown = page.evaluate(read)
        missing = [text == "n/a" for text in shown]
        assert any(missing)
        assert missing == sorted(missing)


def test_further_columns_appear_on_demand(desktop: tuple[Any, Seen]) -> None:
    page, _ = desktop
    optional = page.locator("#t-T01_SUMMARY thead th[data-o]")
    assert optional.count() > 30
    assert not optional.first.is_visible()
    page.check("[data-optional='t-T01_SUMMARY']")
    assert optional.first.is_visible()
    cells = page.evaluate("new Set(Array.from(document.querySelectorAll('#t-T01_SUMMARY tr'), (row) => row.cells.length)).size")
    assert cells == 1


def test_keyboard_reaches_everything_in_reading_order(browser: Any, address: str) -> None:
    page, _ = opened(browser, address)
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("(document.activeElement.id || document.activeElement.textContent.trim()).slice(0, 40)"))
    expected = ["Skip to the findings", "Read first", "Verdicts", "Provenance", "pick-rate", "token", "pick-gain"]
    assert stops[0] == expected[0]
    places = [next(i for i, stop in enumerate(stops) if stop == name) for name in expected]
    assert places == sorted(places)
    top = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert top >= page.evaluate("document.querySelector('nav').getBoundingClientRect().bottom") - 1
    page.context.close()


def test_a_figure_opens_larger_and_escape_closes_it(browser: Any, address: str) -> None:
    page, _ = opened(browser, address)
    button = page.locator("#F03_BRANCHING_CURVES_INSTRUCT button")
    small = button.locator("img").bounding_box()["width"]
    button.press("Enter")
    dialog = page.locator("#enlarged")
    assert dialog.is_visible()
    assert dialog.locator("img").bounding_box()["width"] > small
    assert dialog.locator("img").get_attribute("alt")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.context.close()


def test_motion_stops_where_the_reader_asks(browser: Any, address: str) -> None:
    for wish, expected in (("reduce", "auto"), ("no-preference", "smooth")):
        page, _ = opened(browser, address, reduced_motion=wish)
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == expected
        page.context.close()


def test_without_scripts_the_numbers_are_still_there(browser: Any, address: str) -> None:
    page = browser.new_context(viewport=PHONE, java_script_enabled=False).new_page()
    page.goto(address)
    assert page.locator("#look .hint").is_visible()
    assert page.locator("#t-T01_SUMMARY tbody tr").first.is_visible()
    assert not page.locator("#charts").is_visible()
    assert page.locator(".gallery img").count() == 11
    page.context.close()


def test_a_missing_fit_is_said_beside_the_chart(browser: Any, address: str) -> None:
    page, _ = opened(browser, address, viewport=PHONE)
    reason = """() => {
      const [model] = JSON.parse(document.getElementById("chart-data").textContent).models;
      const definition = document.querySelector("#pick-definition input:checked").value;
      const cell = model.cells[`${definition}|${document.getElementById("pick-rate").value}`];
      return cell.sizes[document.getElementById("pick-gain").value].reason;
    }"""
    for gain in range(page.locator("#pick-gain option").count()):
        page.select_option("#pick-gain", index=gain)
        expected = page.evaluate(reason)
        assert page.text_content("#sizes-said") == (f"No law was fitted: {expected}." if expected else "")
        laws = page.evaluate("document.getElementById('chart-sizes').data.filter(({ name }) => name === 'power law').length")
        assert laws == (0 if expected else 1)
    page.context.close()
