"""Why integrated gradients looked robust: the attack on them, one change at a time [Ghorbani2019].

The unchanged attack has less than the paper's of everything, few steps and few points of the path, and explains the
logit. What the paper's code did otherwise is tried alone. A change *explains* the published mean if it closes half of
the gap to it, as an interval over the images; it does *not* if its interval lies below half.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from fragility.interval import mean_interval
from fragility.study.attacks.paper_sweep import courses, rows
from fragility.study.attacks.setup import Subject
from fragility.study.attacks.sweep import SweepProfile, conditions, cost, declared_sweeps, prepare_sweeps
from fragility.study.piece import Piece, declared
from fragility.titles import METRICS

UNCHANGED = "unchanged"
RELEASE = "the release's iterate"
STEPS = (3, 6, 16)  # after which the unchanged attack is looked at
HALF = 0.5  # of the gap to the published mean


def pieces(profile: SweepProfile, subjects: Mapping[str, Subject]) -> Iterator[Piece]:
    """Name every condition."""
    own = ("schedule", "score")
    return (piece | {name: getattr(sweep, name) for name in own} for sweep, piece in conditions(profile, subjects))


def changes(stored: pd.DataFrame) -> pd.DataFrame:
    """List what each change leaves of every image: a line for image, attack and change, with the metrics."""
    columns = ["image", "attack", "change", *METRICS]
    plain = stored[stored.setup == UNCHANGED]
    release = plain.drop(columns=list(METRICS)).rename(columns={f"release_{name}": name for name in METRICS})
    course = courses(plain).query("steps in @STEPS")
    tables = [
        stored.assign(change=stored.setup),
        course.assign(change=[f"{steps} steps" for steps in course.steps]),
        release.assign(change=RELEASE),
    ]
    return pd.concat([table[columns] for table in tables], ignore_index=True)


def explained(changed: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Say of every change what it leaves, and how much of the gap to the published mean it closes.

    Args:
        changed: of `changes`.
        published: the published means of the attacks on integrated gradients, with `attack`, `metric` and `value`.

    Returns:
        A line for each attack, change and metric: `n` images, `mean`, `low` and `high`, and, but for the unchanged
        attack, `share` of the gap with `share_low` and `share_high`, and what `follows`: yes, no, or undecided.
    """
    theirs, found = published.set_index(["attack", "metric"]).value, []
    for (attack, change), part in changed.groupby(["attack", "change"], sort=False):
        plain = changed[(changed.attack == attack) & (changed.change == UNCHANGED)]
        pairs = part.merge(plain, on="image", suffixes=("", "_plain"), validate="one_to_one")
        for metric in METRICS:
            ours, before = pairs[metric], pairs[f"{metric}_plain"]
            line: dict[str, Any] = {"attack": attack, "change": change, "metric": metric, "n": len(pairs)}
            line |= zip(("mean", "low", "high"), mean_interval(ours), strict=True)
            if change != UNCHANGED:
                share = mean_interval((ours - before) / (theirs[attack, metric] - before.mean()))
                line |= zip(("share", "share_low", "share_high"), share, strict=True)
                decided = "no" if share.high < HALF else "undecided"
                line["follows"] = "yes" if share.low >= HALF else decided
            found.append(line)
    return pd.DataFrame(found)


STUDY = declared(__file__, prepare_sweeps, pieces, rows, profile=declared_sweeps, cost=cost)
