"""A Sphinx extension: what the finished site weighs, on the status page, where `<div id="weight"></div>` stands."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PLACE = '<div id="weight"></div>'
PACKED = {".html", ".css", ".js", ".svg", ".json", ".txt", ".xml", ".ipynb"}  # as servers pack texts
KINDS = {
    ".html": "pages",
    **dict.fromkeys((".svg", ".webp", ".png", ".jpg", ".gif"), "pictures"),
    **dict.fromkeys((".js", ".css", ".map"), "scripts and styles"),
    **dict.fromkeys((".woff", ".woff2", ".ttf"), "fonts"),
}
_LOADED = re.compile(r'<(?:script|link)\b[^>]*\b(?:src|href)="([^"?#:]+\.(?:js|css|woff2?))[?"]')


def transferred(path: Path) -> int:
    """Return how many bytes of a file travel."""
    data = path.read_bytes()
    return len(gzip.compress(data, mtime=0)) if path.suffix in PACKED else len(data)


def totals(site: Path) -> list[tuple[str, int, int]]:
    """Return for every kind of file its name, how many files there are, and their bytes as they travel."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for path in (path for path in site.rglob("*") if path.is_file()):
        within = path.relative_to(site).parts
        kind = "downloads" if "downloads" in within or "_sources" in within else KINDS.get(path.suffix, "the rest")
        count[kind] += 1
        size[kind] += transferred(path)
    return [(kind, count[kind], size[kind]) for kind in sorted(count, key=lambda kind: -size[kind])]


def bare(page: Path) -> int:
    """Return what a page weighs without pictures: itself and the scripts and styles that it names."""
    named = {page.parent / name for name in _LOADED.findall(page.read_text(encoding="utf-8"))}
    return transferred(page) + sum(transferred(path) for path in {path.resolve() for path in named if path.is_file()})


def table(rows: Iterable[tuple[str, int, int]]) -> str:
    """Return an HTML table of kinds of files."""
    lines = "".join(
        f'<tr><th scope="row" class="stub">{kind}</th><td>{count}</td><td>{size / 1e6:.2f} MB</td></tr>\n'
        for kind, count, size in rows
    )
    head = "".join(f'<th scope="col" class="head">{name}</th>' for name in ("kind", "files", "transferred"))
    return (
        '<table class="table" aria-label="What this site weighs">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table>"
    )


def _finish(app: Any, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    site = Path(app.outdir)
    status = site / "book" / "status.html"
    pages = sorted([*site.glob("book/**/*.html"), *site.glob("notebooks/*.html")])
    heaviest = max(pages, key=bare)
    size = f"{bare(heaviest) / 1e6:.2f} MB"
    said = f"<p>The heaviest page, <code>{heaviest.stem}</code>, takes {size} with its scripts and styles.</p>"
    page = status.read_text(encoding="utf-8")
    status.write_text(page.replace(PLACE, table(totals(site)) + said), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension, after those that make the finished site smaller."""
    app.connect("build-finished", _finish, priority=950)
    return {"parallel_read_safe": True}
