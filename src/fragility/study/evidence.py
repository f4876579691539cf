"""What a claim's rule looks at: means with intervals, thresholds, and agreement with published means.

The rules are those of the ledger, fixed before the numbers were looked at: an interval has to lie on the right side of
a threshold as a whole; on the wrong side as a whole it refutes. Agreement with a published mean is never "the intervals
overlap", which a small sample always achieves: the 90 % interval has to lie within a margin of the published number.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fragility.interval import mean_interval
from fragility.study.piece import Row
from fragility.study.store import provenance, read, results_folder

MARGINS = {"top_k_intersection": 0.10, "spearman": 0.10}
SHIFT_MARGIN = (2.0, 0.20)  # pixels, or this share of the published shift, whichever is more
AGREEING = 0.8  # share of the published means that have to be matched
KEPT = 0.8  # share of images with a kept label below which a verdict is at most "direction only"
Key = tuple[str, str, str, float]  # setup, method, attack, epsilon
PROFILES = ("paper", "laptop")  # the larger first; digits are no evidence for a claim about photographs


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
        where: the results they were computed from.
    """

    measures: Sequence[Measure] = ()
    equality: Equality | None = None
    doubts: Sequence[str] = ()
    notes: Sequence[str] = ()
    exact: bool = False
    where: str = ""

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
        `"reproduced"`, `"direction only"`, `"not reproduced"`, `"refuted"` or `"not yet tested"`.
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


def at_least(name: str, samples: Tensor, threshold: float, shown: str = "") -> Measure:
    """Hold a mean against a lower threshold.

    Args:
        name: what is averaged.
        samples: (n,), one per image.
        threshold: the whole interval has to lie above.
        shown: how to write the threshold; empty for ">= threshold".

    Returns:
        The mean with its interval.
    """
    return _measure(name, samples, threshold, shown or f">= {threshold:g}", 1)


def positive(name: str, samples: Tensor) -> Measure:
    """Ask whether a mean is positive. A share of zero, whose interval is a point, neither shows nor refutes that.

    Args:
        name: what is averaged.
        samples: (n,), one per image.

    Returns:
        The mean with its interval.
    """
    measure = _measure(name, samples, 0.0, "> 0", 1)
    return measure._replace(holds=measure.holds and measure.low > 0)


def at_most(name: str, samples: Tensor, threshold: float, shown: str = "") -> Measure:
    """Hold a mean against an upper threshold.

    Args:
        name: what is averaged.
        samples: (n,), one per image.
        threshold: the whole interval has to lie below.
        shown: how to write the threshold; empty for "<= threshold".

    Returns:
        The mean with its interval.
    """
    return _measure(name, samples, threshold, shown or f"<= {threshold:g}", -1)


def exact(name: str, value: float, limit: float) -> Measure:
    """Hold an error against its limit.

    Args:
        name: the identity.
        value: by how much it fails.
        limit: by how much it may, for rounding.

    Returns:
        A measure without an interval.
    """
    holds = value <= limit  # not so if it is NaN
    return Measure(name, value, value, value, 1, f"<= {limit:g}", holds, holds, not holds)


def _measure(name: str, samples: Tensor, threshold: float, shown: str, side: int) -> Measure:
    values = samples[~samples.isnan()].double()
    if len(values) < 2:
        mean = values.mean().item() if len(values) else float("nan")
        return Measure(name, mean, float("nan"), float("nan"), len(values), shown, False, False, False)
    mean, low, high = (end.item() for end in mean_interval(values))
    near, far = (low, high) if side > 0 else (-high, -low)
    limit = side * threshold
    return Measure(name, mean, low, high, len(values), shown, side * mean >= limit, near >= limit, far < limit)


