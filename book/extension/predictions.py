"""A Sphinx extension: a question that a chapter asks before it runs the code stands out from the text."""

from __future__ import annotations

from typing import Any

from docutils import nodes


def mark(document: nodes.document) -> None:
    """Give every paragraph that opens with a bold "Predict." the class `predict`, for the style sheet."""
    for paragraph in document.findall(nodes.paragraph):
        opening = next((child for child in paragraph.children if child.astext()), None)
        if isinstance(opening, nodes.strong) and opening.astext() == "Predict.":
            paragraph["classes"].append("predict")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("doctree-read", lambda _app, document: mark(document))
    return {"parallel_read_safe": True}
