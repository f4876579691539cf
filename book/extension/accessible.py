"""A Sphinx extension: names for what a screen reader reads out, and the classes that the style sheet needs for it.

Rows and columns of a table have heads, a table has the name of its section, a folded cell says what it holds, and a
table of verdicts is marked as one.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from docutils import nodes

VERDICTS = ("reproduced", "direction only", "not reproduced", "refuted", "not yet tested")
_NAMELESS = re.compile(
    r'<summary(?: aria-label="Toggle hidden content")?>(?P<folded>.*?)</summary>|(?P<table><table class="[^"]*")>'
    r'|<h[1-6]>(?P<heading>.*?)<a class="headerlink"',
    re.DOTALL,
)


def name_tables(document: nodes.document) -> None:
    """Make the first cell of every row its head, and give every table a name and its verdicts a mark."""
    for table in document.findall(nodes.table):
        for column in list(table.findall(nodes.colspec))[:1]:
            column["stub"] = 1
        heads = [entry.astext() for head in table.findall(nodes.thead) for entry in head.findall(nodes.entry)]
        if not any(heads):
            for head in list(table.findall(nodes.thead)):
                head.parent.remove(head)
        if "verdict" in heads:
            table["classes"].append("verdicts")
            for row in (row for body in table.findall(nodes.tbody) for row in body.findall(nodes.row)):
                for text in [part for part in row.findall(nodes.emphasis) if part.astext() in VERDICTS]:
                    text["classes"] += ["verdict", f"verdict-{text.astext().replace(' ', '-')}"]


def name_parts(body: str) -> str:
    """Say in a page's HTML what a folded part or a table belongs to, and what heads a column or a row."""
    section, seen = "", Counter[tuple[str, str]]()

    def name(match: re.Match[str]) -> str:
        nonlocal section
        if match["heading"] is not None:
            section = re.sub("<[^>]*>", "", match["heading"]).strip()
            return match[0]
        kind = "table" if match["table"] else "folded"
        seen[kind, section] += 1
        place = f"{seen[kind, section]} of the section {section}"
        if match["table"]:
            return f'{match["table"]} aria-label="Table {place}">'
        return f'<summary>{match["folded"]}<span class="visually-hidden"> {place}</span></summary>'

    body = _NAMELESS.sub(name, body)
    body = re.sub(r'<th class="([^"]*\bhead\b)', r'<th scope="col" class="\1', body)
    body = re.sub(r'<th class="([^"]*\bstub\b)', r'<th scope="row" class="\1', body)
    body = re.sub(r'(?s)<table class="[^"]*\bverdicts\b.*?</table>', lambda match: _name_cells(match[0]), body)
    return body.replace('role="doc-biblioentry"', 'role="listitem"')  # given up for it in DPUB-ARIA 1.1


def _name_cells(table: str) -> str:
    """Give every cell the name of its column, and say which hold a dash, for where the table is set as cards."""
    heads = [re.sub("<[^>]*>", "", head) for head in re.findall(r"(?s)<th scope=\"col\".*?</th>", table)]
    first, *rows = table.split("<tr ")
    for number, row in enumerate(rows):
        start, *cells = re.split("<td(?=[ >])", row)
        named = (
            f'<td data-column="{head}"{" data-empty" if "<p>-</p>" in cell else ""}{cell}'
            for head, cell in zip(heads[1:], cells, strict=False)
        )
        rows[number] = start + "".join(named)
    return "<tr ".join([first, *rows])


def _page(_app: Any, _name: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    if "body" in context:
        context["body"] = name_parts(context["body"])


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("doctree-resolved", lambda _app, document, _name: name_tables(document))
    app.connect("html-page-context", _page)
    return {"parallel_read_safe": True}
