"""From stored numbers to a verdict: means with intervals, held against thresholds and against published means.

An interval has to lie on the right side of a threshold as a whole; on the wrong side as a whole it refutes. Agreement
with a published mean is never "the intervals overlap", which a small sample always achieves: the 90 % interval has to
lie within a margin of the published number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fragility.interval import difference_interval, mean_interval

AGREEING = 0.8  # share of the published means that have to be matched
KEPT = 0.8  # share of images with a kept label below which a verdict is at most "direction only"
VERDICTS = ("reproduced", "direction only", "not reproduced", "refuted", "not yet tested")


class Measure(NamedTuple):
    """A number with its 95 % interval, and on which side of its threshold it lies."""

    name: str
    value: float
    low: float
    high: float
    n: int
    threshold: str
    right: bool  # the number itself is on the right side
    holds: bool  # so is the whole interval
    refuted: bool  # the whole interval is on the wrong side


class Equality(NamedTuple):
    """How many published means ours agree with."""

    inside: int
    total: int  # of the published means for which there are enough images

    @property
    def holds(self) -> bool:
        """Whether enough of them agree; none to compare with is no agreement."""
        return self.total > 0 and self.inside >= AGREEING * self.total


@dataclass(frozen=True)
class Finding:
    """What the data say about a claim.

    Attributes:
        measures: what the claim stands or falls with; empty if there are no data.
        equality: None where nothing comparable was published.
        doubts: why the verdict can be at most "direction only".
        notes: what else was seen.
        exact: whether the measures are identities computed now, which no number of images can improve.
    """

    measures: Sequence[Measure] = ()
    equality: Equality | None = None
    doubts: Sequence[str] = ()
    notes: Sequence[str] = ()
    exact: bool = False

    @property
    def n(self) -> int:
        """The smallest sample among the measures."""
        return min((measure.n for measure in self.measures), default=0)


def verdict(finding: Finding, needed: int) -> str:
    """Decide.

    Args:
        finding: what the data say.
        needed: the number of images (or seeds) below which nothing is decided.

    Returns:
        One of `VERDICTS`.
    """
    if not finding.measures or (not finding.exact and finding.n < needed):
        return "not yet tested"
    if any(measure.refuted for measure in finding.measures):
        return "refuted"
    if not all(measure.holds for measure in finding.measures):
        return "not reproduced"
    if finding.doubts or (finding.equality is not None and not finding.equality.holds):
        return "direction only"
    return "reproduced"


def at_least(name: str, samples: Any, threshold: float, shown: str = "") -> Measure:
    """Hold a mean against a lower threshold, `shown` as ">= threshold" unless it is said otherwise."""
    return _measure(name, samples, threshold, shown or f">= {threshold:g}", 1)


def at_most(name: str, samples: Any, threshold: float, shown: str = "") -> Measure:
    """Hold a mean against an upper threshold, `shown` as "<= threshold" unless it is said otherwise."""
    return _measure(name, samples, threshold, shown or f"<= {threshold:g}", -1)


def positive(name: str, samples: Any) -> Measure:
    """Ask whether a mean is positive. A share of zero, whose interval is a point, neither shows nor refutes that."""
    measure = _measure(name, samples, 0.0, "> 0", 1)
    return measure._replace(holds=measure.holds and measure.low > 0)


def difference(name: str, a: Any, b: Any) -> Measure:
    """Ask whether the mean of a sample is above that of another one, of other images."""
    n = min(len(a), len(b))
    if n < 2:
        return Measure(name, float("nan"), float("nan"), float("nan"), n, "> 0", False, False, False)
    mean, low, high = map(float, difference_interval(a, b))
    return Measure(name, mean, low, high, n, "> 0", mean > 0, low > 0, high < 0)


def exact(name: str, value: float, limit: float) -> Measure:
    """Hold the error of an identity against what rounding allows."""
    holds = value <= limit  # not so if it is NaN
    return Measure(name, value, value, value, 1, f"<= {limit:g}", holds, holds, not holds)


def _measure(name: str, samples: Any, threshold: float, shown: str, side: int) -> Measure:
    values = np.asarray(samples, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        mean = float(values.mean()) if len(values) else float("nan")
        return Measure(name, mean, float("nan"), float("nan"), len(values), shown, False, False, False)
    mean, low, high = map(float, mean_interval(values))
    near, far = (low, high) if side > 0 else (-high, -low)
    limit = side * threshold
    return Measure(name, mean, low, high, len(values), shown, side * mean >= limit, near >= limit, far < limit)


def paired(rows: pd.DataFrame, value: str, by: str | list[str], conditions: Sequence[Any], unit: str = "image") -> Any:
    """Take a column under several conditions, for the images (or seeds) that have a number under all of them.

    Args:
        rows: of a table, one for each condition and unit.
        value: the column's name.
        by: the columns that make a condition.
        conditions: their values.
        unit: the column that says which rows belong together.

    Returns:
        (conditions, n), float64.

    Raises:
        ValueError: if a condition has two rows for one unit.
    """
    columns = pd.Index(conditions) if isinstance(by, str) else pd.MultiIndex.from_tuples(conditions)
    wide = rows.pivot(index=unit, columns=by, values=value).reindex(columns=columns).reindex(rows[unit].unique())
    return wide.dropna().to_numpy(dtype=float).T
