"""What holds for every study, and `fragility run`."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from fragility.cli import main
from fragility.study.catalogue import STUDIES
from fragility.study.piece import Piece, Plan, Row, Study, alike, declared, row_per_image
from fragility.study.run import run
from fragility.study.store import provenance, read
from fragility.study.verify import differences

FAST = [name for name, study in STUDIES.items() if "fast" in study.profiles]


def small(name: str) -> Any:
    """The profile `fast`, for the one study that takes a minute with a part of it."""
    profile = STUDIES[name].profiles["fast"]
    if name != "defense_table":
        return profile
    kept = {defense: profile["defenses"][defense] for defense in ("natural", "softplus_untrained")}
    fewer = {"training_images": 200, "images": 4, "doubled_images": 2, "seeds": [0], "iterations": 2}
    return profile | fewer | {"defenses": kept}


@cache
def plan(name: str) -> Plan:
    return STUDIES[name].plan(small(name))


@cache
def ends(name: str) -> list[list[Row]]:
    return [plan(name).compute(plan(name).pieces[number]) for number in (0, -1)]


@pytest.mark.parametrize("name", FAST)
def test_rows_have_the_columns_and_their_types(name: str) -> None:
    columns = STUDIES[name].columns
    for row in chain.from_iterable(ends(name)):
        for column, (kind, _) in columns.items():
            assert row[column] is None or isinstance(row[column], kind | int if kind is float else kind), column


@pytest.mark.parametrize("name", FAST)
def test_rows_do_not_depend_on_what_was_computed_before(name: str) -> None:
    first, last = plan(name).pieces[0], plan(name).pieces[-1]
    again = [plan(name).compute(last), plan(name).compute(first)][::-1]
    assert str(again) == str(ends(name))  # as text, because NaN is not NaN


@pytest.mark.parametrize("name", [name for name in FAST if name != "defense_table"])
def test_what_is_stored_is_what_was_computed(name: str, tmp_path: Path) -> None:
    outcome = run(name, "fast", folder=tmp_path, limit_images=1)
    rows, first = read(name, "fast", tmp_path), ends(name)[0]
    assert 0 < outcome.computed <= len(plan(name).pieces)
    assert len(rows) == outcome.rows
    assert list(differences(rows[: len(first)], first, STUDIES[name].columns, STUDIES[name].tolerance)) == []


@pytest.mark.parametrize("name", STUDIES)
def test_tolerances_are_of_columns(name: str) -> None:
    columns, tolerance = STUDIES[name].columns, STUDIES[name].tolerance
    assert tolerance.within.keys() | tolerance.means.keys() <= columns.keys()
    assert not tolerance.within.keys() & tolerance.means.keys()


def test_a_declaration_adds_to_the_one_that_it_is_like(tmp_path: Path) -> None:
    first = """
        [columns]
        image = ["str", "which"]
        share = ["float", "of all"]
        [within]
        share = 0.1
        [profile]
        seed = 1
        draws = 2
        [profiles]
        paper = "laptop"
        [profiles.fast]
        draws = 3
        [profiles.laptop]
        images = 4
    """
    second = """
        like = "first"
        [columns]
        count = ["int", "how many"]
        [profiles.laptop]
        seed = 5
    """
    for name, text in (("first", first), ("second", second)):
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    study = declared(str(tmp_path / "first.py"), lambda *_: (None, {}), lambda *_: [], lambda *_: [], version=7)
    other = alike(study, str(tmp_path / "second.py"))
    assert study.columns == {"image": (str, "which"), "share": (float, "of all")}
    laptop = {"seed": 1, "draws": 2, "images": 4}
    assert study.profiles == {"paper": laptop, "fast": {"seed": 1, "draws": 3}, "laptop": laptop}
    assert other.columns == {**study.columns, "count": (int, "how many")}
    assert other.profiles == {"laptop": laptop | {"seed": 5}}
    assert (other.tolerance.within, other.version, other.rows) == ({"share": 0.1}, 7, study.rows)


def test_columns_become_rows() -> None:
    rows = row_per_image({"images": ["a", "b"]}, x=torch.tensor([1.5, 2.5]), names=["c", "d"], common=3)
    assert rows == [
        {"image": "a", "x": 1.5, "names": "c", "common": 3},
        {"image": "b", "x": 2.5, "names": "d", "common": 3},
    ]
    with pytest.raises(ValueError, match="argument"):
        row_per_image({"images": ["a", "b"]}, x=[1.0])


def test_memory_that_does_not_suffice_halves_the_batch() -> None:
    def small(piece: Piece, most: int) -> list[Row]:
        sizes.append(len(piece["images"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError
        return [{"image": name} for name in piece["images"]]

    sizes: list[int] = []
    study = Study({"image": (str, "")}, {}, lambda *_: (None, {}), lambda *_: [], small)
    names = list("abcdefg")
    assert [row["image"] for row in Plan(study, {}, {}, [], 2).compute({"images": names})] == names
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        Plan(study, {}, {}, [], 0).compute({"images": names})


def test_twice_is_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, table = (
        ["run", "attack_sweep", "--profile", "fast", "--results", str(tmp_path)],
        tmp_path / "attack_sweep-fast.csv",
    )
    assert main(command) == 0
    assert "156 rows; 28 pieces computed now, 0 still missing" in capsys.readouterr().out
    before = table.read_bytes(), table.stat().st_mtime_ns
    assert main(command) == 0
    assert "156 rows; 0 pieces computed now, 0 still missing" in capsys.readouterr().out
    assert (table.read_bytes(), table.stat().st_mtime_ns) == before


def test_a_limited_run_says_how_it_came_about(tmp_path: Path) -> None:
    run("attack_sweep", "fast", folder=tmp_path, limit_images=1)
    record = provenance("attack_sweep", "fast", tmp_path)
    assert (record["complete"], record["pieces"]) == (False, {"done": 14, "planned": 28})
    (session,) = record["sessions"]
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", session["commit"])
    assert {"torch", "torchvision", "fragility"} <= set(session["packages"])
    assert all(re.fullmatch("[0-9a-f]{64}", record["inputs"]["digits"][name]) for name in ("images_sha256", "weights"))


KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
from fragility.study.run import run
from fragility.study.store import read

def start(folder):
    child = os.fork()
    if child == 0:
        run("paper_sweep", "fast", folder=folder)
        os._exit(0)
    return child

whole, killed = map(Path, sys.argv[1:])
begun = time.monotonic()
assert os.waitpid(start(whole), 0)[1] == 0
seconds, chance, done = time.monotonic() - begun, torch.Generator().manual_seed(2), 0
for _ in range(10):
    child = start(killed)
    time.sleep(seconds / 8 * torch.rand(1, generator=chance).item())
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    rows = read("paper_sweep", "fast", killed) if (killed / "paper_sweep-fast.csv").exists() else []
    assert len(rows) >= done
    assert len({(row["image"], row["attack"], row["method"]) for row in rows}) == len(rows)
    done = len(rows)
print(done)
assert os.waitpid(start(killed), 0)[1] == 0
"""


@pytest.mark.slow
def test_a_sweep_killed_ten_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    command = [sys.executable, "-c", KILLER, str(whole), str(killed)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    # Before the last start some pieces were stored, but not all of them: the kills hit a run at work.
    assert 0 < int(shown.stdout) < len(read("paper_sweep", "fast", whole))
    assert (killed / "paper_sweep-fast.csv").read_bytes() == (whole / "paper_sweep-fast.csv").read_bytes()
    assert sorted(path.name for path in killed.iterdir()) == ["paper_sweep-fast.csv", "paper_sweep-fast.json"]


def test_two_processes_do_not_work_on_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(profile: object, device: str) -> tuple[Any, dict[str, Any]]:
        run("attack_sweep", "fast", folder=tmp_path)
        raise AssertionError

    monkeypatch.setitem(STUDIES, "attack_sweep", replace(STUDIES["attack_sweep"], prepare=nested))
    with pytest.raises(BlockingIOError, match=r"attack_sweep-fast\.csv: another process is computing it"):
        run("attack_sweep", "fast", folder=tmp_path)
