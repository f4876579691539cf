"""Results on disk: whatever happens to a run or to its files, no row is lost unnoticed, doubled or mixed."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fragility
from fragility.study.piece import Piece, Plan, Row, Study
from fragility.study.run import complete
from fragility.study.store import Store, provenance, read, results_folder, stored

COLUMNS = {
    "image": (str, "a name"),
    "number": (int, "an integer"),
    "share": (float, "a number"),
    "kept": (bool, "yes or no"),
}


def compute(piece: Piece) -> list[Row]:
    return [
        {"image": name, "number": piece["x"] if index else None, "share": piece["x"] / 7, "kept": bool(index)}
        for index, name in enumerate(piece["images"])
    ]


def plan(pieces: int = 6, rows: Callable[[Piece], list[Row]] = compute, **parameters: Any) -> Plan:
    names = [f'a "{x}", b\u00e9' for x in range(3)]
    listed = [{"x": x, "images": names[: x % 3 + 1], "first": x, **parameters} for x in range(pieces)]
    study = Study(COLUMNS, {}, lambda *_: (None, {}), lambda *_: [], lambda piece, _: rows(piece))
    return Plan(study, parameters, {"weights": "abc"}, listed, None)


def run(folder: Path, what: Plan, limit: int | None = None) -> None:
    complete(Store("study", "fast", what, folder, {"commit": "c0ffee"}), what, limit)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    run(tmp_path, plan())
    return tmp_path / "study-fast.csv"


def lines(table: Path) -> list[str]:
    return table.read_text().splitlines()


def test_what_is_read_is_what_was_written(table: Path) -> None:
    rows = read("study", "fast", table.parent)
    expected = [row for piece in plan().pieces for row in compute(piece)]
    assert len(rows) == len(expected) == 12
    for row, other in zip(rows, expected, strict=True):
        assert row == other | {"share": pytest.approx(other["share"], rel=1e-6)}
        assert [type(value) for value in row.values()] == [type(value) for value in other.values()]
    with table.open(newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    assert list(last) == [*COLUMNS, "piece", "checksum"]
    assert [last[name] for name in COLUMNS] == ['a "2", b\u00e9', "5", "0.7142857", "True"]


def test_a_number_that_is_missing_is_nan_or_none(tmp_path: Path) -> None:
    nothing: Row = {"image": "", "number": None, "share": float("nan"), "kept": False}
    run(tmp_path, plan(1, rows=lambda _: [nothing]))
    assert str(read("study", "fast", tmp_path)) == str([nothing])


def test_the_record_says_how_the_rows_came_about(table: Path) -> None:
    record = provenance("study", "fast", table.parent)
    assert (record["complete"], record["rows"], record["pieces"]) == (True, 12, {"done": 6, "planned": 6})
    assert record["columns"]["share"] == {"type": "float", "meaning": "a number"}
    (session,) = record["sessions"]
    assert session["commit"] == "c0ffee"
    assert set(session["seconds"]) == {line.split(",")[-2] for line in lines(table)[1:]}
    json.loads(table.with_suffix(".json").read_text(), parse_constant=lambda name: pytest.fail(name))


def backwards(folder: Path) -> None:
    store = Store("study", "fast", plan(), folder, {})
    for piece in reversed(plan().pieces):
        store.add(piece, compute(piece), 0.1)


def by_and_by(folder: Path) -> None:
    run(folder, plan(3), limit=2)
    assert [row["number"] for row in read("study", "fast", folder)] == [None, None, 1]
    run(folder, plan(3))
    run(folder, plan(6))


def after_a_failure(folder: Path) -> None:
    computed = []

    def fail_once(piece: Piece) -> list[Row]:
        computed.append(piece["x"])
        if computed == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return compute(piece)

    with pytest.raises(KeyboardInterrupt):
        run(folder, plan(rows=fail_once))
    assert len(read("study", "fast", folder)) == 6
    run(folder, plan(rows=fail_once))
    assert computed == [0, 1, 2, 3, 3, 4, 5]
    assert [len(session["seconds"]) for session in provenance("study", "fast", folder)["sessions"]] == [3, 3]


@pytest.mark.parametrize("way", [backwards, by_and_by, after_a_failure])
def test_however_a_table_came_about_it_is_the_same(way: Callable[[Path], None], table: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "other").mkdir()
    way(folder)
    assert (folder / table.name).read_bytes() == table.read_bytes()


def test_a_complete_table_is_left_alone(table: Path) -> None:
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(table.parent.iterdir())]
    assert len(before) == 2
    run(table.parent, plan())
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(table.parent.iterdir())] == before


def test_rows_of_other_parameters_never_mix(table: Path) -> None:
    before = table.read_bytes()
    with pytest.raises(ValueError, match=r"study-fast\.csv: holds 12 rows .* \(changed: seed\).* delete it"):
        run(table.parent, plan(seed=1))
    with pytest.raises(ValueError, match="holds 3 rows"):
        run(table.parent, plan(5))
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda text: text.replace("0.4285714", "0.4285713", 1), "line 8 damaged"),
        (lambda text: text.replace(",2,", ",3,", 1), "lines 5, 6, 7 damaged"),
        (lambda text: text.replace("image,", "images,", 1), "line 1 damaged"),
        (lambda text: text.replace("True", "TRUE"), "lines 3, 4, 5, 6, 7, 9, 10, 11, ... damaged"),
        (lambda text: text[:-20], "lines 11, 12, 13 damaged"),
        (lambda text: "\n".join(text.split("\n")[:-6]), "5 rows at its end are missing"),
        (lambda text: "\n".join(text.split("\n")[:1]), "12 rows at its end are missing"),
        (lambda text: "", "line 1 damaged"),
        (lambda text: text + text.split("\n", 1)[1], "lines 2, 3, 4, 5, 6, 7, 8, 9, ... damaged"),
        (lambda text: text.replace("\n", "\n\n", 1), "line 2 damaged"),
    ],
)
def test_damage_is_named_and_repaired(table: Path, damage: Any, named: str) -> None:
    sound = table.read_text()
    table.write_text(damage(sound))
    with pytest.raises(ValueError, match=rf"study-fast\.csv: {named}; `fragility run study --profile fast` repairs it"):
        read("study", "fast", table.parent)
    with pytest.warns(UserWarning, match=rf"study-fast\.csv: {named}; \d+ sound rows are kept"):
        run(table.parent, plan())
    assert table.read_text() == sound


def test_only_a_damaged_piece_is_computed_again(table: Path) -> None:
    table.write_text(table.read_text().replace("0.4285714", "0.4285713", 1))
    with pytest.warns(UserWarning, match="11 sound rows are kept"):
        damaged = Store("study", "fast", plan(), table.parent, {})
    assert [piece["x"] for piece in damaged.missing()] == [3]


def test_windows_line_ends_are_no_damage(table: Path) -> None:
    rows = read("study", "fast", table.parent)
    table.write_bytes(table.read_bytes().replace(b"\n", b"\r\n"))
    assert str(read("study", "fast", table.parent)) == str(rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(data=st.data())
def test_no_flipped_byte_is_ever_read(table: Path, data: st.DataObject) -> None:
    sound = bytearray(table.read_bytes())
    expected = str(read("study", "fast", table.parent))
    position = data.draw(st.integers(0, len(sound) - 2))
    changed = sound.copy()
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        table.write_bytes(changed)
        with pytest.raises(ValueError, match="damaged"):
            read("study", "fast", table.parent)
    finally:
        table.write_bytes(sound)
    assert str(read("study", "fast", table.parent)) == expected


@pytest.mark.parametrize("attempt", [lambda folder: read("study", "fast", folder), lambda folder: run(folder, plan())])
def test_a_table_without_its_record_is_refused(table: Path, attempt: Callable[[Path], object]) -> None:
    record = table.with_suffix(".json")
    record.write_text(record.read_text()[:-40])
    with pytest.raises(ValueError, match=r"study-fast\.json: damaged"):
        attempt(table.parent)
    record.unlink()
    with pytest.raises(FileNotFoundError, match=r"study-fast\.json: missing"):
        attempt(table.parent)


def test_two_pieces_alike_are_refused(tmp_path: Path) -> None:
    twice = plan()
    with pytest.raises(ValueError, match="expected 12 different pieces, got 6"):
        run(tmp_path, replace(twice, pieces=[*twice.pieces, *twice.pieces]))


KILLER = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from test_store import plan, run, read
folder, table = Path(sys.argv[2]), Path(sys.argv[2]) / "study-fast.csv"
chance, done = torch.Generator().manual_seed(1), 0
for _ in range(8):
    before = table.stat().st_mtime_ns if table.exists() else None
    child = os.fork()
    if child == 0:
        run(folder, plan(300))
        os._exit(0)
    while not table.exists() or table.stat().st_mtime_ns == before:
        time.sleep(0.001)
    time.sleep(0.02 * torch.rand(1, generator=chance).item())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rows = read("study", "fast", folder)
    assert done <= len(rows) < 600
    assert len({(row["image"], row["share"]) for row in rows}) == len(rows)
    done = len(rows)
print(done)
"""


