"""What every group of measurements shares: interleaved timing, peak memory of a fresh process, rows with verdicts."""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
BOUNDS: dict[str, Callable[[float, float], bool]] = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}


@dataclass(frozen=True)
class Row:
    """One measurement; `value` is NaN where it was not made, and `note` says why; `target` is such as "<= 4.0"."""

    group: str
    name: str
    value: float
    unit: str
    target: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """Return "met", "missed", "not measured here", or "-" where nothing was asked for."""
        if math.isnan(self.value):
            return "not measured here"
        if not self.target:
            return "-"
        bound, limit = self.target.split()
        return "met" if BOUNDS[bound](self.value, float(limit)) else "missed"


@dataclass(frozen=True)
class Point:
    """One point of a curve: `figure` and `series` say which, `x_name` and `y_name` what the numbers are."""

    figure: str
    series: str
    x_name: str
    y_name: str
    x: float
    y: float


def missing(group: str, name: str, unit: str, note: str, target: str = "") -> Row:
    """Return a row that was not measured, with the reason."""
    return Row(group, name, math.nan, unit, target, note)


def clock() -> float:
    """Read the clock: processor time with one thread, which other processes hardly disturb, else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, *, warm: bool = True, base: str | None = None
) -> dict[str, float]:
    """Time functions in turn, so that a noisy spell meets all of them, and return the least seconds of each."""
    # A first, warming round does not count. The base, a cheap one that the others are divided by, has more turns.
    order = [name for other in functions for name in ([other] if base in (None, other) else [str(base), other])]
    best = dict.fromkeys(functions, math.inf)
    for repeat in range(repeats + warm):
        for name in order:
            start = clock()
            functions[name]()
            seconds = clock() - start
            if repeat >= warm:
                best[name] = min(best[name], seconds)
    return best


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent b of y = a x^b by least squares on the last three points, where constants matter least."""
    log_x, log_y = (torch.tensor(values[-3:], dtype=torch.float64).log() for values in (x, y))
    centred = log_x - log_x.mean()
    return float((centred * log_y).sum() / centred.square().sum())


_MEASURED = """
import resource, sys, time
def peak():
    try:
        with open("/proc/self/status") as file:  # ru_maxrss would start at the parent's
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
{setup}
before, wall, cpu = peak(), time.perf_counter(), time.process_time()
{code}
print("\\nmeasured", peak(), peak() - before, time.perf_counter() - wall, time.process_time() - cpu)
"""


@dataclass(frozen=True)
class Fresh:
    """What a fresh process took: peak megabytes, those above the setup's, wall seconds and processor seconds."""

    peak: float
    above: float
    wall: float
    cpu: float


def fresh(code: str, setup: str = "", **variables: str) -> Fresh:
    """Run `setup` and then `code` in a new interpreter, with environment variables set, and measure the second."""
    command = [sys.executable, "-c", _MEASURED.format(setup=setup, code=code)]
    environment = os.environ | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"code: expected a clean run, got status {done.returncode}\n{done.stderr[-2000:]}")
    *_, last = (line for line in done.stdout.splitlines() if line.startswith("measured "))
    return Fresh(*map(float, last.split()[1:]))
