"""Measure, print every row with its target and verdict, store the rows under results/ and write the book's page.

`make bench`, or `python -m benchmarks.run --only floor peers`: groups that are not run keep their stored rows.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import floor, growth, page, peers, process, steps
from benchmarks.harness import ROOT, Point, Row
from fragility.study.machine import describe, keep_memory

GROUPS = {"floor": floor, "peers": peers, "steps": steps, "process": process, "growth": growth}
RESULTS = ROOT / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 for missed targets with --strict, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups to measure")
    parser.add_argument("--quick", action="store_true", help="smaller batches, one repeat, no notebooks")
    parser.add_argument("--whole", action="store_true", help="time `make book` and `make test` too")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a target is missed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to store in")
    parser.add_argument("--page", type=Path, default=ROOT / "book" / "speed.md", help="the page to write")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # denormal numbers make a softplus several times slower on a CPU
    keep_memory()  # as the studies do
    rows: list[Row] = []
    for group in options.only:
        start = time.perf_counter()
        extra = {"whole": options.whole} if group == "process" else {}
        found, points = GROUPS[group].measure(options.quick, **extra)
        session = describe("cpu") | {
            "seconds": {group: round(time.perf_counter() - start, 1)},
            "quick": options.quick,
            "load": round(os.getloadavg()[0], 1),
        }
        print(f"{group}: {session['seconds'][group]:.0f} s", flush=True)
        for row in found:
            print(f"  {row.name:66} {page.number(row.value):>9} {row.unit:9} {row.target:8} {row.verdict}", flush=True)
        store(options.results, group, found, points, session)
        rows += found
    page.write(options.results, options.page)
    missed = [row.name for row in rows if row.verdict == "missed"]
    print(f"{len(rows)} rows, {len(missed)} targets missed; stored in {options.results}, page {options.page}")
    return 1 if missed and options.strict else 0


def store(folder: Path, group: str, rows: list[Row], points: list[Point], session: dict[str, Any]) -> None:
    """Replace a group's rows, points and story by new ones, and keep those of the other groups."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, curves, story = page.read(folder)
    order = list(GROUPS)
    kept = sorted([row for row in kept if row.group != group] + rows, key=lambda row: order.index(row.group))
    mine = {point.figure for point in points}
    curves = [point for point in curves if point.figure not in mine] + points
    sessions = [part for part in story.get("sessions", []) if group not in part["seconds"]] + [session]
    _write(folder / "bench.csv", page.ROW_COLUMNS, [[*page.texts(row), row.verdict] for row in kept])
    _write(folder / "bench_curves.csv", page.POINT_COLUMNS, [page.texts(point) for point in curves])
    told = {
        "rows": len(kept),
        "pieces": {"done": len(sessions), "planned": len(GROUPS)},
        "inputs": {},
        "sessions": sorted(sessions, key=lambda part: order.index(*part["seconds"])),
    }
    (folder / "bench.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _write(path: Path, header: Sequence[str], lines: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


if __name__ == "__main__":
    sys.exit(main())
