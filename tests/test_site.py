"""The built site, read as a reader would: every page in Chromium, desktop and phone, light and dark."""

from __future__ import annotations

import gzip
import html
import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import cards
import figures
import lesson
import lighter
import matplotlib.pyplot as plt
import numpy as np
import openers
import pages
import pdf
import pytest
import slides
import torch
from address import current, site_address
from axe_playwright_python.sync_playwright import Axe
from browser import WIDTHS, chromium, page_names, serve, settle
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page
from pypdf import PdfReader
from torchvision.transforms.functional import gaussian_blur

from fragility.page import blink

pytestmark = pytest.mark.site

SCHEMES = ("light", "dark")

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
        headless: texts('div.math').filter(e => e.querySelector('mjx-math')?.getBoundingClientRect().left
            < e.getBoundingClientRect().left - 1).map(e => e.innerText),
        images: texts('img').map(e => [e.getAttribute('src').slice(0, 80), e.naturalWidth,
            (e.closest('[role=img]')?.ariaLabel ?? '') + e.getAttribute('alt')]),
        links: texts('a[href]').map(e => e.href),
        ids: texts('[id]').map(e => e.id),
        headings: texts('.bd-article h1').length,
        language: document.documentElement.lang,
        theme: document.documentElement.dataset.theme,
        background: getComputedStyle(document.body).backgroundColor,
        shut: texts('.bd-article figure:not(.blink) img').filter(e => !e.closest('a[href]')).map(e => e.src),
        asked: texts('.bd-article strong').filter(e => e.textContent === 'Predict.').length,
        marked: texts('.bd-article p.predict').length,
        filtered: texts('.bd-article img').filter(e => getComputedStyle(e).filter !== 'none').map(e => e.src),
        cut: texts('.bd-article :is(.pst-scrollable-table-container, .output.text_html, pre)')
            .filter(e => e.scrollWidth > e.clientWidth + 1 && !e.closest('details:not([open])'))
            .map(e => e.innerText.slice(0, 60)),
        small: texts('.bd-article img[data-label]').map(e => e.dataset.label * e.width / e.naturalWidth)
            .filter(size => size < 10.9),
        stops: texts('mjx-container[tabindex="0"]').length,
        folded: texts('.bd-article summary').map(e => e.innerText),
        opener: texts('.opener li').map(e => [e.innerText, e.querySelectorAll('.verdict').length,
            e.querySelector('a[href*="claims.html#"]').hash.slice(1)]),
        nested: texts('.bd-article :is(button, summary) a').map(e => e.closest('button, summary').innerText),
        touched: texts('.bd-article figure:is(.piece, .blink)').length,
        nameless: texts('.bd-article table').filter(e => !e.ariaLabel || e.querySelector('td:first-child'))
            .map(e => e.innerText.slice(0, 60)),
    };
}"""


@dataclass
class Visit:
    """What one page looked like at one width."""

    look: dict[str, Any]
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)
    hindrances: list[str] | None = None  # None: not looked for


Visits = dict[tuple[str, str, str], Visit]


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


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def said(message: ConsoleMessage) -> str:
    """Give a message of the console with the address it speaks of, which Chromium leaves out of its text."""
    return f"{message.text} {message.location['url']}"


def watch(page: Page, address: str, visit: Visit) -> None:
    def on_request(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            visit.outside.append(url)
        elif url.startswith(address):
            visit.loaded.add(unquote(urlsplit(url).path).lstrip("/"))

    page.on("request", lambda request: on_request(request.url))
    page.on("requestfailed", lambda request: visit.failed.append(request.url))
    page.on("response", lambda r: visit.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("console", lambda m: visit.console.append(said(m)) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: visit.console.append(str(error)))


def prefer(page: Page, scheme: str) -> None:
    """Let the reader of a page prefer a scheme, at once: buttons would fade from one to the other."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)


