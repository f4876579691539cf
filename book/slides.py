"""Make the slides: one HTML file that needs nothing else, from the executed notebooks' own figures and words.

    python book/slides.py build/executed build/slides.html

A chapter gives its title with the learning goals, a slide for every figure under the heading it stands below, and the
sections that sum it up. Arrow keys or swiping turn the pages, "n" shows the notes where there are any, printing
gives a page per slide.
"""

from __future__ import annotations

import base64
import html
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from address import ROOT
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode

# Sections whose words and tables are slides of their own; of all others, the figures are.
SUMMARIES = re.compile(r"^(Claimed|What follows|Strengths)")
LETTERS = 900  # of words and tables that fit on a slide
ROW = 90  # letters that a short row of a table counts as
NOT_SHOWN = re.compile(r"\[([^\]]+)\]\((?!http)[^)]*\)")  # links within the book

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #fff; --mark: #6a1b6a; --dim: #55555e; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --paper: #16161b; --mark: #e0a3e0; --dim: #b4b4be; } }
* { box-sizing: border-box; }
html { font: clamp(1rem, 0.7rem + 1vw, 1.6rem)/1.45 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
body { margin: 0; }
main { display: flex; height: 100vh; height: 100dvh; overflow-x: auto; scroll-snap-type: x mandatory; }
section { flex: 0 0 100%; height: 100%; padding: 1.2rem 5vw 3.5rem; overflow-y: auto; scroll-snap-align: start;
  scroll-snap-stop: always; display: flex; flex-direction: column; }
section.title { justify-content: center; }
section:focus { outline: none; }
section > :not(figure) { flex-shrink: 0; }
main:focus-visible, a:focus-visible, button:focus-visible { outline: 3px solid var(--mark); outline-offset: -3px; }
h1 { font-size: 2em; line-height: 1.15; margin: 0 0 0.6em; }
h2 { font-size: 1.35em; line-height: 1.2; margin: 0 0 0.5em; color: var(--mark); }
a { color: var(--mark); }
figure { flex: 1 1 auto; min-height: 12rem; margin: 0; display: flex; flex-direction: column; align-items: center; }
figure img { flex: 1 1 0; min-height: 0; max-width: 100%; object-fit: contain; background: #fff; padding: 0.3rem; }
@media (max-aspect-ratio: 1) { figure img { flex: 0 1 auto; height: auto; } }
figure.blink { flex: none; align-items: stretch; margin: auto 0; }
figure.blink img { padding: 0; }
.blink-side { max-width: none !important; }
figcaption { flex: none; color: var(--dim); font-size: 0.8em; max-width: 60em; margin-top: 0.5em; }
.notes { display: none; border-top: 1px solid var(--dim); margin-top: 0.6em; padding-top: 0.4em; font-size: 0.8em; }
.speaking .notes { display: block; }
button[aria-pressed="true"] { outline: 2px solid var(--mark); }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 3px solid var(--mark); }
table { border-collapse: collapse; font-size: 0.72em; }
th, td { text-align: left; vertical-align: top; padding: 0.25em 0.7em; border-bottom: 1px solid var(--dim); }
nav { position: fixed; right: 1rem; bottom: 0.6rem; display: flex; gap: 0.5rem; align-items: center;
  font-size: 0.8rem; }
button { font: inherit; min-width: 2.6rem; min-height: 2.6rem; border: 1px solid var(--dim); border-radius: 0.4rem;
  color: var(--ink); background: var(--paper); }
@media print {
  @page { size: 297mm 167mm; margin: 0; }
  :root { --ink: #1b1b1f; --paper: #fff; --mark: #6a1b6a; --dim: #55555e; }
  html { font-size: 13pt; }
  nav { display: none; }
  main { display: block; height: auto; overflow: visible; }
  section { height: 166mm; padding: 10mm 14mm; overflow: hidden; break-after: page; break-inside: avoid; }
  table { font-size: 0.6em; }
}
"""

SCRIPT = """
const deck = document.querySelector('main'), slides = [...deck.children];
const count = document.querySelector('nav output');
const here = () => Math.round(deck.scrollLeft / deck.clientWidth);
const go = index => {
  const slide = slides[Math.max(0, Math.min(slides.length - 1, index))];
  deck.scrollTo({left: slide.offsetLeft, behavior: 'instant'});
  slide.focus({preventScroll: true});
};
const show = () => { count.textContent = `${here() + 1} / ${slides.length}`; };
const keys = {ArrowRight: 1, PageDown: 1, ' ': 1, ArrowLeft: -1, PageUp: -1};
document.addEventListener('keydown', event => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest('button, .scroll')) return;
  const target = {Home: 0, End: slides.length - 1}[event.key] ?? (keys[event.key] && here() + keys[event.key]);
  if (target === undefined) return;
  event.preventDefault();
  go(target);
});
document.querySelector('nav').hidden = false;
document.querySelector('#back').onclick = () => go(here() - 1);
document.querySelector('#on').onclick = () => go(here() + 1);
document.querySelectorAll('main a[href^="#"]').forEach(link => {
  link.onclick = event => {
    event.preventDefault();
    go(slides.indexOf(document.querySelector(link.hash)));
    history.replaceState(null, '', link.hash);
  };
});
const speak = document.querySelector('#notes');
if (speak) {
  speak.onclick = () => {
    const index = here();
    speak.setAttribute('aria-pressed', document.body.classList.toggle('speaking'));
    go(index);
  };
  document.addEventListener('keydown', event => { if (event.key === 'n') speak.click(); });
}
deck.addEventListener('scroll', show);
addEventListener('resize', show);
if (location.hash) go(slides.indexOf(document.querySelector(location.hash)));
show();
"""


@dataclass(frozen=True)
class Slide:
    """A heading and what stands below it, in HTML; the kind decides the layout."""

    heading: str
    body: str
    kind: str = ""
    name: str = ""
    notes: str = ""  # what the speaker has in mind, in HTML


def _mathematics(text: str, options: dict[str, bool]) -> str:
    return str(convert(text, display="block" if options["display_mode"] else "inline"))


MARKDOWN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, renderer=_mathematics)


def render(text: str) -> str:
    """Turn Markdown into HTML, formulas into MathML, links within the book into their words."""
    rendered: str = MARKDOWN.render(NOT_SHOWN.sub(r"\1", text))
    return re.sub(r"(<table>.*?</table>)", r'<div class="scroll" tabindex="0">\1</div>', rendered, flags=re.DOTALL)


def picture(kind: str, data: bytes, alt: str, caption: str) -> str:
    """Return a figure that carries its own picture."""
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    words = render(caption).removeprefix("<p>").strip().removesuffix("</p>")
    return f'<figure><img src="{source}" alt="{html.escape(alt)}"><figcaption>{words}</figcaption></figure>'


def figures(cell: NotebookNode) -> list[str]:
    """Return the figures that a cell drew, with their captions and alternative texts; a comparator side by side."""
    display = cell.metadata.get("mystnb", {})
    found = []
    for output in cell.get("outputs", []):
        markup = output.get("data", {}).get("text/html", "")
        if markup.startswith('<figure class="blink"'):
            found.append(markup)
        for kind in ("image/svg+xml", "image/png"):
            if kind in output.get("data", {}):
                content = output.data[kind]
                data = content.encode() if kind == "image/svg+xml" else base64.b64decode(content)
                found.append(picture(kind, data, display["image"]["alt"], display["figure"]["caption"]))
                break
    return found


def tables(cell: NotebookNode) -> list[str]:
    """Return the Markdown that a cell printed as its result."""
    printed = (output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", []))
    return [text for text in printed if text]


def fitted(text: str) -> list[str]:
    """Cut words and tables into parts that fit on a slide each; a table that is cut keeps its head.

    Args:
        text: Markdown, its blocks apart by an empty line.

    Returns:
        The parts.
    """
    parts, room = [""], LETTERS
    for block in filter(None, text.split("\n\n")):
        lines = block.splitlines()
        table = len(lines) > 2 and lines[1].startswith("|")
        head = "\n".join(lines[:2]) if table else ""
        for at, row in enumerate(lines[2:] if table else [block]):
            letters = len(NOT_SHOWN.sub(r"\1", row))
            cost = max(ROW, letters) if table else letters
            if parts[-1] and cost > room:
                parts.append("")
                room = LETTERS
            if at == 0 or not parts[-1]:
                parts[-1] += f"\n\n{head}"
            parts[-1] += f"\n{row}"
            room -= cost
    return parts


def chapter(page: NotebookNode, name: str) -> list[Slide]:
    """Turn an executed notebook into slides.

    Args:
        page: the notebook.
        name: its anchor in the deck.

    Returns:
        A title with the learning goals, the figures, the summing-up.
    """
    prose = "\n\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    title, _, rest = prose.partition("\n\n")
    title = title.removeprefix("# ")
    goals = re.search(r"(?ms)^\*\*After this chapter.*?(?:\n\n|\n)((?:- |  ).*?)(?=\n\n|\Z)", prose)
    about = f"**After this chapter you can**\n\n{goals[1]}" if goals else rest.split("\n\n")[0]
    slides = [Slide(title, render(about), "title", name)]
    heading, summary = title, ""
    for cell in page.cells[1:]:
        if cell.cell_type == "markdown":
            _, *parts = re.split(r"(?m)^## +(.+)$", cell.source)
            for later, words in zip(parts[::2], parts[1::2], strict=True):
                slides += [Slide(heading, render(part)) for part in fitted(summary) if part]
                heading, summary = later, words.partition("**To run it.**")[0] if SUMMARIES.match(later) else ""
        else:
            slides += [Slide(heading, figure, "picture") for figure in figures(cell)]
            summary += "".join(f"\n\n{text}" for text in tables(cell) if SUMMARIES.match(heading))
    return slides


def opening(chapters: list[tuple[str, str]]) -> list[Slide]:
    """Return the book's title, its first figure, and the list of chapters."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    intro = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    found = re.search(r"(?ms)^```\{figure\} (\S+)\n:alt: (.+?)\n.*?\n\n(.*?)\n```", intro)
    if found is None:
        raise ValueError("book/intro.md: expected a figure with an alternative text, got none")
    shown = picture("image/svg+xml", (ROOT / "book" / found[1]).read_bytes(), found[2], found[3])
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in chapters)
    return [
        Slide(config["title"], f"<ol>{contents}</ol>", "title", "contents"),
        Slide(config["title"], shown, "picture"),
    ]


