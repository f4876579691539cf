"""Whole processes: what an import costs, and the seconds and megabytes of each notebook, of the site and the tests."""

import resource
import shutil
import subprocess
import sys
import time

from benchmarks.harness import ROOT, Point, Row, fresh, missing

IMPORTS = {
    "import: attack, attribution, similarity": ("attack, attribution, similarity", "<= 0.3"),
    "import: the command line": ("cli", ""),
    "import: the studies": ("study", ""),
    "import: figures": ("plot", ""),
}


def measure(quick: bool, whole: bool = False) -> tuple[list[Row], list[Point]]:
    """Measure fresh interpreters; `whole` adds `make book` and `make test`."""
    rows = []
    repeats = 1 if quick else 3
    for name, (modules, target) in IMPORTS.items():
        runs = [fresh(f"from fragility import {modules}", "import torch") for _ in range(repeats)]
        best = min(runs, key=lambda run: run.cpu)
        note = f"beyond PyTorch, processor time; {best.above:.0f} MB more"
        rows.append(Row("process", name, best.cpu, "s", target, note))
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        name = f"notebook {path.stem}, fast"
        if quick:
            rows.append(missing("process", name, "s", "minutes; without --quick"))
            continue
        run = fresh(f"runpy.run_path({str(path.relative_to(ROOT))!r}, run_name='__main__')", _HEADLESS)
        note = f"run as a script; {run.cpu:.0f} s of processor time, {run.peak:.0f} MB at the peak"
        rows.append(Row("process", name, run.wall, "s", "<= 60", note))
    for command in ("make book", "make test"):
        rows.append(_whole(command) if whole else missing("process", command, "s", "minutes; with --whole"))
    return rows, []


_HEADLESS = """
import os, runpy
os.environ["MPLBACKEND"] = "Agg"
import torch
"""


def _whole(command: str) -> Row:
    make = shutil.which("make") or "make"
    start = time.perf_counter()
    done = subprocess.run([make, *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    seconds = time.perf_counter() - start
    if done.returncode:
        return missing("process", command, "s", f"ended with status {done.returncode}")
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    return Row("process", command, seconds, "s", "", f"after installation; largest process so far {megabytes:.0f} MB")