def hindrances(page: Page) -> list[str]:
    """What axe-core finds on a page that hinders a reader, a line per rule: the rule, and where."""
    found = Axe().run(page).response
    assert found["passes"], "axe-core checked nothing"
    return [
        f"{rule['id']}: {node['target']} {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"][:4]
    ]


@contextmanager
def reader(browser: Browser, device: str, scheme: str) -> Iterator[BrowserContext]:
    """Someone with a screen of that width who prefers light or dark pages."""
    context = browser.new_context(viewport={"width": WIDTHS[device], "height": 800}, color_scheme=scheme)
    try:
        yield context
    finally:
        context.close()


@pytest.fixture(scope="module")
def visits(site: Path, address: str, browser: Browser) -> dict[tuple[str, str, str], Visit]:
    """Every page once on each device, which changes its scheme there; axe-core reads those with pieces to touch."""
    seen = {}
    for device in WIDTHS:
        with reader(browser, device, SCHEMES[0]) as context:
            for name in page_names(site):
                page, visit = context.new_page(), Visit({})
                watch(page, address, visit)
                page.goto(f"{address}/{name}.html")
                settle(page)
                page.wait_for_function("!document.querySelector('figure:is(.piece, .blink):not(.live)')")
                for scheme in SCHEMES:
                    prefer(page, scheme)
                    visit.look = page.evaluate(LOOK)
                    seen[name, device, scheme] = deepcopy(visit)
                if visit.look["touched"] or name == "book/status":
                    scheme = SCHEMES[device == "phone"]  # the other two looks: the slow test below
                    prefer(page, scheme)
                    seen[name, device, scheme].hindrances = hindrances(page)  # it asks for files of its own
                page.close()
    return seen


def mute(image: tuple[str, int, str]) -> bool:
    """Whether a picture does not show, or does not say what it shows."""
    _, width, alt = image
    return width == 0 or len(alt or "") < 4 or "/" in alt or alt.endswith((".png", ".svg"))


