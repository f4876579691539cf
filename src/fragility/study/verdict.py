"""From stored numbers to a verdict: means with intervals, held against thresholds and against published means.

An interval has to lie on the right side of a threshold as a whole. A claim of several conditions is refuted only if one
of them misses its threshold by more than a margin that matters, after Holm's correction for so many tests; that all
have to hold needs none. Agreement with a published mean is never "the intervals overlap", which a small sample always
achieves: the 90 % interval has to lie within a margin of the published number.

What the numbers can say also depends on the setting: an attack of fewer steps than the paper's, a training on fewer
images, or another network can show that something is possible, and not that two things are alike or that a method
fails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fragility.interval import chance_of, difference_interval, holm, mean_interval

AGREEING = 0.8  # share of the published means that have to be matched
KEPT = 0.8  # share of images with a kept label below which a verdict is at most "direction only"
MARGIN, PIXELS = 0.02, 1.0  # differences of shares and correlations, and of positions, that matter
LEVEL = 0.025  # of a one-sided test, as in an interval of 95 %
VERDICTS = ("reproduced", "direction only", "not reproduced", "refuted", "not yet tested")
# An identity is exact. What exists can be shown with any effort, and that something resists be refuted with any; that
# things match, or how a training ends, needs the effort of the paper and its network.
KINDS = ("identity", "exists", "resists", "match", "training")
ELSEWHERE = "another network"
EFFORT = ("P", "M", "steps", "training images", "epochs")  # what a setting may have less of
Setting = Mapping[str, Any]  # text, or a number, or several of them
Tables = Mapping[str, pd.DataFrame]  # the stored rows, by study


class Untested(Exception):
    """There are no rows that a rule could judge."""


def present(rows: Any, least: int = 1) -> Any:
    """Return rows, or a sample; `Untested` if there are fewer than `least`."""
    if len(rows) < least:
        raise Untested
    return rows


class Measure(NamedTuple):
    """A number with its 95 % interval, and on which side of its threshold it lies."""

    name: str
    value: float
    low: float
    high: float
    n: int
    threshold: str
    limit: float  # the threshold as a number
    side: int  # 1 if more is right, -1 if less
    right: bool  # the number itself is on the right side
    holds: bool  # so is the whole interval
    chance: float  # p-value of the threshold's being met, or missed by no more than the margin
    part: str = ""  # of a claim that is judged by sizes of the change: which one


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
        facts: what the claim's sentence, `plain` of the ledger, asks for beside {holding} of {count} measures; None
            where there is nothing to say.
        exact: whether the measures are identities computed now, which no number of images can improve.
        setting: what they were measured with.
        enough: whether more effort was shown to change nothing.
    """

    measures: Sequence[Measure] = ()
    equality: Equality | None = None
    doubts: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] | None = field(default_factory=dict)
    exact: bool = False
    setting: Setting = field(default_factory=dict)
    enough: bool = False

    def mark(self, measure: Measure) -> str:
        """Say what became of one condition; *undecided*: on the right side, with an interval that is not."""
        if measure.holds:
            return "holds"
        if measure in self.refuted():
            return "refuted"
        if measure.n < 2 and not self.exact:
            return ""
        return "undecided" if measure.right else "fails"

    def decisive(self) -> Measure:
        """The measure to show if there is room for one: the first that refutes, else that fails, else the first."""
        failing = [measure for measure in self.measures if not measure.holds]
        return (self.refuted() or failing or list(self.measures))[0]

    def refuted(self) -> list[Measure]:
        """The measures that miss their thresholds by more than a margin, and by more than chance among so many."""
        adjusted = holm([measure.chance for measure in self.measures]) if self.measures else ()
        return [measure for measure, p in zip(self.measures, adjusted, strict=True) if p <= LEVEL]


class Verdict(NamedTuple):
    """What a claim comes to."""

    text: str  # one of `VERDICTS`
    n: int  # the smallest sample that it rests on
    parts: Mapping[str, str]  # by the size of the change, where a claim is judged by it
    gap: str  # what the setting has least of, in comparison with the paper's: "P 40 of 300"; or `ELSEWHERE`

    def __str__(self) -> str:
        return f"{self.text} ({self.gap})" if self.gap and self.text in VERDICTS[1:4] else self.text


def verdict(finding: Finding, *, needed: int, kind: str, setting: Setting) -> Verdict:
    """Decide.

    Args:
        finding: what the data say.
        needed: the number of images (or seeds) below which nothing is decided.
        kind: of the claim, one of `KINDS`.
        setting: in which the claim was made.

    Returns:
        The verdict. Of a claim that is judged by sizes, those with enough images count: if they come out differently,
        the weakest verdict, *refuted* only if it is for each of them; if one is missing, *direction only* at most.
    """
    gap = "" if finding.enough else largest_gap(setting, finding.setting)
    if not gap and kind in ("match", "training") and differs(setting, finding.setting, "network"):
        gap = ELSEWHERE
    parts: dict[str, list[Measure]] = {}
    for measure in finding.measures:
        parts.setdefault(measure.part, []).append(measure)
    refuted = finding.refuted()
    found = {part: _verdict(finding, some, refuted, needed, kind, bool(gap)) for part, some in parts.items()}
    tested = {part: text for part, text in found.items() if text != VERDICTS[-1]}
    texts = set(tested.values()) | ({"direction only"} if tested and len(tested) < len(found) else set())
    if not tested:
        text = VERDICTS[-1]
    elif set(tested.values()) == {"refuted"}:
        text = "refuted"
    else:
        text = next((weak for weak in ("not reproduced", "refuted", "direction only") if weak in texts), "reproduced")
        text = "not reproduced" if text == "refuted" else text
    if tested and len(tested) < len(found):
        gap = ", ".join(filter(None, [f"only {' and '.join(tested)}", gap]))
    n = min((measure.n for part in tested or parts for measure in parts[part]), default=0)
    return Verdict(text, n, found if len(found) > 1 else {}, gap)


