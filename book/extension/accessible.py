"""A Sphinx extension: markup that screen readers understand where docutils still writes a retired role."""

from __future__ import annotations

from typing import Any


def _roles(_app: Any, _name: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    # WAI-ARIA lists hold list items; `doc-biblioentry` was given up for them in DPUB-ARIA 1.1.
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("html-page-context", _roles)
    return {"parallel_read_safe": True}
