"""What every group of measurements shares: interleaved timing, rows with verdicts."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One measurement, also of an earlier commit; NaN where it was not made; `target` is such as "<= 4.0"."""

    group: str
    name: str
    value: float
    unit: str
    target: str = ""
    note: str = ""
    before: float = math.nan

    @property
    def verdict(self) -> str:
        """Return "met", "missed", "not measured here", or "-" where nothing was asked for."""
        if math.isnan(self.value):
            return "not measured here"
        if not self.target:
            return "-"
        bound, limit = self.target.split()
        met = self.value <= float(limit) if bound == "<=" else self.value >= float(limit)
        return "met" if met else "missed"


def clock() -> float:
    """Read the clock: processor time with one thread, which other processes hardly disturb, else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, *, base: str | None = None
) -> dict[str, float]:
    """Time functions in turn, for a noisy spell to meet all of them, and return the least seconds of each."""
    # A first, warming round does not count. The base, a cheap one that the others are divided by, has more turns.
    order = [name for other in functions for name in ([other] if base in (None, other) else [str(base), other])]
    best = dict.fromkeys(functions, math.inf)
    for repeat in range(repeats + 1):
        for name in order:
            start = clock()
            functions[name]()
            if repeat:
                best[name] = min(best[name], clock() - start)
    return best
