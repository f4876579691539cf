"""The committed pages: their cells, and what these put out."""

from collections.abc import Iterator
from typing import Any

import nbformat
import pages
from nbformat import NotebookNode

CHAPTERS = {path.stem: nbformat.read(path, as_version=4) for path in sorted(pages.NOTEBOOKS.glob("*.ipynb"))}


def outputs(*kinds: str) -> Iterator[tuple[str, NotebookNode, Any]]:
    """Chapter, cell and data of every output of these kinds, of the first kind that an output has."""
    for name, chapter in CHAPTERS.items():
        for cell in chapter.cells:
            for output in cell.get("outputs", []):
                if found := [output.data[kind] for kind in kinds if kind in output.get("data", {})]:
                    yield name, cell, found[0]