class Cells:
    """The rows of a sweep by condition, so that conditions can be compared image by image.

    Args:
        rows: from `fragility.study.store.read`.
        kept_only: leave out the images without a kept label, which else count as unchanged.
    """

    def __init__(self, rows: Iterable[Row], *, kept_only: bool = False) -> None:
        self._cells: dict[Key, dict[str, Row]] = {}
        for row in rows:
            if row["labels_kept"] or not kept_only:
                names = (str(row["setup"]), str(row["method"]), str(row["attack"]))
                self._cells.setdefault((*names, float(row["epsilon"] or 0)), {})[str(row["image"])] = row
        self.used: set[Key] = set()

    def paired(self, *columns: tuple[Key, str]) -> Tensor:
        """Take columns of conditions for the images that all of these have.

        Args:
            *columns: (setup, method, attack, epsilon) and the column's name, each.

        Returns:
            One row per column, float64; images for which a number is missing are left out.
        """
        cells = [self._cells.get(key, {}) for key, _ in columns]
        self.used |= {key for key, _ in columns}
        images = [image for image in cells[0] if all(image in cell for cell in cells)]
        pairs = list(zip(cells, columns, strict=True))
        table = [[_number(cell[image][name]) for image in images] for cell, (_, name) in pairs]
        values = torch.tensor(table, dtype=torch.float64).view(len(columns), -1)
        return values[:, ~values.isnan().any(0)]

    def one(self, setup: str, method: str, attack: str, epsilon: float, column: str) -> Tensor:
        """Take one column of one condition.

        Args:
            setup: of the study.
            method: the attribution.
            attack: its name.
            epsilon: of 255.
            column: its name.

        Returns:
            (n,), float64.
        """
        return self.paired(((setup, method, attack, epsilon), column))[0]

    def count(self, setup: str, method: str, attack: str, epsilon: float) -> int:
        """Return how many images a condition has.

        Args:
            setup: of the study.
            method: the attribution.
            attack: its name.
            epsilon: of 255.

        Returns:
            Their number.
        """
        return len(self._cells.get((setup, method, attack, epsilon), {}))

    def kept(self) -> float:
        """Return the smallest share of images with a kept label among the conditions that were used."""
        shares = [
            sum(bool(row["labels_kept"]) for row in cell.values()) / len(cell)
            for key in self.used
            if (cell := self._cells.get(key))
        ]
        return min(shares, default=float("nan"))


def paired(tables: Sequence[Mapping[object, Row]], name: str) -> Tensor:
    """Take a column of several conditions for the images, or seeds, that all of them have.

    Args:
        tables: of each condition, the rows by image or seed.
        name: the column's.

    Returns:
        (conditions, n), float64.
    """
    keys = [key for key in tables[0] if all(key in table for table in tables)]
    numbers = [[float(table[key][name] or 0) for key in keys] for table in tables]
    return torch.tensor(numbers, dtype=torch.float64).view(len(tables), -1)


def column(rows: Iterable[Row], name: str) -> Tensor:
    """Take a column.

    Args:
        rows: of a table.
        name: the column's.

    Returns:
        (n,), float64.
    """
    return torch.tensor([float(row[name] or 0) for row in rows], dtype=torch.float64)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Results:
    """The stored results, read when a rule asks for them.

    Attributes:
        folder: where they lie.
    """

    folder: Path = field(default_factory=results_folder)

    def rows(self, study: str) -> tuple[list[Row], str]:
        """Read a study's rows, of its largest profile that has any.

        Args:
            study: its name.

        Returns:
            The rows, none if there are no results, and where they come from.
        """
        for profile in PROFILES:
            if (self.folder / f"{study}-{profile}.csv").exists():
                rows = read(study, profile, self.folder)
                device = provenance(study, profile, self.folder)["sessions"][-1]["device"]
                return rows, f"`{study}-{profile}.csv`, {len(rows)} rows, {device}"
        return [], ""

    def published(self) -> Mapping[tuple[str, str, float, str], float]:
        """Read the published means.

        Returns:
            By method, attack, epsilon and metric.
        """
        with (self.folder / "published.csv").open(newline="", encoding="utf-8") as file:
            return {
                (row["method"], row["attack"], float(row["epsilon"]), row["metric"]): float(row["value"])
                for row in csv.DictReader(file)
            }


def equality(
    cells: Cells,
    published: Mapping[tuple[str, str, float, str], float],
    setup: str,
    what: Iterable[tuple[str, str, float, str]],
    needed: int,
) -> Equality:
    """Count the published means that ours agree with.

    Args:
        cells: our rows.
        published: their means.
        setup: the network and images that stand for theirs.
        what: method, attack, epsilon and metric of the means to compare.
        needed: images below which a mean of ours is not compared.

    Returns:
        How many agree, of how many.
    """
    inside = total = 0
    for key in what:
        method, attack, epsilon, metric = key
        samples = cells.one(setup, method, attack, epsilon, metric)
        if len(samples) < needed or key not in published:
            continue
        _, low, high = (end.item() for end in mean_interval(samples, level=0.9))
        margin = MARGINS.get(metric, max(SHIFT_MARGIN[0], SHIFT_MARGIN[1] * published[key]))
        total += 1
        inside += published[key] - margin <= low and high <= published[key] + margin
    return Equality(inside, total)
