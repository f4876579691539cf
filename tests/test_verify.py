"""`fragility verify`: what is right passes, what is wrong is named, and what cannot be known is never passed."""

import csv
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from forge import forge
from fragility.cli import main
from fragility.study.catalogue import STUDIES
from fragility.study.piece import Piece, Row, Study, Tolerance
from fragility.study.run import run
from fragility.study.store import piece_name, read, results_folder
from fragility.study.verify import differences, verify

COLUMNS = {
    "image": (str, "a name"),
    "kind": (str, "a text that may be missing"),
    "first": (float, "computed directly"),
    "last": (float, "what a long search ends in"),
    "steps": (int, "of that search"),
}


@dataclass(frozen=True)
class Seed:
    seed: int


def pieces(profile: Seed, _: None) -> list[Piece]:
    return [{"seed": profile.seed, "first": first, "images": list("abcd")} for first in range(0, 36, 4)]


def rows(piece: Piece, _: None) -> list[Row]:
    points = [piece["first"] / 36 + n / 100 for n in range(4)]
    columns = ([f"x = {x:.2f}", None, 1 - x * x, (1 - x) ** 2, int(10 * x)] for x in points)
    return [dict(zip(COLUMNS, column, strict=True)) for column in columns]


# A study that takes no time: nine pieces of four rows.
TOLERANCE = Tolerance(within={"first": 0.02}, means={"last": 0.02, "steps": 1})
PARABOLA = Study(COLUMNS, {"fast": Seed(0)}, lambda *_: (None, {}), pieces, rows, tolerance=TOLERANCE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(STUDIES, "parabola", PARABOLA)
    run("parabola", "fast", folder=tmp_path)
    return tmp_path


def command(folder: Path, rows: int = 8) -> int:
    return main(["verify", "parabola", "--results", str(folder), "--seed", "0", "--rows", str(rows)])


def test_what_was_computed_here_is_verified(folder, capsys):
    assert command(folder, 10) == 0
    shown = "parabola-fast: of 36 rows 12 computed again, 0 not verifiable here; no differences\n"
    assert capsys.readouterr().out == shown


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
def test_a_changed_number_is_found(folder, column, change, named, capsys):
    forge("parabola", "fast", folder, column, change)
    assert command(folder, 36) == 1
    assert re.search(named, capsys.readouterr().out)


def test_a_sample_of_one_piece_finds_a_changed_piece_in_the_end(folder):
    forge("parabola", "fast", folder, "first", lambda text: "0.5", image="x = 0.00")
    found = [bool(next(verify(["parabola"], rows=4, folder=folder, seed=seed)).problems) for seed in range(40)]
    assert 0 < sum(found) < 20


@pytest.mark.parametrize(
    ("device", "minutes", "drawable", "verified"),
    [("cpu", 1.0, 16, 8), ("cpu", 5.0, 36, 8), ("cpu", 0.1, 0, 0), ("a GPU", 1.0, 0, 0)],
)
def test_only_pieces_that_a_processor_computes_in_time_are_drawn(
    folder, device, minutes, drawable, verified, monkeypatch
):
    slow = replace(PARABOLA, cost=lambda piece: 1.0 + 9 * (piece["first"] >= 16))  # five of nine take ten times as long
    monkeypatch.setitem(STUDIES, "parabola", slow)
    path = folder / "parabola-fast.json"
    record = json.loads(path.read_text())
    name = piece_name({"version": 1, **pieces(Seed(0), None)[0]})  # the only one of which the time is known
    record["sessions"] = [{**record["sessions"][0], "device": device, "seconds": {name: 20.0}}]
    path.write_text(json.dumps(record))
    (report,) = verify(["parabola"], folder=folder, minutes=minutes, seed=0)
    assert (report.drawable, report.verified, report.problems) == (drawable, verified, ())
    assert report.unverifiable == 8 - verified
    with pytest.raises(ValueError, match="minutes: expected a positive number, got 0"):
        next(verify(["parabola"], folder=folder, minutes=0))


def test_a_damaged_table_is_no_pass(folder, capsys):
    table = folder / "parabola-fast.csv"
    table.write_text(table.read_text().replace("0.98", "0.97", 1))
    assert command(folder) == 1
    assert re.search(r"lines? [\d, ]+ damaged", capsys.readouterr().out)


def gone(profile: Seed, device: str) -> tuple[None, dict[str, Any]]:
    raise ConnectionError("imagenet: no network")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prepare": gone}, "imagenet: no network"),
        ({"profiles": {"fast": Seed(1)}}, "weights, data or parameters that are not available here"),
    ],
)
def test_other_weights_or_data_are_counted_and_never_passed(folder, change, reason, monkeypatch, capsys):
    monkeypatch.setitem(STUDIES, "parabola", replace(PARABOLA, **change))
    assert command(folder) == 3
    shown = capsys.readouterr().out
    assert "of 36 rows 0 computed again, 8 not verifiable here" in shown
    assert reason in shown


LACKING = float("nan")


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 0), ({"list": "0.105 0.2"}, 0), ({"x": 2.0001}, 0), ({"y": 9.0}, 0), ({"y": LACKING}, 0),
        ({"list": "0.12 0.2"}, 1), ({"list": "0.1"}, 1), ({"x": 2.001}, 1), ({"x": LACKING}, 1),
        ({"count": None}, 1), ({"text": "b"}, 1), ({"y": 40.0}, 1),
    ],
)  # fmt: skip
def test_what_counts_as_a_difference(changes, count):
    columns = {"text": (str, ""), "list": (str, ""), "count": (int, ""), "x": (float, ""), "y": (float, "")}
    old: list[Row] = [{"text": "a", "list": "0.1 0.2", "count": 3, "x": 2.0, "y": float(n)} for n in range(10)]
    tolerance = Tolerance(within={"list": 0.01}, means={"y": 0.1})
    assert len(list(differences(old, [old[0] | changes, *old[1:]], columns, tolerance))) == count
    assert list(differences(old, old[1:], columns, tolerance)) == ["expected 10 rows, got 9"]
    lost = [row | {"y": LACKING} for row in old]
    assert list(differences(old, lost, columns, tolerance)) == ["y: 10 of 10 numbers of the table are missing now"]
    assert list(differences(lost, old, columns, tolerance)) == []


TABLES = [tuple(path.stem.rsplit("-", 1)) for path in sorted(results_folder().glob("*-*.csv"))]


def test_stored_rows_that_need_no_data_are_verified_everywhere():
    (report,) = verify(["dimension"], "laptop", rows=4, seed=0)
    assert report.verified >= 4
    assert (report.unverifiable, report.problems) == (0, ())


@pytest.mark.slow
@pytest.mark.parametrize(("study", "profile"), TABLES)
def test_the_stored_results_are_verified_where_their_data_are(study, profile):
    (report,) = verify([study], profile, rows=4)
    assert report.problems == ()


@pytest.mark.parametrize(("study", "profile"), TABLES)
def test_stored_tables_are_plain_and_small(study, profile):
    path = results_folder() / f"{study}-{profile}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(read(study, profile))
    assert profile in STUDIES[study].profiles
    assert path.stat().st_size < 2_000_000
