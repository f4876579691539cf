"""`fragility verify`: what is right passes, what is wrong is named, and what cannot be known is never passed."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from forge import forge
from fragility.cli import main
from fragility.study.catalogue import STUDIES
from fragility.study.piece import Piece, Row, Study, Tolerance
from fragility.study.run import run
from fragility.study.store import read, results_folder
from fragility.study.verify import differences, verify

STUDY = ("parabola", "fast")
COLUMNS = {
    "image": (str, "a name"),
    "kind": (str, "a text that may be missing"),
    "first": (float, "computed directly"),
    "last": (float, "what a long search ends in"),
    "steps": (int, "of that search"),
}


@dataclass(frozen=True)
class Profile:
    seed: int


def rows(piece: Piece, _: None) -> list[Row]:
    x = [piece["first"] / 36 + n / 100 for n in range(4)]
    return [
        {"image": f"x = {v:.2f}", "kind": None, "first": 1 - v * v, "last": (1 - v) ** 2, "steps": int(10 * v)}
        for v in x
    ]


# A study that takes no time: nine pieces of four rows.
PARABOLA = Study(
    columns=COLUMNS,
    profiles={"fast": Profile(0)},
    prepare=lambda profile, device: (None, {}),
    pieces=lambda profile, _: (
        {"seed": profile.seed, "first": first, "images": list("abcd")} for first in range(0, 36, 4)
    ),
    rows=rows,
    tolerance=Tolerance(within={"first": 0.02}, means={"last": 0.02, "steps": 1}),
)


@pytest.fixture(autouse=True)
def study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, STUDY[0], PARABOLA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run(*STUDY, folder=tmp_path)
    return tmp_path


def command(folder: Path, *more: str) -> int:
    return main(["verify", STUDY[0], "--profile", STUDY[1], "--results", str(folder), "--seed", "0", *more])


def test_what_was_computed_here_is_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(folder, "--rows", "10") == 0
    shown = "parabola-fast: of 36 rows 12 computed again, 0 not verifiable here; no differences\n"
    assert capsys.readouterr().out == shown


def test_the_attack_sweep_is_verified(tmp_path: Path) -> None:
    run("attack_sweep", "fast", folder=tmp_path, limit_images=1)
    (report,) = verify(["attack_sweep"], "fast", rows=12, folder=tmp_path)
    assert report.stored == 78
    assert (report.unverifiable, report.problems) == (0, ())
    assert report.verified >= 12


def test_every_row_is_drawn_sooner_or_later(folder: Path) -> None:
    (report,) = verify([STUDY[0]], STUDY[1], rows=36, folder=folder)
    assert (report.stored, report.verified, report.problems) == (36, 36, ())


@pytest.mark.parametrize(
    ("column", "change", "named"),
    [
        ("first", lambda text: f"{float(text) - 0.03:.7g}", r"x = 0\.00: first is 0\.97 in the table, 1 now"),
        ("first", lambda text: "", "first is nan in the table, 1 now"),
        ("kind", lambda text: "odd", "kind is odd in the table, None now"),
        ("last", lambda text: f"{float(text) / 2:.7g}", r"last: the mean of 36 rows is 0\.\d+ now, the table says 0"),
        ("steps", lambda text: str(int(text) + 5), r"steps: the mean of 36 rows is"),
    ],
)
def test_a_changed_number_is_found(
    folder: Path, column: str, change: Callable[[str], str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(*STUDY, folder, column, change)
    assert command(folder, "--rows", "36") == 1
    assert re.search(named, capsys.readouterr().out)


def test_a_sample_of_one_piece_finds_a_changed_piece_in_the_end(folder: Path) -> None:
    forge(*STUDY, folder, "first", lambda text: "0.5", image="x = 0.00")
    found = [bool(next(verify([STUDY[0]], STUDY[1], rows=4, folder=folder, seed=seed)).problems) for seed in range(40)]
    assert 0 < sum(found) < 20


def test_a_damaged_table_is_no_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder / "parabola-fast.csv"
    table.write_text(table.read_text().replace("0.98", "0.97", 1))
    assert command(folder) == 1
    assert re.search(r"lines? [\d, ]+ damaged", capsys.readouterr().out)


def test_other_weights_or_data_are_counted_and_never_passed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(profile: Profile, device: str) -> tuple[None, dict[str, Any]]:
        raise ConnectionError("imagenet: no network")

    for study, reason in (
        (replace(PARABOLA, prepare=gone), "imagenet: no network"),
        (replace(PARABOLA, profiles={"fast": Profile(1)}), "weights, data or parameters that are not at hand"),
    ):
        monkeypatch.setitem(STUDIES, STUDY[0], study)
        assert command(folder) == 3
        shown = capsys.readouterr().out
        assert "of 36 rows 0 computed again, 8 not verifiable here" in shown
        assert reason in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attack_sweeps"], "study: expected one of attack_sweep, "),
        (["attack_sweep", "--profile", "slow"], "profile: expected one of fast, laptop, paper, got 'slow'"),
        (["attack_sweep"], "got none for attack_sweep"),
        ([], "got none for any study"),
        (["attack_sweep", "--rows", "0"], "rows: expected an integer >= 1"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *arguments, "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_what_counts_as_a_difference() -> None:
    columns = {"text": (str, ""), "list": (str, ""), "count": (int, ""), "x": (float, ""), "y": (float, "")}
    old: list[Row] = [{"text": "a", "list": "0.1 0.2", "count": 3, "x": 2.0, "y": float(n)} for n in range(10)]
    allowed = Tolerance(within={"list": 0.01}, means={"y": 0.1})

    def found(**changes: Any) -> list[str]:
        return list(differences(old, [row | changes for row in old[:1]] + old[1:], columns, allowed))

    assert found() == found(list="0.105 0.2") == found(x=2.0001) == found(y=9.0) == found(y=float("nan")) == []
    assert len(found(list="0.12 0.2")) == len(found(list="0.1")) == len(found(x=2.001)) == len(found(count=None)) == 1
    assert len(found(text="b")) == len(found(y=40.0)) == len(found(x=float("nan"))) == 1
    assert list(differences(old, old[1:], columns, allowed)) == ["expected 10 rows, got 9"]
    lost = [row | {"y": float("nan")} for row in old]
    assert list(differences(old, lost, columns, allowed)) == ["y: 10 of 10 numbers of the table are missing now"]
    assert list(differences(lost, old, columns, allowed)) == []


TABLES = sorted(path.stem for path in results_folder().glob("*-*.csv"))


def test_stored_rows_that_need_no_data_are_verified_everywhere() -> None:
    (report,) = verify(["dimension"], "laptop", rows=4, seed=0)
    assert report.verified >= 4
    assert (report.unverifiable, report.problems) == (0, ())


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_the_stored_results_are_verified_where_their_data_are(table: str) -> None:
    study, _, profile = table.partition("-")
    (report,) = verify([study], profile, rows=4)
    assert report.problems == ()


@pytest.mark.parametrize("table", TABLES)
def test_stored_tables_are_plain_and_small(table: str) -> None:
    path = results_folder() / f"{table}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    study, _, profile = table.partition("-")
    assert len(rows) == len(read(study, profile))
    assert study in STUDIES
    assert profile in STUDIES[study].profiles
    assert sum(file.stat().st_size for file in results_folder().rglob("*") if file.is_file()) < 10_000_000
