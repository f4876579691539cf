"""A Sphinx extension: a figure is a link to its file, which opens in full size and can be zoomed, on a phone too."""

from __future__ import annotations

import re
from typing import Any

_FIGURE = re.compile(r'(<a\b[^>]*>\s*)?(<img\b[^>]*\bsrc="([^"]*/_images/[^"]*|_images/[^"]*)"[^>]*>)')


def link(body: str) -> str:
    """Wrap every image of the page's own that is not a link yet."""
    return _FIGURE.sub(
        lambda match: match[0] if match[1] else f'<a class="enlarge" href="{match[3]}">{match[2]}</a>', body
    )


def _page(_app: Any, _name: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    if "body" in context:
        context["body"] = link(context["body"])


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("html-page-context", _page)
    return {"parallel_read_safe": True}
