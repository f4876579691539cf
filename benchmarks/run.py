"""Measure, print every row with its target and verdict, store the rows under results/ and write the book's page.

`make bench`, or `python -m benchmarks.run --only floor`: groups that are not run keep their stored rows.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import floor, page, peers
from benchmarks.harness import ROOT, Row
from fragility.study.machine import describe, keep_memory

GROUPS = {"floor": floor.measure, "peers": peers.measure}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 for missed targets with --strict, else 0."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=list(GROUPS), help="groups to measure, or none")
    parser.add_argument("--against", metavar="COMMIT", help="measure this commit too, in the same run")
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer repeats")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a target is missed")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder to store in")
    parser.add_argument("--page", type=Path, default=ROOT / "book" / "speed.md", help="the page to write")
    options = parser.parse_args(arguments)
    torch.set_flush_denormal(True)  # denormal numbers make a softplus several times slower on a CPU
    keep_memory()  # as the studies do
    missed = 0
    for group in options.only:
        start = time.perf_counter()
        found = GROUPS[group](options.quick)
        if options.against:
            before = earlier(options.against, group, quick=options.quick)
            found = [replace(row, before=before.get(row.name, float("nan"))) for row in found]
        seconds = {group: round(time.perf_counter() - start, 1)}
        session = describe("cpu") | {"seconds": seconds, "quick": options.quick, "load": round(os.getloadavg()[0], 1)}
        session["before"] = options.against or ""
        print(f"{group}: {seconds[group]:.0f} s", flush=True)
        for row in found:
            print(f"  {row.name:66} {page.number(row.value):>9} {row.unit:9} {row.target:8} {row.verdict}", flush=True)
        store(options.results, group, found, session)
        missed += sum(row.verdict == "missed" for row in found)
    page.write(options.results, options.page)
    print(f"{missed} targets missed; stored in {options.results}, page {options.page}")
    return 1 if missed and options.strict else 0


def earlier(commit: str, group: str, *, quick: bool) -> dict[str, float]:
    """Measure a group at another commit, in a worktree of its own and by its own benchmarks; value by name."""
    tree = ROOT / "build" / "bench" / commit
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True)  # noqa: S603, S607
    command = [sys.executable, "-m", "benchmarks.run", "--only", group, "--results", "found", "--page", "found.md"]
    here = os.environ | {"PYTHONPATH": str(tree / "src")}
    subprocess.run([*command, *["--quick"] * quick], cwd=tree, env=here, check=True)  # noqa: S603
    rows = pd.read_csv(tree / "found" / "bench.csv")
    return dict(zip(rows.name, rows.value, strict=True))


def store(folder: Path, group: str, rows: list[Row], session: dict[str, Any]) -> None:
    """Replace a group's rows and session by new ones, and keep those of the other groups."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, sessions = page.read(folder)
    new = pd.DataFrame([asdict(row) | {"verdict": row.verdict} for row in rows])
    table = pd.concat([kept[kept.group.isin(GROUPS) & (kept.group != group)], new]) if len(kept) else new
    table = table.sort_values("group", key=lambda names: names.map(list(GROUPS).index), kind="stable")
    table.to_csv(folder / "bench.csv", index=False, float_format="%.5g", lineterminator="\n")
    sessions = [part for part in sessions if group not in part["seconds"] and set(part["seconds"]) <= set(GROUPS)]
    story = {
        "rows": len(table),
        "pieces": {"done": len(sessions) + 1, "planned": len(GROUPS)},
        "inputs": {},
        "sessions": sorted([*sessions, session], key=lambda part: list(GROUPS).index(*part["seconds"])),
    }
    (folder / "bench.json").write_text(json.dumps(story, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
