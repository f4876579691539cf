"""What is made of the executed notebooks besides the site: slides, status, what a page sees of the stored results."""

from __future__ import annotations

import base64
import os
import re
import warnings
from pathlib import Path
from typing import Any

import instructor
import lesson
import matplotlib.pyplot as plt
import pages
import papermill
import pytest
import slides
import status
import torch
import yaml

from committed import CHAPTERS, outputs

DECK = {name: slides.chapter(chapter, name) for name, chapter in CHAPTERS.items()}


def test_every_figure_is_on_a_slide_with_its_caption_and_alternative_text() -> None:
    shown = "".join(slide.body for part in DECK.values() for slide in part)
    drawn = list(outputs("image/svg+xml", "image/png"))
    for name, cell, data in drawn:
        encoded = base64.b64encode(data.encode()).decode() if "<svg" in data else data.replace("\n", "")
        assert encoded in shown, (name, cell.metadata.mystnb.figure.name)
    assert len(drawn) == shown.count("<figure>") == len(re.findall(r'<img src="[^"]+" alt="[^"]{10,}">', shown))
    assert len(drawn) > 20


def test_both_pictures_of_every_comparator_are_on_a_slide() -> None:
    count = 0
    for name, cell, html in outputs("text/html"):
        if pictures := re.findall(r'<img src="(data:[^"]+)"', html):
            count += 1
            holding = [slide.kind for slide in DECK[name] if all(picture in slide.body for picture in pictures)]
            assert holding == ["picture"], (name, cell.source)
    assert count >= 3


def test_a_chapter_opens_with_its_goals_and_closes_with_what_was_measured() -> None:
    for part in list(DECK.values())[:6]:
        assert "<li>" in part[0].body, part[0].heading
        assert any("Claimed" in slide.heading and "<table>" in slide.body for slide in part), part[0].heading


def test_the_deck_needs_nothing_else_and_its_formulas_are_set() -> None:
    deck = slides.deck([slide for part in DECK.values() for slide in part])
    assert set(re.findall(r'(?:src|srcset)="(\w+):', deck)) == {"data"}
    assert not re.search(r"<link|@import|url\(", deck)
    words = re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>|<code>.*?</code>|<img[^>]*>", "", deck)
    assert "<math" in words
    assert not re.search(r"\$[^$]+\$", words)


def test_the_status_page_has_the_checksums_that_are_verified() -> None:
    rows = status.checksums()
    assert {"mnist", "fashion_mnist", "cifar10", "imagenet", "flowers"} < {row[0] for row in rows}
    digests = [row[2].strip("`").removeprefix("md5 ") for row in rows]
    assert sum(re.fullmatch(r"[0-9a-f]{64}", digest) is not None for digest in digests) >= 10


def test_a_page_sees_only_the_results_that_it_names(tmp_path: Path) -> None:
    source = tmp_path / "09_read.py"
    text = '# %% [markdown]\n# # Read\n\n# %% tags=["parameters"]\nprofile = "fast"\n\n# %%\n'
    text += "from fragility.study.store import stored\n\nlen(stored({}))\n"
    source.write_text(text.format('"dep" + "th-laptop"'), encoding="utf-8")
    with pytest.raises(papermill.PapermillExecutionError, match=r"depth-laptop.json: missing"):
        pages.execute(source, source.with_suffix(".ipynb"), {})
    source.write_text(text.format('"depth-laptop"'), encoding="utf-8")
    pages.execute(source, source.with_suffix(".ipynb"), {})
    assert [path.name for path in pages.results_named(source)] == ["depth-laptop.csv", "depth-laptop.json"]
    assert "FRAGILITY_RESULTS" not in os.environ


def test_a_page_that_closes_with_a_claim_names_the_tables_of_its_rule(tmp_path: Path) -> None:
    source = tmp_path / "09_claim.py"
    source.write_text('# %%\nchapter.ledger("A6")\n', encoding="utf-8")
    named = {path.stem for path in pages.results_named(source)}
    assert named == {"attack_sweep-laptop", "cifar_sweep-laptop"}


def test_students_of_the_class_write_four_functions_and_the_solutions_pass_its_tests() -> None:
    open_, solved = lesson.notebook(solved=False), lesson.notebook(solved=True)
    gaps = [cell.source for cell in open_.cells if lesson.PLACE in cell.source]
    assert [re.findall(r"def (\w+)", gap)[-1] for gap in gaps] == ["gradient", "step", "clip", "judge"]
    assert "# solution" not in "".join(cell.source for cell in [*open_.cells, *solved.cells])
    first = next(cell.source for cell in open_.cells if cell.cell_type == "code")
    assert "plot.grid" in first
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a backend that shows nothing
        for cell in solved.cells:
            if cell.cell_type == "code":
                exec(cell.source, names)  # noqa: S102 - the class's own notebook
    assert names["kept"](names["best"]) < names["kept"](names["noisy"]) < 500
    assert (names["model"](names["best"]).argmax(1) == names["label"]).all()
    assert (names["best"] - names["image"]).abs().max() <= 8 / 255 + 1e-6
    plt.close("all")


def test_the_classs_tests_refuse_what_students_often_write() -> None:
    cells = [cell.source for cell in lesson.notebook(solved=False).cells if cell.cell_type == "code"]
    (check,) = [cell for cell in cells if cell.startswith("moved = step(")]
    with pytest.raises(AssertionError):
        exec(check, {"torch": torch, "step": lambda x, g, alpha: x + alpha * g})  # noqa: S102
    (check,) = [cell for cell in cells if cell.startswith("original = ")]
    with pytest.raises(AssertionError):
        exec(check, {"torch": torch, "clip": lambda x, original, epsilon: x.clamp(0, 1)})  # noqa: S102


def test_a_chapters_page_for_teachers_has_every_prediction_with_the_answer_marked() -> None:
    notes = yaml.safe_load(instructor.NOTES.read_text(encoding="utf-8"))
    for name, chapter in CHAPTERS.items():
        text = instructor.write(chapter, name, notes[name])
        asked = sum(cell.source.count("**Predict.**") for cell in chapter.cells)
        assert (
            text.count("### Prediction") == text.count("(what the page found)") == text.count("*Expect:*") == asked
        ), name
        assert "data-option" not in text, name
