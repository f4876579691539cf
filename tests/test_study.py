"""What holds for every study, and `fragility run` as a process that is killed."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fragility.cli import main
from fragility.study.catalogue import STUDIES
from fragility.study.piece import Plan, Row, generator, row_per_image
from fragility.study.run import run
from fragility.study.store import provenance, read
from fragility.study.verify import differences

FAST = [name for name, study in STUDIES.items() if "fast" in study.profiles]


def small(name: str) -> Any:
    """The profile `fast`, for the one study that takes a minute with a part of it."""
    profile = STUDIES[name].profiles["fast"]
    if name != "defense_table":
        return profile
    kept = {defense: profile.defenses[defense] for defense in ("natural", "softplus_untrained")}
    return replace(profile, training_images=200, images=4, doubled_images=2, seeds=(0,), iterations=2, defenses=kept)


@cache
def plan(name: str) -> Plan:
    return STUDIES[name].plan(small(name))


@cache
def ends(name: str) -> list[list[Row]]:
    return [plan(name).compute(plan(name).pieces[number]) for number in (0, -1)]


@pytest.mark.parametrize("name", FAST)
def test_rows_have_the_columns_and_their_types(name: str) -> None:
    columns = STUDIES[name].columns
    for rows in ends(name):
        for row in rows:
            assert columns.keys() <= row.keys()
            for column, (kind, meaning) in columns.items():
                assert row[column] is None or isinstance(row[column], kind | int if kind is float else kind), column
                assert meaning


@pytest.mark.parametrize("name", FAST)
def test_rows_do_not_depend_on_what_was_computed_before(name: str) -> None:
    first, last = plan(name).pieces[0], plan(name).pieces[-1]
    again = [plan(name).compute(last), plan(name).compute(first)][::-1]
    assert str(again) == str(ends(name))  # as text, because NaN is not NaN


@pytest.mark.parametrize("name", FAST)
def test_a_piece_is_plain_data_with_images(name: str) -> None:
    for piece in plan(name).pieces:
        assert json.loads(json.dumps(piece, allow_nan=False)).keys() == piece.keys()
        assert piece["version"] == STUDIES[name].version
        assert isinstance(piece["first"], int)
        assert all(isinstance(image, str) for image in piece["images"])
        assert STUDIES[name].cost(piece) > 0


@pytest.mark.parametrize("name", [name for name in FAST if name != "defense_table"])
def test_what_is_stored_is_what_was_computed(name: str, tmp_path: Path) -> None:
    outcome = run(name, "fast", folder=tmp_path, limit_images=1)
    assert 0 < outcome.computed <= len(plan(name).pieces)
    rows = read(name, "fast", tmp_path)
    assert len(rows) == outcome.rows
    first = ends(name)[0]
    assert list(differences(rows[: len(first)], first, STUDIES[name].columns, STUDIES[name].tolerance)) == []


@pytest.mark.parametrize("name", STUDIES)
def test_tolerances_are_of_columns(name: str) -> None:
    columns, tolerance = STUDIES[name].columns, STUDIES[name].tolerance
    assert tolerance.within.keys() | tolerance.means.keys() <= columns.keys()
    assert not tolerance.within.keys() & tolerance.means.keys()


def test_columns_become_rows() -> None:
    rows = row_per_image({"images": ["a", "b"]}, x=torch.tensor([1.5, 2.5]), names=["c", "d"], common=3)
    assert rows == [
        {"image": "a", "x": 1.5, "names": "c", "common": 3},
        {"image": "b", "x": 2.5, "names": "d", "common": 3},
    ]
    with pytest.raises(ValueError, match="argument"):
        row_per_image({"images": ["a", "b"]}, x=[1.0])


def test_draws_are_named() -> None:
    one, same, other = (torch.rand(3, generator=generator(0, name)) for name in ("a", "a", "b"))
    assert one.equal(same)
    assert not one.equal(other)


KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
from fragility.cli import main
table, before = Path(sys.argv[1]) / "attack_sweep-fast.csv", None
chance = torch.Generator().manual_seed(0)
for _ in range(5):
    child = os.fork()
    if child == 0:
        main(["run", "attack_sweep", "--profile", "fast", "--results", sys.argv[1]])
        os._exit(0)
    while not table.exists() or table.stat().st_mtime_ns == before:  # until it has added a piece
        time.sleep(0.01)
    time.sleep(torch.rand(1, generator=chance).item())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = table.stat().st_mtime_ns
    print(len(table.read_text().splitlines()) - 1)
"""


