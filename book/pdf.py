"""Print the built site into one PDF: the pages in the order of the contents, bookmarks, links that stay inside.

python book/pdf.py build/book/_build/html build/fragility.pdf
"""

from __future__ import annotations

import html
import io
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

from address import current, site_address
from browser import chromium, serve, settle
from playwright.sync_api import Page
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject, NumberObject

CONTENTS = """() => [...document.querySelectorAll('.bd-links li a.internal')]
    .map(link => ({address: link.href.split('#')[0], title: link.textContent.trim()}))"""
FOOTER = """<div style="width: 100%; padding: 0 16mm; font: 8px sans-serif; color: #555; display: flex">
    <span class="title" style="flex: 1"></span><span class="pageNumber"></span></div>"""
COVER = """<!doctype html><html lang="en"><title>{title}</title>
<style>body {{ font: 12pt/1.6 sans-serif; margin: 45mm 15mm }} h1 {{ font-size: 30pt; line-height: 1.2 }}
a {{ color: #1b1b1f; text-decoration: none }} ol {{ list-style: none; padding: 0 }}</style>
<h1>{title}</h1><p>{home}</p><ol>{entries}</ol></html>"""


def contents(page: Page, address: str) -> list[tuple[str, str]]:
    """Read the table of contents off the first page.

    Args:
        page: a browser's page.
        address: the served site's, without a slash at the end.

    Returns:
        Every page once, as its address and title, in the order of the book.
    """
    page.goto(f"{address}/index.html")
    page.wait_for_selector(".bd-links", state="attached")
    first = page.url.split("#")[0]
    entries = {first: page.title().partition(" \N{EM DASH} ")[0]}
    for entry in page.evaluate(CONTENTS):
        if entry["address"].startswith(address):
            entries.setdefault(entry["address"], entry["title"])
    return list(entries.items())


def print_page(page: Page) -> PdfReader:
    """Print what a browser shows on A4, tagged for screen readers, its headings as an outline."""
    data = page.pdf(
        format="A4", scale=0.8, print_background=True, tagged=True, outline=True,
        margin={"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
        display_header_footer=True, header_template="<span></span>", footer_template=FOOTER,
    )  # fmt: skip
    return PdfReader(io.BytesIO(data))


def keep_links_inside(writer: PdfWriter, starts: dict[str, int], address: str, home: str) -> None:
    """Let links between the book's pages lead to where they begin in the PDF, and other local ones to the site.

    Args:
        writer: the whole book.
        starts: the number of the first sheet of every page, by its address.
        address: the local server's.
        home: the published site's, with a slash at the end.
    """
    for sheet in writer.pages:
        for reference in sheet.get("/Annots", []):
            link: Any = reference.get_object()
            target = str(link.get("/A", {}).get("/URI", ""))
            if not target.startswith(address):
                continue
            start = starts.get(urldefrag(unquote(target))[0])
            if start is None:
                link["/A"][NameObject("/URI")] = type(link["/A"]["/URI"])(home + target.removeprefix(f"{address}/"))
                continue
            del link["/A"]
            sheet_reference = writer.pages[start].indirect_reference
            link[NameObject("/Dest")] = ArrayObject([sheet_reference, NameObject("/FitH"), NumberObject(842)])


def offer(book: Path, site: Path) -> None:
    """Put the printed book among the site's downloads, and link to it where the page for teachers names it."""
    name = "fragility.pdf"
    shutil.copy(book, site / "_static" / "downloads" / name)
    page = site / "book" / "teach.html"
    link = f'<a class="printed" href="../_static/downloads/{name}" download>{name}</a>'
    named = f'<span class="printed">{name}</span>'
    page.write_text(page.read_text(encoding="utf-8").replace(named, link), encoding="utf-8")


def main(site: Path, target: Path) -> None:
    """Print every page, bind them and offer them."""
    writer, starts, home = PdfWriter(), {}, site_address(f"https://github.com/{current()}")
    with serve(site) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1400}, color_scheme="light")
        pages = contents(page, address)
        title = pages[0][1]
        entries = "".join(f'<li><a href="{link}">{html.escape(name)}</a></li>' for link, name in pages)
        page.set_content(COVER.format(title=html.escape(title), home=home, entries=entries))
        writer.append(print_page(page), import_outline=False)
        for link, name in pages:
            page.goto(link)
            page.emulate_media(media="print")
            settle(page)
            page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
            starts[link] = len(writer.pages)
            writer.append(print_page(page), outline_item=name)
            print(f"  {name}: {len(writer.pages) - starts[link]} sheets", flush=True)
        keep_links_inside(writer, starts, address, home)
    writer.add_metadata({"/Title": title})
    target.parent.mkdir(parents=True, exist_ok=True)
    writer.write(target)
    offer(target, site)
    print(f"{len(writer.pages)} sheets in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
