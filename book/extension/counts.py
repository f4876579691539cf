"""A Sphinx extension: how many claims were tested and what became of them, counted on the page of claims.

The page is written from the stored results (`fragility claims --write`). Other pages say `{{ claims }}` for all of them
and `{{ claims_refuted }}`, `{{ claims_not_reproduced }}` and so on for a verdict.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

VERDICTS = ("reproduced", "direction only", "not reproduced", "refuted", "not yet tested")


def count(page: str) -> dict[str, str]:
    """Count the verdicts in the table that opens the page of claims.

    Args:
        page: its Markdown.

    Returns:
        The substitutions.

    Raises:
        ValueError: if there is no verdict, or one that is not known.
    """
    found = Counter(re.findall(r"(?m)^\| \[\w+\]\(#\w+\).*\*([a-z ]+)\*", page))
    if not found or not set(found) <= set(VERDICTS):
        raise ValueError(f"page: expected rows that hold one of {VERDICTS}, got {dict(found)}")
    numbers = {f"claims_{verdict.replace(' ', '_')}": str(found[verdict]) for verdict in VERDICTS}
    return {"claims": str(found.total()), **numbers}


def _configure(app: Any, config: Any) -> None:
    config.myst_substitutions = count((Path(app.srcdir) / "book" / "claims.md").read_text(encoding="utf-8"))


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("config-inited", _configure, priority=400)
    return {"parallel_read_safe": True}