def test_killed_while_it_writes_again_and_again(tmp_path: Path) -> None:
    # Pieces take no time here, so that nearly every kill hits the writing.
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    command = [sys.executable, "-c", KILLER, str(Path(__file__).parent), str(killed)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < int(shown.stdout) < 600
    for folder in (whole, killed):
        run(folder, plan(300))
    assert (killed / "study-fast.csv").read_bytes() == (whole / "study-fast.csv").read_bytes()
    assert sorted(path.name for path in killed.iterdir()) == ["study-fast.csv", "study-fast.json"]


def test_a_table_is_read_with_its_types_in_the_order_of_the_plan(table: Path) -> None:
    rows, frame = read("study", "fast", table.parent), stored("study-fast", table.parent)
    assert frame.to_dict("list").keys() == COLUMNS.keys()
    assert frame.image.tolist() == [row["image"] for row in rows]
    assert frame.share.tolist() == [row["share"] for row in rows]
    assert frame.number.isna().tolist() == [row["number"] is None for row in rows]
    assert (frame.kept.dtype, frame.share.dtype) == (bool, float)


def test_results_lie_in_the_checkout_or_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_folder() == Path(__file__).parents[1] / "results"
    monkeypatch.setattr(fragility, "__file__", str(tmp_path / "lib" / "site-packages" / "fragility" / "__init__.py"))
    assert results_folder() == tmp_path / "lib" / "site-packages" / "fragility" / "results"
    monkeypatch.setenv("FRAGILITY_RESULTS", str(tmp_path))
    assert results_folder() == tmp_path