def _verdict(
    finding: Finding, measures: Sequence[Measure], refuted: Sequence[Measure], needed: int, kind: str, less: bool
) -> str:
    """Decide for one size; `less` is whether less effort was spent than in the paper."""
    if not finding.exact and min(measure.n for measure in measures) < needed:
        return "not yet tested"
    if any(measure in refuted for measure in measures):
        return "refuted" if not less or kind in ("identity", "resists") else "not reproduced"
    if not all(measure.holds for measure in measures):
        return "not reproduced"
    unequal = finding.equality is not None and not finding.equality.holds
    if finding.doubts or unequal or (less and kind in ("match", "resists")):
        return "direction only"
    return "reproduced"


def differs(theirs: Setting, ours: Setting, name: str) -> bool:
    """Whether a claim was made with another network, or on other data, than is named in our setting."""
    return name in theirs and (ours.get(name) or theirs[name]) != theirs[name]


def largest_gap(theirs: Setting, ours: Setting) -> str:
    """Name what we have least of in comparison: "P 40 of 300"; nothing where nothing is less."""
    known = [name for name in EFFORT if name in theirs and np.size(ours.get(name, ()))]
    pairs = {name: (np.min(ours[name]), np.min(theirs[name])) for name in known}
    shares = {name: own / asked for name, (own, asked) in pairs.items() if own < asked}
    if not shares:
        return ""
    name = min(shares, key=lambda name: shares[name])
    own, asked = pairs[name]
    return f"{name} {own:g} of {asked:g}"


def at_least(name: str, samples: Any, threshold: float, *, margin: float = MARGIN, part: str = "") -> Measure:
    """Hold a mean against a lower threshold."""
    return _measure(name, samples, threshold, margin, f">= {threshold:g}", part)


def at_most(
    name: str, samples: Any, threshold: float, *, margin: float = MARGIN, shown: str = "", part: str = ""
) -> Measure:
    """Hold a mean against an upper threshold, `shown` as "<= threshold" unless it is said otherwise."""
    values = -np.asarray(samples, dtype=float)
    found = _measure(name, values, -threshold, margin, shown or f"<= {threshold:g}", part)
    return found._replace(value=-found.value, low=-found.high, high=-found.low, limit=threshold, side=-1)


def positive(name: str, samples: Any) -> Measure:
    """Ask whether a mean is positive. A share of zero neither shows nor refutes that."""
    measure = _measure(name, samples, 0.0, MARGIN, "> 0", "")
    return measure._replace(holds=measure.holds and measure.low > 0)


def difference(name: str, a: Any, b: Any, *, margin: float = MARGIN, part: str = "") -> Measure:
    """Ask whether the mean of a sample is above that of another one, of other images."""
    n = min(len(a), len(b))
    if n < 2:
        return _unknown(name, float("nan"), n, 0.0, "> 0", part)
    mean, low, high = map(float, difference_interval(a, b))
    return Measure(name, mean, low, high, n, "> 0", 0.0, 1, mean > 0, low > 0, chance_of(a, -margin, b), part)


def exact(name: str, value: float, limit: float) -> Measure:
    """Hold the error of an identity against what rounding allows."""
    holds = value <= limit  # not so if it is NaN
    return Measure(name, value, value, value, 1, f"<= {limit:g}", limit, -1, holds, holds, float(holds))


def _measure(name: str, samples: Any, threshold: float, margin: float, shown: str, part: str) -> Measure:
    values = np.asarray(samples)
    if values.dtype != bool:
        values = values.astype(float)
        values = values[~np.isnan(values)]
    n = len(values)
    if n < 2:
        return _unknown(name, float(values.mean()) if n else float("nan"), n, threshold, shown, part)
    mean, low, high = map(float, mean_interval(values))
    chance = chance_of(values, threshold - margin)
    return Measure(name, mean, low, high, n, shown, threshold, 1, mean >= threshold, low >= threshold, chance, part)


def _unknown(name: str, mean: float, n: int, limit: float, shown: str, part: str) -> Measure:
    """A measure of fewer than two samples, which says nothing."""
    return Measure(name, mean, float("nan"), float("nan"), n, shown, limit, 1, False, False, 1.0, part)


def equivalent(samples: Any, published: float, margin: float) -> bool:
    """Whether the 90 % interval lies within a margin of a published mean: two one-sided tests at 5 %."""
    _, low, high = mean_interval(samples, level=0.9)
    return bool(published - margin <= low and high <= published + margin)


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
