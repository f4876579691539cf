"""A Sphinx extension: what came out, before a chapter begins: sentences from the ledger, with numbers and verdicts.

They stand between the chapter's first picture and "After this chapter you can". The sentences are those of
`_static/claims.json`, which `fragility claims --write` computes from the stored results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes

# Those that do not give away what the chapter asks its reader to predict.
FOUND = {
    "01_methods": ("M1",),
    "02_attacks": ("A5", "A7", "A8"),
    "03_influence": ("I4", "I5", "I9"),
    "04_hessian": ("H1", "H2", "H3"),
    "05_orthogonality": ("O1", "O2", "O3"),
    "06_defenses": ("D1", "D2", "D6"),
    "07_errata": ("D1", "I3b", "O3"),
    "08_interpretable": ("R5", "R2", "R6"),
    "09_memorisation": ("Z1", "Z3", "Z5"),
    "10_explainers": ("L1", "L2", "G3"),
    "11_audit": ("K2", "K5"),
}


def opener(claims: list[dict[str, Any]]) -> nodes.container:
    """Return a list of claims' sentences.

    Args:
        claims: as they stand in `claims.json`.

    Returns:
        A container of the class `opener`; each item is the sentence, the verdict and a link to the ledger.
    """
    items = []
    for claim in claims:
        verdict, key = claim["verdict"], claim["id"]
        chip = nodes.emphasis("", verdict, classes=["verdict", f"verdict-{verdict.replace(' ', '-')}"])
        ledger = nodes.reference("", key, refuri=f"../book/claims.html#{key.lower()}", internal=True)
        item = nodes.paragraph("", "", nodes.Text(f"{claim['sentence']} "), chip, nodes.Text(" "), ledger)
        items.append(nodes.list_item("", item))
    title = nodes.paragraph("", "", nodes.strong("", "What came out"))
    return nodes.container("", title, nodes.bullet_list("", *items), classes=["opener"])


def _open(app: Any, document: nodes.document) -> None:
    chosen = FOUND.get(Path(app.env.docname).name) if app.env.docname.startswith("notebooks/") else None
    if chosen is None:
        return
    source = Path(app.srcdir) / "book" / "_static" / "claims.json"
    app.env.note_dependency(str(source))
    ledger = {claim["id"]: claim for claim in json.loads(source.read_text(encoding="utf-8"))["claims"]}
    if unknown := sorted(set(chosen) - set(ledger)):
        raise ValueError(f"{app.env.docname}: expected claims of the ledger, got {unknown}; change FOUND in {__file__}")
    for paragraph in document.findall(nodes.paragraph):
        if paragraph.astext() == "After this chapter you can":
            place = paragraph.parent.index(paragraph)
            paragraph.parent.insert(place, opener([ledger[key] for key in chosen]))
            return
    raise ValueError(f'{app.env.docname}: expected a paragraph "After this chapter you can", got none')


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("doctree-read", _open)
    return {"parallel_read_safe": True}
