"""The built site, read as a reader would: every page in Chromium, desktop and phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from browser import WIDTHS, chromium, page_names, serve, settle
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.site

LOOK = """() => {
    const texts = selector => [...document.querySelectorAll(selector)];
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    return {
        overflow: wide,
        culprits: wide > 0 ? texts('.bd-article *').filter(e =>
            e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).slice(0, 3)
            .map(e => e.outerHTML.slice(0, 120)) : [],
        unset: texts('.math').filter(e => !e.querySelector('mjx-container')).map(e => e.textContent),
        wrong: texts('mjx-merror, [data-mjx-error]').map(e => e.textContent),
        formulas: texts('.math').length,
        images: texts('img').map(e => [e.getAttribute('src').slice(0, 80), e.naturalWidth, e.getAttribute('alt')]),
        links: texts('a[href]').map(e => e.href),
        ids: texts('[id]').map(e => e.id),
        headings: texts('.bd-article h1').length,
        language: document.documentElement.lang,
    };
}"""


@dataclass
class Visit:
    """What one page looked like at one width."""

    look: dict[str, Any]
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def site() -> Path:
    return Path(os.environ.get("SITE", "build/book/_build/html"))


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with serve(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def watch(page: Page, address: str, visit: Visit) -> None:
    def on_request(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            visit.outside.append(url)

    page.on("request", lambda request: on_request(request.url))
    page.on("requestfailed", lambda request: visit.failed.append(request.url))
    page.on("response", lambda r: visit.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("console", lambda m: visit.console.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: visit.console.append(str(error)))


@pytest.fixture(scope="module")
def visits(site: Path, address: str, browser: Browser) -> dict[tuple[str, str], Visit]:
    seen = {}
    for device, width in WIDTHS.items():
        for name in page_names(site):
            context = browser.new_context(viewport={"width": width, "height": 800})
            page, visit = context.new_page(), Visit({})
            watch(page, address, visit)
            page.goto(f"{address}/{name}.html")
            settle(page)
            visit.look = page.evaluate(LOOK)
            seen[name, device] = visit
            context.close()
    return seen


def test_the_prose_and_the_chapters_are_there(site: Path) -> None:
    notebooks = {f"notebooks/{path.stem}" for path in Path("notebooks").glob("*.py")}
    assert {"book/intro", "book/how_to_run", "book/glossary", "book/bibliography"} | notebooks <= set(page_names(site))


def test_no_request_leaves_the_server(visits: dict[tuple[str, str], Visit]) -> None:
    assert {key: visit.outside for key, visit in visits.items() if visit.outside} == {}


def test_nothing_fails_to_load_and_the_console_is_silent(visits: dict[tuple[str, str], Visit]) -> None:
    assert {key: visit.failed + visit.console for key, visit in visits.items() if visit.failed + visit.console} == {}


def test_every_formula_is_set(visits: dict[tuple[str, str], Visit]) -> None:
    assert {k: v.look["unset"] + v.look["wrong"] for k, v in visits.items() if v.look["unset"] + v.look["wrong"]} == {}
    assert visits["book/intro", "desktop"].look["formulas"] > 5


def test_every_picture_shows_and_says_what_it_shows(visits: dict[tuple[str, str], Visit]) -> None:
    def sound(image: list[Any]) -> bool:
        _, width, alt = image
        return width > 0 and bool(alt) and len(alt) > 3 and "/" not in alt and not alt.endswith((".png", ".svg"))

    bad = {key: [image for image in visit.look["images"] if not sound(image)] for key, visit in visits.items()}
    assert {key: images for key, images in bad.items() if images} == {}


def test_no_page_scrolls_sideways(visits: dict[tuple[str, str], Visit]) -> None:
    assert {key: visit.look["culprits"] for key, visit in visits.items() if visit.look["overflow"] > 0} == {}


def test_every_page_has_one_title_and_a_language(visits: dict[tuple[str, str], Visit]) -> None:
    bare = {key for key, visit in visits.items() if (visit.look["headings"], visit.look["language"]) != (1, "en")}
    assert bare == set()


def test_links_within_the_site_lead_somewhere(visits: dict[tuple[str, str], Visit], site: Path, address: str) -> None:
    anchors = {f"{address}/{name}.html": set(visit.look["ids"]) for (name, _), visit in visits.items()}
    broken = set()
    for (name, _), visit in visits.items():
        for link in visit.look["links"]:
            target, anchor = urldefrag(link)
            if not target.startswith(address):
                continue
            path = site / unquote(target.removeprefix(address)).lstrip("/")
            there = path.is_file() or (path / "index.html").is_file()
            if not there or (anchor and unquote(anchor) not in anchors.get(target, {unquote(anchor)})):
                broken.add((name, link))
    assert broken == set()


def test_search_finds_a_term_without_a_network(address: str, browser: Browser) -> None:
    page, visit = browser.new_page(), Visit({})
    watch(page, address, visit)
    page.goto(f"{address}/search.html?q=saliency")
    page.wait_for_selector("ul.search li a", timeout=20_000)
    found = page.locator("ul.search li a").evaluate_all("links => links.map(link => link.href)")
    page.close()
    assert any("glossary" in link for link in found)
    assert visit.outside + visit.console == []


def test_dark_mode_switches_and_leaves_pictures_alone(
    visits: dict[tuple[str, str], Visit], address: str, browser: Browser
) -> None:
    illustrated = next((name for (name, _), visit in visits.items() if visit.look["images"]), "book/intro")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(f"{address}/{illustrated}.html")
    seen = set()
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
        if seen == {"light", "dark"}:
            break
    assert seen == {"light", "dark"}
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    filters = page.locator(".bd-article img").evaluate_all("all => all.map(e => getComputedStyle(e).filter)")
    page.close()
    assert set(filters) <= {"none"}


def test_sliders_follow_the_keyboard(address: str, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{address}/book/play.html")
    for player in page.locator("figure.player").all():
        for control in player.locator("input").all():
            look = "e => e.querySelector('.player-frame').style.backgroundPosition"
            before, said = player.evaluate(look), player.locator("figcaption").inner_text()
            control.focus()
            page.keyboard.press("Home" if control.input_value() != "0" else "End")
            assert player.evaluate(look) != before
            assert player.locator("figcaption").inner_text() != said
    page.close()


def test_sliders_are_pictures_without_javascript(address: str, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/book/play.html")
    assert page.locator(".player-frame").count() == 3
    assert not page.locator(".player-controls").first.is_visible()
    assert page.locator("figure.player figcaption").first.inner_text()
    context.close()
