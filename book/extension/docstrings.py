"""A Sphinx extension: docstrings are plain text with `code`, so bars and stars in them are no markup."""

from __future__ import annotations

import re
from typing import Any


def escape(text: str) -> str:
    """Escape what reStructuredText would take for markup, outside of backticks, and part code from what follows it."""
    escaped = re.sub(r"(`[^`]*`)|([|*])", lambda match: match[1] or f"\\{match[2]}", text)
    return re.sub(r"(`[^`]*`)(?=\w)", r"\1\\ ", escaped)


def _process(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = escape("\n".join(lines)).split("\n")


def _skip(_app: Any, _what: str, _name: str, member: Any, _skipped: bool, _options: Any) -> bool | None:
    """Leave out the fields of a named tuple, "Alias for field number 0": its docstring lists them."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, bool]:
    """Register the extension, ahead of napoleon, which adds stars of its own."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
