"""Write the students' versions of the notebooks: no outputs, no cells tagged `solution` or `answer`.

python book/student.py build/student              # to hand out
python book/student.py FOLDER --execute           # to see that they run although the solutions are gone
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from pages import execute_all, read_source, sources

TAG, ANSWER = "solution", "answer"  # an answer to a prediction leaves no place behind
PLACE = "# Your turn."


def student(source: Path) -> NotebookNode:
    """Return a notebook in which an empty cell stands where a solution was.

    Args:
        source: the `.py` file of a notebook.

    Returns:
        The notebook, without outputs; the cells that belong to one solution leave a single empty one.
    """
    notebook = read_source(source)
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if ANSWER in tags:
            continue
        if TAG not in tags:
            cells.append(cell)
        elif cells and cells[-1].source != PLACE:
            cells.append(nbformat.v4.new_code_cell(PLACE, id=f"turn-{cell.id}"))
    notebook.cells = cells
    return notebook


def main(folder: Path) -> None:
    """Write the student's version of every notebook into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources([]):
        nbformat.write(student(source), folder / f"{source.stem}.ipynb")
        print(folder / f"{source.stem}.ipynb")


if __name__ == "__main__":
    if sys.argv[2:] == ["--execute"]:
        execute_all(sources([]), Path(sys.argv[1]), {}, read=student)
    else:
        main(Path(sys.argv[1]))