# What must not be on any page, from its visit by a device that prefers a scheme.
FAULTS: dict[str, Callable[[Visit, str, str], Any]] = {
    "requests that leave the server": lambda visit, *_: visit.outside,
    "what fails to load or speaks in the console": lambda visit, *_: visit.failed + visit.console,
    "formulas that are not set": lambda visit, *_: visit.look["unset"] + visit.look["wrong"],
    "formulas that begin out of reach": lambda visit, *_: visit.look["headless"],
    "pictures that do not show or do not say what": lambda visit, *_: list(filter(mute, visit.look["images"])),
    "figures that do not open in full": lambda visit, *_: visit.look["shut"],
    "predictions that do not stand out": lambda visit, *_: visit.look["asked"] != visit.look["marked"],
    "what makes the page scroll sideways": lambda visit, *_: (
        visit.look["overflow"] > 0 and ["?", *visit.look["culprits"]]
    ),
    "tables and listings cut off": lambda visit, device, _: device == "desktop" and visit.look["cut"],
    "labels too small to be read": lambda visit, device, _: device == "phone" and visit.look["small"],
    "formulas at which the tab key stops": lambda visit, *_: visit.look["stops"],
    "tables or rows without a name": lambda visit, *_: visit.look["nameless"],
    "links inside buttons": lambda visit, *_: visit.look["nested"],
    "folded cells without a name of their own": lambda visit, *_: (
        [name for name in visit.look["folded"] if not name or visit.look["folded"].count(name) > 1]
    ),
    "no title or several, or no language": lambda visit, *_: (
        (visit.look["headings"], visit.look["language"]) != (1, "en")
    ),
    "the other scheme": lambda visit, _, scheme: visit.look["theme"] != scheme,
    "what axe-core finds serious": lambda visit, *_: visit.hindrances,
    "pictures in other colours": lambda visit, *_: visit.look["filtered"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_page_has(visits: Visits, fault: str) -> None:
    found = {key: FAULTS[fault](visit, *key[1:]) for key, visit in visits.items()}
    assert {key: what for key, what in found.items() if what} == {}


def test_what_is_looked_for_is_there(visits: Visits) -> None:
    looks = [visit.look for visit in visits.values()]
    assert visits["book/intro", "desktop", "light"].look["formulas"] > 5
    assert sum(look["marked"] for look in looks) > 0
    assert any(look["folded"] for look in looks)
    assert sum(visit.hindrances is not None for visit in visits.values()) > 10
    backgrounds = [{v.look["background"] for k, v in visits.items() if k[2] == scheme} for scheme in ("light", "dark")]
    assert len(backgrounds[0]) == len(backgrounds[1]) == 1
    assert backgrounds[0] != backgrounds[1]


@pytest.mark.parametrize("name", openers.FOUND)
def test_a_chapter_says_what_came_out_before_it_begins(visits: Visits, site: Path, name: str) -> None:
    opened = visits[f"notebooks/{name}", "phone", "light"].look["opener"]
    assert [(chips, anchor) for _, chips, anchor in opened] == [(1, key.lower()) for key in openers.FOUND[name]]
    ledger = (site / "book" / "claims.html").read_text(encoding="utf-8")
    told = html.unescape(ledger).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    assert all(text.split(".")[0] in told for text, *_ in opened)


@cache
def weight(path: Path) -> int:
    """What travels of a file, texts packed as servers pack them."""
    data = path.read_bytes()
    return len(gzip.compress(data)) if path.suffix in {".html", ".css", ".js", ".svg"} else len(data)


@pytest.mark.parametrize(("without", "limit"), [("/(_images|play)/", 1e6), ("/play/", 1.5e6)])
def test_a_page_weighs_little_without_its_pictures_and_with_them(
    visits: Visits, site: Path, without: str, limit: float
) -> None:
    weights = {
        key: sum(weight(site / name) for name in visit.loaded if not re.search(without, f"/{name}"))
        for key, visit in visits.items()
    }
    assert {key: size for key, size in weights.items() if not 1e5 < size < limit} == {}


def test_the_status_page_says_what_the_site_weighs_and_every_footer_what_it_is(site: Path) -> None:
    status = (site / "book" / "status.html").read_text(encoding="utf-8")
    table = status.partition('aria-label="What this site weighs"')[2].partition("</table>")[0]
    counts = dict(re.findall(r'class="stub">([a-z ]+)</th><td>(\d+)</td>', table))
    assert int(counts["pages"]) == len(list(site.rglob("*.html"))) - len(list(site.glob("_static/downloads/*.html")))
    for name in page_names(site):
        page = (site / f"{name}.html").read_text(encoding="utf-8")
        assert re.search(r"Version [\d.]+\w*, commit <a href=\"[^\"]+/commit/[0-9a-f]{40}\">", page), name


def test_links_within_the_site_lead_somewhere(visits: Visits, site: Path, address: str) -> None:
    anchors = {f"{address}/{name}.html": set(visit.look["ids"]) for (name, *_), visit in visits.items()}
    broken = set()
    for (name, *_), visit in visits.items():
        for link in visit.look["links"]:
            target, anchor = urldefrag(link)
            if not target.startswith(address):
                continue
            path = site / unquote(target.removeprefix(address)).lstrip("/")
            there = path.is_file() or (path / "index.html").is_file()
            if not there or (anchor and unquote(anchor) not in anchors.get(target, {unquote(anchor)})):
                broken.add((name, link))
    assert broken == set()


def test_search_finds_a_term_without_a_network(address: str, page: Page) -> None:
    visit = Visit({})
    watch(page, address, visit)
    page.goto(f"{address}/search.html?q=saliency")
    page.wait_for_selector("ul.search li a", timeout=20_000)
    found = page.locator("ul.search li a").evaluate_all("links => links.map(link => link.href)")
    assert any("glossary" in link for link in found)
    assert visit.outside + visit.console == []


def test_the_switch_changes_the_scheme(address: str, page: Page) -> None:
    page.goto(f"{address}/book/intro.html")
    seen = set()
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}


def test_a_guess_unfolds_what_the_page_found_and_is_marked(address: str, page: Page) -> None:
    page.goto(f"{address}/notebooks/02_attacks.html")
    settle(page)
    gate, answers = page.locator("ul.options").first, page.locator("details[data-option]")
    output = page.locator("details.hide.below-input").first
    right = int(answers.first.get_attribute("data-option")) - 1
    wrong = (right + 1) % gate.get_by_role("button").count()
    assert answers.first.get_attribute("open") is None
    gate.get_by_role("button").nth(wrong).focus()
    page.keyboard.press("Enter")
    assert answers.first.get_attribute("open") is not None
    assert output.get_attribute("open") is not None
    assert answers.nth(1).get_attribute("open") is None
    assert "your guess" in gate.get_by_role("button").nth(wrong).inner_text()
    assert gate.get_by_role("button").nth(wrong).get_attribute("aria-pressed") == "true"
    assert "what this page found" in gate.get_by_role("button").nth(right).inner_text()
    gate.get_by_role("button").nth(right).dispatch_event("click")  # the first guess counts
    assert gate.locator(".mine").count() == 1
    assert "otherwise" in page.locator(".guessed").first.inner_text()


def test_predictions_are_lists_and_answers_unfold_without_javascript(address: str, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/notebooks/02_attacks.html")
    assert page.locator("ul.options").first.get_by_role("listitem").count() == 3
    assert page.locator("ul.options button").count() == 0
    page.locator("details[data-option] summary").first.click()
    assert page.locator("details[data-option]").first.get_attribute("open") is not None
    context.close()


@pytest.mark.parametrize("opened", ["from a server", "from a folder"])
def test_a_card_opens_on_hover_on_focus_and_on_a_tap_and_escape_closes_it(
    site: Path, address: str, browser: Browser, opened: str
) -> None:
    name = "notebooks/02_attacks.html"
    start = f"{address}/{name}" if opened == "from a server" else (site.absolute() / name).as_uri()
    context = browser.new_context(has_touch=True, reduced_motion="reduce")  # a page that glides moves the card along
    page = context.new_page()
    page.goto(start)
    settle(page)
    card, link = (
        page.locator(".term-card"),
        page.locator('.bd-article a[href$="glossary.html#softplus-surrogate"]').first,
    )
    link.hover()
    card.wait_for(state="visible")
    assert "piecewise linear" in " ".join(card.inner_text().split())
    assert card.locator("math").count() == 1
    page.keyboard.press("Escape")
    assert not card.is_visible()
    page.mouse.move(0, 0)
    link.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    card.wait_for(state="visible")
    page.keyboard.press("Escape")
    for kind, words in (("claims.html#", "noise"), ("bibliography.html#", "Ghorbani")):
        page.locator(f'.bd-article a[href*="{kind}"]:visible').first.tap()
        card.wait_for(state="visible")
        assert words in card.inner_text()
        assert page.url.partition("#")[0] == start
    card.get_by_role("link", name="Open the page").tap()
    page.wait_for_url("**/bibliography.html#*")
    context.close()


def test_a_named_work_links_to_its_entry_and_an_unknown_one_to_the_list() -> None:
    body = '<a class="reference internal" href="../book/bibliography.html">{}</a>'
    entries = {"Hohne2020": "id7"}
    assert 'html#id7">' in cards.name_entries(body.format("<span>H\u00f6hne et al. (2020)</span>"), entries)
    assert cards.name_entries(body.format("Koh and Liang (2017)"), entries) == body.format("Koh and Liang (2017)")


COMPARATOR = blink(torch.zeros(3, 9, 9), torch.ones(3, 9, 9), alt=("black", "white"))
BARE = """<!doctype html><html lang=en><link rel=stylesheet href=/_static/custom.css>
<script src=/_static/pieces.js></script><main class=bd-article>{}</main>"""


@contextmanager
def comparator(address: str, browser: Browser, **options: Any) -> Iterator[Page]:
    """A page with a comparator and nothing else."""
    context = browser.new_context(**options)
    body = BARE.format(COMPARATOR.markup)
    context.route("**/blink.html", lambda route: route.fulfill(body=body, content_type="text/html"))
    page = context.new_page()
    page.goto(f"{address}/blink.html")
    try:
        yield page
    finally:
        context.close()


def other_is_shown(page: Page) -> bool:
    before, after = (side.is_visible() for side in page.locator(".blink-side").all())
    assert before != after
    return after


def test_holding_the_button_or_the_picture_shows_the_other_one(address: str, browser: Browser) -> None:
    with comparator(address, browser, has_touch=True) as page:
        button, picture = page.get_by_role("button"), page.locator(".blink-sides")
        assert not other_is_shown(page)
        for down, up in (
            (lambda: page.keyboard.down("Space"), lambda: page.keyboard.up("Space")),
            (lambda: (picture.hover(), page.mouse.down()), page.mouse.up),
        ):
            button.focus()
            down()
            assert other_is_shown(page)
            assert page.get_by_role("status").inner_text() == "Shown: changed"
            page.wait_for_timeout(400)
            up()
            assert not other_is_shown(page)


def test_a_short_press_a_tap_and_a_screen_readers_click_swap_the_two(address: str, browser: Browser) -> None:
    with comparator(address, browser, has_touch=True) as page:
        button = page.get_by_role("button")
        for number, press in enumerate(
            (lambda: button.press("Enter"), button.tap, lambda: button.dispatch_event("click"), button.click)
        ):
            press()
            assert other_is_shown(page) == (number % 2 == 0)


def test_both_pictures_of_a_comparator_show_without_javascript(address: str, browser: Browser) -> None:
    with comparator(address, browser, java_script_enabled=False) as page:
        assert all(side.is_visible() for side in page.locator(".blink-side").all())
        assert page.get_by_role("img").all_inner_texts() == ["", ""]
        assert page.get_by_role("button").count() == 0


@pytest.mark.parametrize(("scheme", "paper", "photograph"), [("light", 255, 200), ("dark", 31, 200)])
def test_a_figures_paper_follows_the_scheme_and_its_photographs_do_not(
    address: str, browser: Browser, tmp_path: Path, scheme: str, paper: int, photograph: int
) -> None:
    figure, axes = plt.subplots(figsize=(1, 1), dpi=72)
    axes.set_position((0.5, 0, 0.5, 1))
    axes.imshow([[200]], cmap="gray", vmin=0, vmax=255, aspect="auto")
    axes.axis("off")
    figure.savefig(tmp_path / "figure.svg")
    plt.close(figure)
    svg = figures.follow_scheme((tmp_path / "figure.svg").read_text(encoding="utf-8"))
    with reader(
        browser, "desktop", "light" if scheme == "dark" else "dark"
    ) as context:  # the page's, not the machine's
        context.route("**/figure.svg", lambda route: route.fulfill(body=svg, content_type="image/svg+xml"))
        page = context.new_page()
        page.goto(f"{address}/book/intro.html")
        page.set_content(f"<html style='color-scheme: {scheme}'><img src='{address}/figure.svg'>")
        settle(page)
        shot = Image.open(BytesIO(page.locator("img").screenshot())).convert("L")
    assert abs(shot.getpixel((10, 50)) - paper) <= 1
    assert abs(shot.getpixel((80, 50)) - photograph) <= 1


def test_pictures_inside_a_figure_become_lighter_and_look_the_same() -> None:
    figure, axes = plt.subplots(figsize=(2, 2), dpi=110)
    noise = np.random.default_rng(0).random((110, 110))
    axes.imshow(noise, cmap="magma")
    figure.savefig(file := StringIO(), format="svg")
    plt.close(figure)
    svg = file.getvalue()
    light = lighter.packed(svg)
    assert len(light) < len(svg) / 2
    before, after = (  # brightness, which is what a map says; WebP halves the resolution of colours
        np.asarray(Image.open(BytesIO(b64decode(text.partition("base64,")[2].partition('"')[0]))).convert("L"), float)
        for text in (svg, light)
    )
    assert np.abs(before - after).mean() < 8  # of 255 steps, for white noise, the worst there is
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98
    assert lighter.packed(light) == light


def test_both_sides_of_a_lighter_comparator_differ_as_before() -> None:
    generator = torch.Generator().manual_seed(0)
    image = gaussian_blur(torch.rand(3, 230, 230, generator=generator), 31, 6.0)[..., 3:-3, 3:-3]
    step = 8 / 255 * torch.sign(torch.rand(image.shape, generator=generator) - 0.5)
    heavy = blink(image, image + step, alt=("before", "after")).markup
    light = lighter.packed(heavy)
    assert len(light) < 0.8 * len(heavy)
    before, after = (
        np.asarray(Image.open(BytesIO(b64decode(data))), float)
        for data in re.findall('data:image/jpeg;base64,([^"]+)', light)
    )
    change = (255 * step).movedim(0, -1).numpy()
    assert np.corrcoef((after - before).ravel(), change.ravel())[0, 1] > 0.7  # white noise, the worst there is


def drawn() -> plt.Figure:
    """A figure with all that is written shorter: ticks, error bars, marks, steps, an outline, texts, a picture."""
    random = np.random.default_rng(0)
    figure, panels = plt.subplots(2, 2, figsize=(7, 5))
    panels[0, 0].errorbar([1, 2, 4], [0.3, 0.5, 0.4], yerr=0.05, capsize=3, marker="o", label="$10^{-3}$ and a word")
    panels[0, 0].legend()
    panels[0, 1].scatter(*random.random((2, 90)), c=random.random(90), alpha=0.5)
    panels[1, 0].plot(random.random(20).cumsum(), drawstyle="steps-post", linestyle="--")
    panels[1, 0].fill_between(range(20), random.random(20), color="0.8")
    panels[1, 0].set(xlabel="steps", ylabel="sum", title="Title", yscale="symlog")
    panels[1, 1].imshow(random.random((9, 9)))
    panels[1, 1].contour(np.kron(np.eye(3), np.ones((3, 3))), [0.5], colors="white")
    return figure


def test_a_figure_written_shorter_looks_the_same(page: Page) -> None:
    figure = drawn()
    figure.savefig(file := StringIO(), format="svg")
    plt.close(figure)
    short = lighter.tidy(file.getvalue())
    assert len(short) < 0.65 * len(file.getvalue())
    assert lighter.tidy(short) == short
    shots = []
    for svg in (file.getvalue(), short):
        page.set_content(svg[svg.index("<svg") :])
        shot = Image.open(BytesIO(page.locator("svg").first.screenshot())).convert("RGB")
        shots.append(np.asarray(shot, float))
    gap = np.abs(shots[0] - shots[1])
    assert gap.mean() < 0.3
    assert gap.max() <= 80  # places move by a hundredth of a point, edges are smoothed in quarters of a pixel
    assert shots[0].std() > 30


FADING = """parts => {
    parts.forEach(part => { part.open = true; });
    return parts.flatMap(part => [...part.children]).filter(e => e.tagName !== 'SUMMARY' && e.offsetParent)
        .map(e => [getComputedStyle(e).animationName, e.outerHTML.slice(0, 120)]);
}"""


def test_what_is_opened_for_paper_is_there_at_once(address: str, page: Page) -> None:
    page.goto(f"{address}/notebooks/02_attacks.html")
    page.emulate_media(media="print")
    opened = page.locator(".bd-article details").evaluate_all(FADING)
    assert len(opened) > 4
    assert [shown for name, shown in opened if name != "none"] == []


def test_code_on_paper_keeps_its_indentation(address: str, page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 1400})
    page.goto(f"{address}/notebooks/02_attacks.html")
    page.emulate_media(media="print")
    settle(page)
    listing = page.locator("pre", has_text="def attack_by_hand").first.inner_text()
    printed = "\n".join(sheet.extract_text() for sheet in pdf.print_page(page).pages).splitlines()
    code = [line.rstrip() for line in listing.splitlines() if line.strip()]
    assert sum(line.startswith("        ") for line in code) > 5
    assert [line for line in code if line not in printed] == []


def test_the_printed_book_is_linked_to_once_it_is_there(site: Path, tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "_static" / "downloads").mkdir(parents=True)
    page, book = tmp_path / "book" / "teach.html", tmp_path / "made.pdf"
    page.write_bytes((site / "book" / "teach.html").read_bytes())
    book.write_bytes(b"%PDF-1.4")
    link = re.compile(r'<a class="printed" href="([^"]+)" download>fragility.pdf</a>')
    printed = (site / "_static" / "downloads" / "fragility.pdf").exists()
    assert bool(link.search(page.read_text(encoding="utf-8"))) == printed
    pdf.offer(book, tmp_path)
    (href,) = link.findall(page.read_text(encoding="utf-8"))
    assert (page.parent / href).read_bytes() == book.read_bytes()


CUT = "slides => slides.filter(s => s.scrollHeight > s.clientHeight).map(s => [s.id, s.innerText])"


def test_no_slide_is_cut_off_and_the_keyboard_turns_them(page: Page, tmp_path: Path) -> None:
    slides.main(pages.NOTEBOOKS, tmp_path / "slides.html")
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto((tmp_path / "slides.html").as_uri())
    count = page.locator("section").count()
    assert count > 40
    assert page.locator("section").evaluate_all(CUT) == []
    assert page.locator("img").evaluate_all("images => images.filter(i => !i.naturalWidth).map(i => i.alt)") == []
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('nav output').textContent.startsWith('2 / ')")
    page.keyboard.press("End")
    page.wait_for_function(f"document.querySelector('nav output').textContent === '{count} / {count}'")


def test_the_worksheet_is_one_sheet_and_the_class_has_twelve_slides_with_notes(page: Page, tmp_path: Path) -> None:
    lesson.main(pages.NOTEBOOKS, tmp_path)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto((tmp_path / "worksheet.html").as_uri())
    sheets = PdfReader(BytesIO(page.pdf(prefer_css_page_size=True))).pages
    assert len(sheets) == 1
    assert "What do you ask to be written under it?" in sheets[0].extract_text()
    page.goto((tmp_path / "sixty-minutes-slides.html").as_uri())
    assert page.locator("section").count() == page.locator(".notes").count() == 12
    assert page.locator("section").evaluate_all(CUT) == []
    asked = page.locator("section").nth(1)
    assert "attack" not in asked.locator("figure").inner_text()
    svg = b64decode((asked.locator("img").get_attribute("src") or "").partition("base64,")[2]).decode()
    assert re.findall(r"display='none'>\s*<!-- ([^>]+) -->", svg) == ["before", "after the attack"]
    assert not page.locator(".notes").first.is_visible()
    page.keyboard.press("n")
    assert page.locator(".notes").first.is_visible()


TABS = """limit => {
    const style = getComputedStyle(document.activeElement);
    return {tag: document.activeElement.tagName, html: document.activeElement.outerHTML.slice(0, 120),
        ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== 'none'};
}"""


def stops(page: Page, count: int) -> list[dict[str, Any]]:
    """Where the tab key leads, one stop after the other."""
    found = []
    for _ in range(count):
        page.keyboard.press("Tab")
        found.append(page.evaluate(TABS))
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_tab_key_leads_through_the_page_and_shows_where_it_is(address: str, browser: Browser, scheme: str) -> None:
    with reader(browser, "desktop", scheme) as context:
        page = context.new_page()
        page.goto(f"{address}/book/play.html")
        settle(page)
        sliders = page.locator("input[type=range]").count()
        groups = page.locator("input[type=radio]").evaluate_all("all => new Set(all.map(e => e.name)).size")
        found = stops(page, 110)
    assert [stop["html"] for stop in found if not stop["ring"] and stop["tag"] != "BODY"] == []
    assert sum('type="range"' in stop["html"] for stop in found) == sliders > 4
    assert sum('type="radio"' in stop["html"] for stop in found) == groups > 3


def test_the_keyboard_reaches_the_search_field(address: str, page: Page) -> None:
    page.goto(f"{address}/book/intro.html")
    settle(page)
    page.keyboard.press("Control+k")
    page.wait_for_function("document.activeElement.matches('input[type=search]')")
    assert page.evaluate(TABS)["ring"]
    page.keyboard.type("saliency")
    page.keyboard.press("Enter")
    page.wait_for_selector("ul.search li a")
    assert "q=saliency" in page.url


def test_the_site_says_where_it_is_published_and_what_it_looks_like(site: Path) -> None:
    home = site_address(f"https://github.com/{current()}")
    listed = re.findall("<loc>(.*?)</loc>", (site / "sitemap.xml").read_text(encoding="utf-8"))
    assert listed == [f"{home}{name}.html" for name in page_names(site)]
    for name in page_names(site):
        head = (site / f"{name}.html").read_text(encoding="utf-8").partition("</head>")[0]
        said = dict(re.findall(r'<meta (?:property|name)="((?:og|twitter):[\w:]+)" content="([^"]*)"', head))
        assert said["og:url"] == f"{home}{name}.html", name
        assert said["twitter:card"] == "summary_large_image", name
        assert said["og:title"], name
        card = site / said["og:image"].removeprefix(home)
        with Image.open(card) as image:
            assert image.size == (1200, 630), name
        icon = re.search(r'<link rel="icon" href="([^"]+)"', head) or re.search(r'rel="icon"[^>]*href="([^"]+)"', head)
        assert icon, name
        assert ((site / name).parent / icon[1]).is_file(), name


def test_a_wrong_address_leads_back_to_the_book(address: str, page: Page) -> None:
    visit = Visit({})
    watch(page, address, visit)
    page.goto(f"{address}/404.html")
    settle(page)
    assert page.locator(".bd-article h1").inner_text() == "There is no such page"
    page.locator(".bd-article a").click()
    page.wait_for_url("**/book/intro.html")
    assert visit.outside + visit.failed + visit.console == []


Key = tuple[str, str, str]


def violations(wanted: set[Key], address: str, browser: Browser) -> dict[Key, list[str]]:
    """What axe-core finds on pages, each on a device in a scheme."""
    found = {}
    for device in WIDTHS:
        with reader(browser, device, SCHEMES[0]) as context:
            page = context.new_page()
            for name in sorted({name for name, on, _ in wanted if on == device}):
                page.goto(f"{address}/{name}.html")
                settle(page)
                for scheme in (scheme for scheme in SCHEMES if (name, device, scheme) in wanted):
                    prefer(page, scheme)
                    if problems := hindrances(page):
                        found[name, device, scheme] = problems
    return found


def looks(*names: str) -> set[Key]:
    return {(name, device, scheme) for name in names for device in WIDTHS for scheme in SCHEMES}


def test_axe_finds_nothing_serious_on_the_page_of_the_search(address: str, browser: Browser) -> None:
    assert violations(looks("search"), address, browser) == {}


@pytest.mark.slow
def test_axe_finds_nothing_serious_on_any_other_page_and_in_any_other_scheme(
    site: Path, address: str, browser: Browser, visits: Visits
) -> None:
    read = {key for key, visit in visits.items() if visit.hindrances is not None}
    others = looks(*page_names(site), "genindex", "404") - read
    assert others
    assert violations(others, address, browser) == {}


def test_axe_does_find_what_is_wrong(address: str, browser: Browser) -> None:
    with reader(browser, "desktop", "light") as context:
        context.route(
            "**/bare.html",
            lambda route: route.fulfill(body="<img src=x><p style='color:#ddd'>Faint", content_type="text/html"),
        )
        page = context.new_page()
        page.goto(f"{address}/bare.html")
        found = " ".join(hindrances(page))
    assert "image-alt" in found
    assert "color-contrast" in found