def test_twice_is_once_and_killed_is_undisturbed(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(*arguments: str) -> str:
        shown = [sys.executable, *arguments]
        return subprocess.run(shown, capture_output=True, text=True, check=True, env=one_thread).stdout

    run_it = ("-m", "fragility", "run", "attack_sweep", "--profile", "fast", "--results")
    assert "156 rows; 28 pieces computed now, 0 still missing" in command(*run_it, str(whole))
    table = whole / "attack_sweep-fast.csv"
    before = table.read_bytes(), table.stat().st_mtime_ns
    assert main(["run", "attack_sweep", "--profile", "fast", "--results", str(whole)]) == 0
    assert (table.read_bytes(), table.stat().st_mtime_ns) == before

    counts = [int(line) for line in command("-c", KILLER, str(killed)).splitlines() if line.isdigit()]
    assert len(counts) == 5
    assert counts == sorted(counts)
    assert 0 < counts[0] <= counts[-1] < 156
    assert "0 still missing" in command(*run_it, str(killed))
    assert (killed / table.name).read_bytes() == table.read_bytes()
    sessions = provenance("attack_sweep", "fast", killed)["sessions"]
    assert len({name for session in sessions for name in session["seconds"]}) == 28
    assert sum(len(session["seconds"]) for session in sessions) == 28


def test_a_limited_run_says_how_it_came_about(tmp_path: Path) -> None:
    run("attack_sweep", "fast", folder=tmp_path, limit_images=1)
    record = provenance("attack_sweep", "fast", tmp_path)
    assert record["complete"] is False
    assert (record["pieces"], record["columns"].keys()) == (
        {"done": 14, "planned": 28}, STUDIES["attack_sweep"].columns.keys()
    )  # fmt: skip
    (session,) = record["sessions"]
    assert {"started", "commit", "device", "threads", "packages", "seconds"} <= set(session)
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", session["commit"])
    assert {"torch", "torchvision", "fragility"} <= set(session["packages"])
    assert all(re.fullmatch("[0-9a-f]{64}", record["inputs"]["digits"][name]) for name in ("images_sha256", "weights"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "required: STUDY, --profile"),
        (["run", "attack_sweeps", "--profile", "fast"], "study: expected one of attack_sweep, "),
        (["run", "attack_sweep", "--profile", "slow"], "profile: expected one of fast, laptop, paper, got 'slow'"),
        (["run", "attack_sweep", "--profile", "fast", "--device", "tpu9"], "device: expected one that PyTorch can use"),
        (["run", "attack_sweep", "--profile", "fast", "--limit-images", "0"], "limit_images: expected an integer >= 1"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main([*arguments, *(["--results", str(tmp_path)] if len(arguments) > 1 else [])])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    assert (status, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert message in shown.err
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_work_on_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(profile: object, device: str) -> tuple[Any, dict[str, Any]]:
        run("attack_sweep", "fast", folder=tmp_path)
        raise AssertionError

    monkeypatch.setitem(STUDIES, "attack_sweep", replace(STUDIES["attack_sweep"], prepare=nested))
    with pytest.raises(BlockingIOError, match=r"attack_sweep-fast\.csv: another process is computing it"):
        run("attack_sweep", "fast", folder=tmp_path)
