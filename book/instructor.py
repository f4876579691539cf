"""Write a page for teachers beside every chapter: goals, minutes, what to show, the predictions with their answers.

    python book/instructor.py build/executed FOLDER

Questions, options and answers are those of the executed chapter; `book/class/instructor.yaml` has what to show and
which wrong answers to expect.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from address import ROOT
from nbformat import NotebookNode

NOTES = ROOT / "book" / "class" / "instructor.yaml"
_ANSWER = re.compile(r'(?s)<details data-option="(\d)"><summary><b>Answer</b></summary>\n\n(.*?)\n\n</details>')


@dataclass(frozen=True)
class Question:
    """A prediction of a chapter: its words, its options, which of them came true (from 0), and why."""

    words: str
    options: list[str]
    right: int
    answer: str


def questions(page: NotebookNode) -> list[Question]:
    """Read the predictions off an executed chapter."""
    found, asked = [], ""
    for cell in page.cells:
        _, _, after = cell.source.partition("**Predict.** ")
        asked = after if cell.cell_type == "markdown" and after else asked
        printed = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", [])]
        answer = _ANSWER.search("\n".join([cell.source, *printed] if cell.cell_type == "markdown" else printed))
        if asked and answer:
            words, _, listed = asked.partition("\n\n- ")
            options = [" ".join(option.split()) for option in listed.split("\n\n")[0].split("\n- ")]
            found.append(Question(" ".join(words.split()), options, int(answer[1]) - 1, answer[2]))
            asked = ""
    return found


def write(page: NotebookNode, name: str, notes: dict[str, list[str]]) -> str:
    """Compose a chapter's page.

    Args:
        page: the executed notebook.
        name: its stem.
        notes: what to "show", and of every prediction the "wrong" answer to expect.

    Returns:
        MyST Markdown.

    Raises:
        ValueError: there are not as many notes as predictions.
    """
    prose = "\n\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    title = prose.partition("\n")[0].removeprefix("# ")
    goals = re.search(r"(?ms)^\*\*After this chapter you can\*\*\n\n(.*?)(?=\n\n)", prose)
    minutes = re.search(r"(?m)^\| in class \|.*\n\|.*\n\| ([^|]+) \|", prose)
    asked = questions(page)
    if goals is None or minutes is None or len(asked) != len(notes["wrong"]):
        raise ValueError(f"{name}: expected goals, minutes and {len(notes['wrong'])} predictions, got {len(asked)}")
    parts = [
        f"# Teaching: {title}",
        f"For [the chapter](../../notebooks/{name}.ipynb). In class: {minutes[1].strip()}.",
        "## Goals",
        re.sub(r"\]\(\.\./book/", "](../", goals[1]),
        "## What to show",
        "\n".join(f"- {line}" for line in notes["show"]),
        "## Predictions",
    ]
    for number, (question, wrong) in enumerate(zip(asked, notes["wrong"], strict=True), start=1):
        options = "\n".join(
            f"- **{option}** (what the page found)" if at == question.right else f"- {option}"
            for at, option in enumerate(question.options)
        )
        answer = f"```{{dropdown}} The answer to prediction {number}\n{question.answer}\n```"
        parts += [f"### Prediction {number}", question.words, options, f"*Expect:* {wrong}", answer]
    text = "\n\n".join(parts)
    return re.sub(r"\]\((?:\.\./book/)", "](../", re.sub(r"\]\((0\d_\w+\.ipynb)", r"](../../notebooks/\1", text)) + "\n"


def main(executed: Path, folder: Path) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = yaml.safe_load(NOTES.read_text(encoding="utf-8"))
    for path in sorted(executed.glob("*.ipynb")):
        page = nbformat.read(path, as_version=4)
        (folder / f"{path.stem}.md").write_text(write(page, path.stem, notes[path.stem]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
