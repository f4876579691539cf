"""Make what a class of sixty minutes needs: its notebook, without and with solutions, slides with notes, a worksheet.

    python book/lesson.py build/executed FOLDER

Sources are `notebooks/class/sixty_minutes.py`, where a line that ends in `# solution` is for the students to write, and
`book/class/slides.md`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from address import ROOT
from nbformat import NotebookNode
from slides import Slide, deck, figures, render

from fragility import network
from fragility.data import datasets
from fragility.page import embedded

NOTEBOOK = ROOT / "notebooks" / "class" / "sixty_minutes.py"
SLIDES = ROOT / "book" / "class" / "slides.md"
PLACE = 'raise NotImplementedError("your turn")'
_SOLUTION = re.compile(r"(?m)^( *)\S.*  # solution\n?(?:^.*  # solution\n?)*")
_NOTES = re.compile(r"(?m)^Notes: ")
_FIGURE = re.compile(r"(?m)^figure: ([\w-]+)$")

# The first poll's figure: which of its rows was attacked is what the class has to find out.
QUIZ = "cat-before-after"
_ROW = re.compile(r"""(<g id=['"]text_\d+['"])(>\s*<!-- (?:before|after the attack) -->)""")
ASKED = "A photograph with the network's answer and what it depends on (dark: little, yellow: most); the same again."

WORKSHEET = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Worksheet: attack an explanation</title>
<style>
@page {{ size: A4; margin: 12mm; }}
body {{ font: 11pt/1.35 system-ui, sans-serif; max-width: 186mm; margin: auto; color: #1b1b1f; background: #fff; }}
h1 {{ font-size: 15pt; margin: 0 0 2mm; }} h2 {{ font-size: 11.5pt; margin: 4mm 0 1mm; }} p {{ margin: 0 0 1.5mm; }}
.row {{ display: flex; gap: 6mm; align-items: flex-start; }} img {{ width: 52mm; }} svg {{ width: 92mm; }}
.line {{ border-bottom: 1px solid #777; height: 7.5mm; }}
</style></head><body>
<h1>Attack an explanation</h1>
<p>Name: ____________________________</p>
<div class="row"><div>
<h2>1. Circle the region</h2>
<p>The network says: {answer}. Circle the part of the picture on which you think that its answer depends most.</p>
<img src="{photograph}" alt="A cat's face."></div><div>
<h2>2. Draw the curve</h2>
<p>Of the 1000 leading pixels, how many still lead when every pixel moves by at most &epsilon;? Draw a solid line for
random noise <em>before</em> the cell is run, a dashed one for an attack; then mark what you measured at 8.</p>
<svg viewBox="0 0 230 150" role="img" aria-label="Empty axes: the number of leading pixels against epsilon, 0 to 8">
<g fill="none" stroke="#1b1b1f"><path d="M30 10V125H220"/>{ticks}</g><g font-size="9" fill="#1b1b1f">{numbers}
<text x="125" y="147" text-anchor="middle">&epsilon;, levels of 255</text></g></svg></div></div>
<h2>3. Predict (minute 15)</h2>
<p>After noise of 8 levels I expect ______ of the 1000 leading pixels to lead. Measured: ______</p>
<h2>4. Predict (minute 25)</h2>
<p>Without the smooth copy the gradient is &#9675; large &#9675; small &#9675; zero, because</p><div class="line"></div>
<h2>5. Predict (minute 40)</h2>
<p>After ten steps of my attack I expect ______ to lead. Measured: ______ The answer is still ____________________</p>
<h2>6. Was the first explanation wrong? (minute 45)</h2>
<div class="line"></div><div class="line"></div>
<h2>7. Before you go (minute 55)</h2>
<p>A colleague puts a saliency map into a report. What do you ask to be written under it?</p>
<div class="line"></div><div class="line"></div><div class="line"></div>
</body></html>
"""


def notebook(*, solved: bool) -> NotebookNode:
    """Return the class's notebook, without outputs, as it is handed out or with the solutions."""
    page: NotebookNode = jupytext.read(NOTEBOOK, fmt="py:percent")
    for number, cell in enumerate(page.cells):
        cell.id = f"minutes-{number}"
        cell.metadata = NotebookNode()
        if solved:
            cell.source = cell.source.replace("  # solution", "")
        else:
            cell.source = _SOLUTION.sub(lambda match: f"{match[1]}{PLACE}\n", cell.source + "\n").rstrip("\n")
    page.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    return page


def drawn(executed: Path) -> dict[str, str]:
    """Return the figures of the executed chapters by their names, as slides show them."""
    found = {}
    for path in sorted(executed.glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"):
                found[name] = "".join(figures(cell))
                if name == QUIZ:
                    found[f"{name}-quiz"] = "".join(figures(quiz(cell)))
    return found


def quiz(cell: NotebookNode) -> NotebookNode:
    """Take off a cell's figure what says which of its two rows was attacked: their names, and the caption.

    Args:
        cell: the executed cell.

    Returns:
        A copy.

    Raises:
        ValueError: the figure does not name two rows.
    """
    asked, count = deepcopy(cell), 0
    for output in asked.outputs:
        if "image/svg+xml" in output.get("data", {}):
            output.data["image/svg+xml"], count = _ROW.subn(r"\1 display='none'\2", output.data["image/svg+xml"])
    if count != 2:
        raise ValueError(f"cell: expected a figure whose two rows are named, got {count} names")
    asked.metadata.mystnb.figure.caption = ASKED
    return asked


def slides(text: str, pictures: dict[str, str]) -> Iterator[Slide]:
    """Read slides from Markdown.

    Args:
        text: a heading of level 2 begins a slide, "figure: NAME" is a figure of a chapter, "Notes: " begins the notes.
        pictures: the chapters' figures by name.

    Yields:
        The slides.

    Raises:
        ValueError: there is no figure of that name.
    """
    for part in re.split(r"(?m)^## ", text)[1:]:
        heading, _, rest = part.partition("\n")
        words, notes = _NOTES.split(rest)
        named = _FIGURE.findall(words)
        if unknown := sorted(set(named) - set(pictures)):
            raise ValueError(f"figure: expected the name of a chapter's figure, got {unknown}")
        body = "".join(pictures[name] for name in named) + render(_FIGURE.sub("", words))
        yield Slide(heading, body, "picture" if named else "title", notes=render(notes))


def worksheet() -> str:
    """Return the worksheet, one sheet of paper when printed."""
    shown = datasets.photographs()
    across = [(30 + 23.75 * level, str(level)) for level in (0, 2, 4, 6, 8)]
    up = [(125 - 0.11 * count, str(count)) for count in (0, 250, 500, 750, 1000)]
    ticks = "".join(f'<path d="M{x} 125v4"/>' for x, _ in across) + "".join(f'<path d="M30 {y}h-4"/>' for y, _ in up)
    numbers = "".join(f'<text x="{x}" y="138" text-anchor="middle">{text}</text>' for x, text in across)
    numbers += "".join(f'<text x="24" y="{y + 3}" text-anchor="end">{text}</text>' for y, text in up)
    return WORKSHEET.format(
        answer=shown.class_names[network.squeezenet()(shown.images[:1]).argmax()],
        photograph=embedded(shown.images[0]),
        ticks=ticks,
        numbers=numbers,
    )


def main(executed: Path, folder: Path) -> None:
    """Write all of it into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(solved=False), folder / "sixty-minutes.ipynb")
    nbformat.write(notebook(solved=True), folder / "sixty-minutes-solved.ipynb")
    text = SLIDES.read_text(encoding="utf-8")
    (folder / "sixty-minutes-slides.html").write_text(deck(list(slides(text, drawn(executed)))), encoding="utf-8")
    (folder / "worksheet.html").write_text(worksheet(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
