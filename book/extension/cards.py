"""A Sphinx extension: what a glossary term, a claim or a cited work is, on a card beside the link to it.

The cards' texts are read off the built pages and stored in `_static/cards-data.js`: a script, because a page that is
opened from a folder may load no other data. `book/_static/cards.js` shows them. A link to the list of works that names
one with its year leads to its entry.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_SECTION = re.compile(
    r'(?s)<section id="([^"]+)">\s*(?:<span id="([^"]+)"></span>\s*)*'
    r'<h2>(.*?)<a class="headerlink".*?</h2>\s*<p>(.*?)</p>'
)
_WORK = re.compile(r'(?s)<div class="citation" id="([^"]+)".*?<p>(.*?)</p>')
_MATH = re.compile(r'(?s)<span class="math[^"]*">\\\((.*?)\\\)</span>')
_NAMED = re.compile(r'(<a class="reference internal" href="[^"#]*bibliography\.html)(">(.*?)</a>)', re.DOTALL)
_YEAR = re.compile(r"([A-Z][\w-]+).*?\b((?:19|20)\d\d)\b", re.DOTALL)


def plain(body: str) -> str:
    """Return a paragraph's HTML without links, its formulas as MathML."""
    without = re.sub(r"</?a\b[^>]*>", "", body)
    return _MATH.sub(lambda match: str(convert(match[1].replace("&lt;", "<").replace("&gt;", ">"))), without).strip()


def cards(glossary: str, claims: str, bibliography: str) -> dict[str, list[str]]:
    """Read the cards off three built pages.

    Args:
        glossary: its HTML.
        claims: that of the ledger.
        bibliography: that of the list of works.

    Returns:
        For the end of a link's address, such as `glossary.html#logit`, a title and a text, both HTML.
    """
    found = {}
    for name, page in (("glossary", glossary), ("claims", claims)):
        for anchor, short, title, text in _SECTION.findall(page):
            for each in filter(None, (anchor, short)):
                found[f"{name}.html#{each}"] = [plain(title), plain(text)]
    for anchor, text in _WORK.findall(bibliography):
        found[f"bibliography.html#{anchor}"] = ["", plain(text)]
    return found


def name_entries(body: str, entries: Mapping[str, str]) -> str:
    """Let links to the list of works lead to the entry of the work that they name.

    Args:
        body: a page's HTML.
        entries: from a citation's key, such as `Koh2017`, to the anchor of its entry.

    Returns:
        The HTML; links that name no known work stay as they are.
    """

    def entry(match: re.Match[str]) -> str:
        words = unicodedata.normalize("NFKD", re.sub("<[^>]*>", "", match[3])).encode("ascii", "ignore").decode()
        key = "".join(named.groups()) if (named := _YEAR.search(words)) else ""
        return f"{match[1]}#{entries[key]}{match[2]}" if key in entries else match[0]

    return _NAMED.sub(entry, body)


def _page(app: Any, _name: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    if "body" in context:
        cited = app.env.get_domain("cite").citations
        context["body"] = name_entries(context["body"], {each.key: each.citation_id for each in cited})


def _finish(app: Any, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    book = Path(app.outdir, "book")
    pages = [(book / f"{name}.html").read_text(encoding="utf-8") for name in ("glossary", "claims", "bibliography")]
    data = json.dumps(cards(*pages), ensure_ascii=False, indent=0, sort_keys=True)
    Path(app.outdir, "_static", "cards-data.js").write_text(f"window.cards = {data};\n", encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("html-page-context", _page)
    app.connect("build-finished", _finish)
    app.add_js_file("cards.js", loading_method="defer")
    return {"parallel_read_safe": True}
