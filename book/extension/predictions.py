"""A Sphinx extension: a question that a chapter asks before it runs the code stands out, and one answers by a press.

A chapter writes a paragraph that opens with a bold "Predict.", a list of options below it, the folded outputs, and
`<details data-option="2">` with the answer, where the second option came true. `book/_static/predictions.js` turns the
options into buttons; without it they are a list, and outputs and answer unfold one by one.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes


def mark(document: nodes.document) -> None:
    """Give every paragraph that opens with a bold "Predict." the class `predict`, and a list below it `options`."""
    for paragraph in document.findall(nodes.paragraph):
        opening = next((child for child in paragraph.children if child.astext()), None)
        if isinstance(opening, nodes.strong) and opening.astext() == "Predict.":
            paragraph["classes"].append("predict")
            below = paragraph.next_node(descend=False, siblings=True)
            if isinstance(below, nodes.bullet_list):
                below["classes"].append("options")


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("doctree-read", lambda _app, document: mark(document))
    app.add_js_file("predictions.js", loading_method="defer")
    return {"parallel_read_safe": True}