def deck(slides: list[Slide]) -> str:
    """Put slides into one HTML document."""
    sections = []
    for index, slide in enumerate(slides, start=1):
        level = "h1" if slide.kind == "title" else "h2"
        name = slide.name or f"slide-{index}"
        heading = render(slide.heading).removeprefix("<p>").strip().removesuffix("</p>")
        notes = f'\n<aside class="notes" aria-label="Notes">{slide.notes}</aside>' if slide.notes else ""
        inner = f"<{level}>{heading}</{level}>\n{slide.body}{notes}"
        sections.append(f'<section id="{name}" class="{slide.kind}" tabindex="-1">{inner}</section>')
    title = html.escape(slides[0].heading)
    noted = any(slide.notes for slide in slides)
    switch = '<button id="notes" aria-pressed="false">Notes</button>' if noted else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: slides</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f'<main tabindex="0" aria-label="Slides">\n{"".join(sections)}\n</main>\n'
        f'<nav aria-label="Slides" hidden>{switch}<output></output>'
        '<button id="back" aria-label="Previous slide">&#8592;</button>'
        f'<button id="on" aria-label="Next slide">&#8594;</button></nav>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def main(executed: Path, target: Path) -> None:
    """Write the deck of a folder of executed notebooks."""
    chapters = [
        chapter(nbformat.read(path, as_version=4), f"chapter-{path.stem}") for path in sorted(executed.glob("*.ipynb"))
    ]
    slides = opening([(slides[0].name, slides[0].heading) for slides in chapters])
    slides += [slide for part in chapters for slide in part]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(deck(slides), encoding="utf-8")
    print(f"{len(slides)} slides in {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
