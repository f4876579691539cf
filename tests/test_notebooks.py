"""The notebooks: source and page in step, outputs fresh, and the pipeline that makes them."""

from __future__ import annotations

import re
import shutil
import tomllib
import unicodedata
from pathlib import Path

import nbformat
import pages
import papermill
import pytest
import student
from address import ROOT, current

from committed import CHAPTERS, outputs
from fragility import chapter
from fragility.study.claims import LEDGER

SOURCE = """# %% [markdown]
# # A sum
#
# By hand, $1 + 1 = 2$.

# %% tags=["parameters"]
profile = "fast"
terms = 2


# %%
def total(n):
    return n


# %%
print(profile, total(terms))

# %%
print(profile, total(terms))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "09_sum.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def text(page: Path) -> str:
    cells = nbformat.read(page, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def test_every_committed_page_is_in_step_with_its_source() -> None:
    sources = pages.sources([])
    assert sources, "there are no notebooks"
    assert [problem for source in sources for problem in pages.problems(source)] == []
    assert {path.stem for path in pages.NOTEBOOKS.glob("*.ipynb")} == {path.stem for path in sources}


def test_no_committed_page_weighs_a_megabyte() -> None:
    assert {path.name for path in pages.NOTEBOOKS.glob("*.ipynb") if path.stat().st_size >= 1e6} == set()


def test_every_figure_has_a_caption_and_an_alternative_text() -> None:
    for name, cell, _ in outputs("image/png", "image/svg+xml"):
        display = cell.metadata.get("mystnb", {})
        assert len(display.get("figure", {}).get("caption", "")) > 10, (name, cell.source)
        assert len(display.get("image", {}).get("alt", "")) > 10, (name, cell.source)


def test_code_fits_the_column_of_a_page() -> None:
    limit = tomllib.loads((ROOT / "notebooks" / "ruff.toml").read_text("utf-8"))["line-length"]
    for name, cells in chapters():
        lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
        assert [line for line in lines if len(line) > limit] == [], name


def test_the_lesson_is_what_the_code_shows() -> None:
    for name, cells in chapters():
        hidden, visible = [], 0
        for cell in (cell for cell in cells if cell.cell_type == "code"):
            count = sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell.source.splitlines())
            if set(cell.metadata.get("tags", [])) & {"hide-input", "hide-cell", "remove-cell"}:
                hidden.append(count)
            else:
                visible += count
        assert max(hidden) <= 15, name
        assert sum(hidden) <= visible / 2, name


def test_long_tables_are_folded() -> None:
    for name, cell, table in outputs("text/markdown"):
        assert table.startswith("<details>") or table.count("\n| ") <= 13, (name, cell.source)


def test_the_closing_tables_are_what_the_rules_say_now() -> None:
    for name, cell, table in outputs("text/markdown"):
        if cell.source.startswith("chapter.ledger("):
            # If this fails a rule has changed since: run `make notebooks`.
            assert table == chapter.ledger(*re.findall(r'"(\w+)"', cell.source))._repr_markdown_(), name


def test_no_two_figures_share_a_name() -> None:
    texts = [source.read_text(encoding="utf-8") for source in pages.sources([])]
    names = [name for text in texts for name in re.findall(r'"figure": .*?"name": "([^"]+)"', text)]
    assert len(names) > 10
    assert sorted(names) == sorted(set(names))


def test_a_figures_cell_shows_one_figure_and_no_table() -> None:
    """Its name would belong to both."""
    for name, page in CHAPTERS.items():
        for cell in page.cells:
            if "figure" in cell.metadata.get("mystnb", {}):
                shown = [output for output in cell.outputs if output.output_type != "stream"]
                assert len(shown) == 1, (name, cell.source)


def test_a_second_execution_gives_the_same_bytes(source: Path) -> None:
    page = source.with_suffix(".ipynb")
    pages.execute(source, page, {"profile": "fast"})
    first = page.read_bytes()
    pages.execute(source, page, {})
    assert page.read_bytes() == first
    assert text(page) == "fast 2\nfast 2\n"
    assert pages.problems(source) == []
    assert len({cell.id for cell in nbformat.read(page, as_version=4).cells}) == 5


def test_a_page_is_the_same_where_kernels_can_only_talk_over_tcp(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, seen = source.with_suffix(".ipynb"), []
    for ipc in (True, False):
        monkeypatch.setattr(pages.zmq, "has", lambda name, ipc=ipc: ipc)
        assert pages.transport().KernelManager["transport"] == ("ipc" if ipc else "tcp")
        pages.execute(source, page, {})
        seen.append(page.read_bytes())
    assert seen[0] == seen[1]


def test_parameters_are_injected_visibly_and_unknown_names_refused(source: Path, tmp_path: Path) -> None:
    page = tmp_path / "site" / source.with_suffix(".ipynb").name
    pages.execute(source, page, {"terms": 3, "profile": "fast"})
    cells = nbformat.read(page, as_version=4).cells
    assert text(page) == "fast 3\nfast 3\n"
    assert [cell.source.split("\n")[1:] for cell in cells if cell.id == "injected-parameters"] == [["terms = 3"]]
    with pytest.raises(ValueError, match=r"expected parameters among \['profile', 'terms'\], got \['profle'\]"):
        pages.execute(source, page, {"profle": "laptop"})


def test_a_warning_or_an_error_stops_the_execution(source: Path) -> None:
    page = source.with_suffix(".ipynb")
    source.write_text(SOURCE + "\n# %%\nimport warnings\nwarnings.warn('mind the gap')\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"wrote to stderr.*mind the gap"):
        pages.execute(source, page, {})
    source.write_text(SOURCE + "\n# %%\n1 / 0\n", encoding="utf-8")
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        pages.execute(source, page, {})
    assert not page.exists()


def test_stale_edited_or_unexecuted_pages_are_found(source: Path) -> None:
    page = source.with_suffix(".ipynb")
    assert pages.problems(source) == ["09_sum.py has no page"]
    nbformat.write(pages.read_source(source), page)
    assert "executed" in " ".join(pages.problems(source))
    pages.execute(source, page, {})
    shutil.copy(page, source.with_suffix(".kept"))
    source.write_text(SOURCE.replace("By hand", "By head"), encoding="utf-8")
    assert len(pages.problems(source)) == 2
    source.write_text(SOURCE, encoding="utf-8")
    assert pages.problems(source) == []
    page.write_text(page.read_text(encoding="utf-8").replace("print(profile", "print(terms"), encoding="utf-8")
    assert len(pages.problems(source)) == 1


def test_the_fingerprint_follows_the_results_that_are_read_and_no_others(source: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    source.write_text(SOURCE + '\n# %%\nstored("attack_sweep")\n', encoding="utf-8")
    before = pages.fingerprint(source, results)
    (results / "attack.csv").write_text("1", encoding="utf-8")
    assert pages.fingerprint(source, results) == before
    (results / "attack_sweep.csv").write_text("1", encoding="utf-8")
    first = pages.fingerprint(source, results)
    (results / "attack_sweep.csv").write_text("2", encoding="utf-8")
    assert len({before, first, pages.fingerprint(source, results)}) == 3


def test_the_fingerprint_survives_the_publication_under_another_address(source: Path, tmp_path: Path) -> None:
    line = "\n# %%\n# pip install git+https://github.com/{}\n"
    source.write_text(SOURCE + line.format(current()), encoding="utf-8")
    other = tmp_path / "other.py"
    other.write_text(SOURCE + line.format(""), encoding="utf-8")
    assert pages.fingerprint(source) == pages.fingerprint(other)


def test_a_notebook_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected some of .*got \['99_none'\]"):
        pages.sources(["99_none"])


def test_the_students_version_has_a_place_where_a_solution_was(source: Path) -> None:
    source.write_text(
        f'{SOURCE}\n# %% [markdown] tags=["solution"]\n# Two.\n\n# %% tags=["solution"]\nprint(1 + 1)\n',
        encoding="utf-8",
    )
    cells = student.student(source).cells
    assert [cell.source for cell in cells[-2:]] == ["print(profile, total(terms))", student.PLACE]
    assert all(not cell.get("outputs") for cell in cells)


def test_students_predict_without_the_answer_and_without_a_gap() -> None:
    for source in pages.sources([]):
        cells, whole = student.student(source).cells, pages.read_source(source).cells
        text = prose(cells)
        assert text.count("**Predict.**") == prose(whole).count("**Predict.**") >= 2, source.name
        assert "<b>Answer</b>" not in text, source.name
        code = [cell for cell in whole if cell.cell_type == "code" and not tagged(cell, student.TAG)]
        gaps = [cell for cell in cells if cell.source == student.PLACE]
        assert len([cell for cell in cells if cell.cell_type == "code"]) == len(code) + len(gaps), source.name
        assert len(gaps) >= 3, source.name


CLOSING = (
    "## What follows, and what does not",
    "## Claimed, published, measured",
    "## Strengths, limitations, software",
    "## Exercises",
)
TIERS = ("### Warm-up", "### Core", "### Open")
# Koh and Liang 2017; Madry et al. (2018); Ghorbani, Abid and Zou (2019); but not AAAI 2019, and not 22 November 2026
CITATION = re.compile(r"(?<!\d )\b([A-Z][\w-]*[a-z][\w-]*)(?:, [A-Z]\w+)*(?: et al\.| and [A-Z][\w-]+)? \(?(\d{4})\b")


def chapters() -> list[tuple[str, list[nbformat.NotebookNode]]]:
    return [(source.stem, pages.read_source(source).cells) for source in pages.sources([])]


def prose(cells: list[nbformat.NotebookNode]) -> str:
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def test_every_chapter_opens_with_goals_and_times_and_closes_alike() -> None:
    for name, cells in chapters():
        opening = re.split(r"(?m)^## ", prose(cells))[0]
        assert opening.startswith("# "), name
        assert "**After this chapter you can**" in opening, name
        assert "| in class | to run at `fast` | at `laptop` | at `paper` |" in prose(cells), name
        headings = re.findall(r"^##+ .*", prose(cells), re.MULTILINE)
        assert tuple(headings[-len(CLOSING + TIERS) :]) == CLOSING + TIERS, name
        ledger = [cell.source for cell in cells if "chapter.ledger(" in cell.source]
        assert len(ledger) == 1, name


def test_closing_tables_show_every_claim_of_their_chapter() -> None:
    for name, cells in chapters():
        (ledger,) = [cell.source for cell in cells if "chapter.ledger(" in cell.source]
        missing = [claim.id for claim in LEDGER if claim.chapter == name and f'"{claim.id}"' not in ledger]
        assert missing == [], name


def test_every_tier_of_exercises_has_a_solution_whose_code_is_executed() -> None:
    for name, cells in chapters():
        starts = [number for number, cell in enumerate(cells) for tier in TIERS if tier in cell.source]
        assert len(starts) == len(TIERS), name
        for start, end in zip(starts, [*starts[1:], len(cells)], strict=True):
            code = [cell for cell in cells[start:end] if cell.cell_type == "code"]
            assert code, (name, cells[start].source)
            assert all(tagged(cell, student.TAG) and tagged(cell, "hide-cell") for cell in code), name


def test_readers_predict_before_they_run_and_find_a_folded_answer_after() -> None:
    for name, cells in chapters():
        questions = [number for number, cell in enumerate(cells) if "**Predict.**" in cell.source]
        answers = [number for number, cell in enumerate(cells) if tagged(cell, "answer")]
        assert len(questions) >= 2, name
        assert len(questions) == len(answers), name
        for question, answer, later in zip(questions, answers, [*questions[1:], len(cells)], strict=True):
            assert question < answer < later, (name, cells[question].source)
            between = cells[question + 1 : answer]
            assert any(cell.cell_type == "code" for cell in between), (name, cells[question].source)
            options = re.findall(r"(?m)^- .+", cells[question].source.partition("**Predict.**")[2])
            right = re.findall(r'<details data-option="(\d)"><summary><b>Answer</b></summary>', cells[answer].source)
            assert len(right) == 1, name
            assert 1 <= int(right[0]) <= len(options) >= 2, (name, cells[question].source)


def test_no_output_between_a_prediction_and_its_answer_stands_open() -> None:
    for name, page in CHAPTERS.items():
        asked = False
        for cell in page.cells:
            asked = (asked or "**Predict.**" in cell.source) and not tagged(cell, "answer")
            assert not (asked and cell.get("outputs")) or tagged(cell, "hide-output"), (name, cell.source)


NUMBER = re.compile(r"(?<![\w.])(\d*\.\d+|\d+)( ?%)?(?![\w.]?\d)")


def results(text: str) -> set[str]:
    """The decimal fractions and percentages in a text, written alike: `.5`, `12%`."""
    found = NUMBER.findall(re.sub(r"\$[^$]*\$|`[^`]*`|\]\([^)]*\)", "", text))
    return {number.lstrip("0") + unit.strip() for number, unit in found if "." in number or unit}


# Chapter 7 quotes formulas, whose numbers are nobody's results.
@pytest.mark.parametrize("name", [name for name in CHAPTERS if name != "07_errata"])
def test_every_result_in_prose_stands_in_an_output_of_the_page(name: str) -> None:
    cells = CHAPTERS[name].cells
    made = [output for cell in cells for output in cell.get("outputs", [])]
    shown = "\n".join(output.get("text") or output.data.get("text/markdown", "") for output in made)
    remarks = [line for cell in cells if tagged(cell, student.TAG) for line in re.findall(r"# (.*)", cell.source)]
    told = results(prose(cells) + "\n" + "\n".join(remarks))
    assert len(told) >= 5
    assert told - results(shown) == set()


def test_a_result_is_known_however_it_is_written() -> None:
    text = "from .80 to 0.8, by 12.2 % or 93 %, at 8/255 in 2019 with $M = 0.3$"
    assert results(text) == {".80", ".8", "12.2%", "93%"}


def test_every_work_named_in_prose_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text("utf-8"), re.MULTILINE))
    texts = {path.name: path.read_text("utf-8") for path in (ROOT / "book").glob("*.md")}
    texts |= {name: prose(cells) for name, cells in chapters()}
    named = {
        (name, unicodedata.normalize("NFKD", author.replace("-", "")).encode("ascii", "ignore").decode() + year)
        for name, text in texts.items()
        for author, year in CITATION.findall(" ".join(text.split()))
    }
    assert len(named) > 20
    assert sorted((name, key) for name, key in named if key not in keys) == []


def test_first_uses_link_to_terms_that_the_glossary_has() -> None:
    headings = re.findall(r"^## (.*)", (ROOT / "book" / "glossary.md").read_text("utf-8"), re.MULTILINE)
    terms = {heading.lower().replace(" ", "-") for heading in headings}
    assert headings == sorted(headings, key=str.lower)
    linked = {name: re.findall(r"\.\./book/glossary\.md#([\w-]+)\)", prose(cells)) for name, cells in chapters()}
    for name, slugs in linked.items():
        assert len(slugs) >= 6, name
        assert len(slugs) == len(set(slugs)), name
    assert set().union(*linked.values()) <= terms


def test_a_parameter_is_explained_to_papermills_users_and_a_wrong_one_refused(tmp_path: Path) -> None:
    for source in pages.sources([]):
        known = papermill.inspect_notebook(str(source.with_suffix(".ipynb")))
        assert list(known) == ["profile", "seed"], source.name
        assert known["profile"]["default"] == '"fast"', source.name
        assert all(len(facts["help"]) > 10 for facts in known.values()), source.name
        assert "chapter.start(profile=profile, seed=seed)" in source.read_text("utf-8"), source.name
        assert f"git+https://github.com/{current()}" in source.read_text("utf-8"), source.name
    page = pages.sources([])[-1].with_suffix(".ipynb")
    for parameters, message in (
        ({"profile": "slow"}, "profile: expected fast, laptop or paper, got 'slow'"),
        ({"sed": 1}, "sed: expected parameters among profile, seed"),
    ):
        with pytest.raises(papermill.PapermillExecutionError, match=message):
            papermill.execute_notebook(page, tmp_path / "out.ipynb", parameters, progress_bar=False, cwd=tmp_path)
