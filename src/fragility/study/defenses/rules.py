"""The rules of the claims D2 and D6, about defenses, and what of their tables decides."""

from collections.abc import Iterator, Mapping

import pandas as pd

from fragility.study.verdict import Finding, at_least, at_most, paired, positive

TABLES = {"defense_table": "MNIST", "fashion_table": "Fashion-MNIST"}
ATTACKED, SEEDS = 500, 5  # images of a seed, and seeds
COST = 0.02  # of accuracy, what counts as small, and within which two accuracies match
ENOUGH = 0.01  # by how much doubling an attack's budget may move a mean

Tables = Mapping[str, pd.DataFrame]


def robust_attributions(tables: Tables) -> Finding:
    """D2: IG-NORM and IG-SUM-NORM beat natural and adversarial training at a cost of at most 2 points, per data set."""
    measures, doubts = [], []
    for data, rows, doubt in _tested(tables):
        for name in ("ig_norm", "ig_sum_norm"):
            for other in ("natural", "adversarial"):
                for metric, shown in (("top_k_intersection", "top-k intersection"), ("kendall", "Kendall's tau")):
                    ours, theirs = paired(rows, metric, "defense", (name, other), unit="seed")
                    measures.append(positive(f"{data}, {shown}: {name} less {other}", ours - theirs))
            ours, theirs = paired(rows, "natural_accuracy", "defense", (name, "natural"), unit="seed")
            measures.append(at_most(f"{data}, accuracy lost by {name}", theirs - ours, COST))
        doubts += doubt
    return Finding(measures, doubts=doubts)


def discretised_or_smooth(tables: Tables) -> Finding:
    """D6: discretised inputs or a softplus raise the intersection by .05 under the adaptive attack at one accuracy."""
    measures, doubts = [], []
    for data, rows, doubt in _tested(tables):
        for name in ("discretized", "softplus"):
            ours, theirs = paired(rows, "top_k_intersection", "defense", (name, "natural"), unit="seed")
            measures.append(at_least(f"{data}, top-k intersection: {name} less natural", ours - theirs, 0.05))
            ours, theirs = paired(rows, "natural_accuracy", "defense", (name, "natural"), unit="seed")
            gap = abs(ours - theirs)
            measures.append(at_most(f"{data}, accuracies of {name} and natural, difference", gap, COST))
        doubts += doubt
    return Finding(measures, doubts=doubts)


def main(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every defense and seed the row with one budget and the most images."""
    most = rows[rows.budget == 1].sort_values("images", kind="stable", ascending=False)
    return most.drop_duplicates(["defense", "seed"]).sort_index()


def ladder(rows: pd.DataFrame) -> pd.DataFrame:
    """The attacks that show whether the budget is enough: the same few images with one budget and with more."""
    return rows.drop(main(rows).index).sort_values(["defense", "budget"], kind="stable")


def moved(rows: pd.DataFrame) -> float:
    """How far the last doubling of the budget moved a mean intersection or tau; NaN where nothing was doubled."""
    steps = ladder(rows).groupby("defense")[["top_k_intersection", "kendall"]].diff().abs()
    last = steps.dropna().groupby(rows.defense).last()
    return float(last.max().max())


def _tested(tables: Tables) -> Iterator[tuple[str, pd.DataFrame, list[str]]]:
    """Of the tables, if possible of those with enough seeds: the data, the rows that count, doubts about the budget."""
    counted = {}
    for study, data in TABLES.items():
        if study in tables:
            rows = tables[study]
            counted[data] = rows[(rows.budget == 1) & (rows.images >= ATTACKED)], moved(rows)
    enough = {data for data, (rows, _) in counted.items() if rows.groupby("defense").size().min() >= SEEDS}
    for data, (rows, change) in counted.items():
        if data in enough or not enough:
            yield data, rows, _budget(data, change)


def _budget(data: str, change: float) -> list[str]:
    """Whether the attack behind a table of defenses was shown to be strong enough: doubling it must change little."""
    if change < ENOUGH:
        return []
    if change != change:
        return [f"{data}: that the attack's budget is enough has not been shown: twice as much has not been tried"]
    return [f"{data}: the attack's budget is not shown to be enough: its last doubling moved a mean by {change:.3f}"]
