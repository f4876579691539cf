"""The rules of the claims D2, D2b and D6, about defenses, and what of their tables decides."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from fragility.study.verdict import Finding, Measure, Tables, at_least, at_most, paired, positive
from fragility.titles import TITLES

TABLES = {"defense_table": "MNIST", "fashion_table": "Fashion-MNIST"}
ATTACKED, SEEDS = 500, 5  # images of a seed, and seeds
COST = 0.02  # of accuracy, what counts as small, and within which two accuracies match
COSTS = {  # of accuracy, as published [Chen2019]
    "MNIST": {"ig_norm": 0.0043, "ig_sum_norm": 0.0083},
    "Fashion-MNIST": {"ig_norm": 0.0573, "ig_sum_norm": 0.0542},
}
TRAININGS = {"ig_norm": "IG-NORM", "ig_sum_norm": "IG-SUM-NORM"}
ENOUGH = 0.01  # by how much doubling an attack's budget may move a mean


def robust_attributions(tables: Tables) -> Finding:
    """D2: IG-NORM and IG-SUM-NORM beat natural training; accuracy costs what was published and 2 points at most."""

    def judge(data: str, rows: pd.DataFrame) -> list[Measure]:
        measures = []
        for name, published in COSTS[data].items():
            measures += _more_similar(data, rows, name, "natural")
            ours, theirs = paired(rows, "natural_accuracy", "defense", (name, "natural"), unit="seed")
            measures.append(
                at_most(f"{data}, accuracy lost by {TRAININGS[name]}", theirs - ours, published + COST, margin=0)
            )
        return measures

    return _finding(tables, judge, {"natural": "plain training"} | TRAININGS)


def beyond_adversarial_training(tables: Tables) -> Finding:
    """D2b: IG-NORM and IG-SUM-NORM keep more intersection and Kendall's tau than adversarial training, per data set."""

    def judge(data: str, rows: pd.DataFrame) -> list[Measure]:
        return [measure for name in TRAININGS for measure in _more_similar(data, rows, name, "adversarial")]

    return _finding(tables, judge, {"adversarial": "adversarial training"} | TRAININGS)


def discretised_or_smooth(tables: Tables) -> Finding:
    """D6: discretised inputs or a softplus raise the intersection by .05 under the adaptive attack at one accuracy."""

    def judge(data: str, rows: pd.DataFrame) -> list[Measure]:
        measures = []
        for name, title in (("discretized", "discretised inputs"), ("softplus", "softplus")):
            ours, theirs = paired(rows, "top_k_intersection", "defense", (name, "natural"), unit="seed")
            measures.append(at_least(f"{data}, top-k intersection: {title} less plain training", ours - theirs, 0.05))
            ours, theirs = paired(rows, "natural_accuracy", "defense", (name, "natural"), unit="seed")
            gap = abs(ours - theirs)
            measures.append(at_most(f"{data}, accuracy: difference of {title} and plain training", gap, COST))
        return measures

    names = {"natural": "plain training", "discretized": "discretised inputs", "softplus": "softplus"}
    return _finding(tables, judge, names)


def _more_similar(data: str, rows: pd.DataFrame, name: str, other: str) -> list[Measure]:
    measures = []
    for metric in ("top_k_intersection", "kendall"):
        ours, theirs = paired(rows, metric, "defense", (name, other), unit="seed")
        less = {"natural": "plain", "adversarial": "adversarial"}[other]
        measures.append(positive(f"{data}, {TITLES[metric]}: {TRAININGS[name]} less {less} training", ours - theirs))
    return measures


def _finding(tables: Tables, judge: Callable[[str, pd.DataFrame], list[Measure]], shown: Mapping[str, str]) -> Finding:
    """Judge every data set; `shown` names the defenses that the sentence compares."""
    measures, doubts, notes, left, setting = [], [], [], [], {}
    for data, rows, doubt in _tested(tables):
        measures += judge(data, rows)
        doubts += doubt
        setting = _setting(rows)
        kept = rows.groupby("defense")[["top_k_intersection", "natural_accuracy"]].mean()
        each = [
            f"{name} {100 * kept.top_k_intersection[key]:.0f} (accuracy {kept.natural_accuracy[key]:.1%})"
            for key, name in shown.items()
            if key in kept.index
        ]
        left.append(f"{data}: {', '.join(each)}")
        columns = ["labels_kept", "top_k_intersection_kept", "kendall_kept"]
        if set(columns) <= set(rows):
            alone = rows.groupby("defense")[columns].mean().reindex(list(shown)).query("labels_kept < 1")
            each = [f"{shown[key]} {kept:.1%}, {share:.3f}, {tau:.3f}" for key, kept, share, tau in alone.itertuples()]
            metrics = f"{TITLES['top_k_intersection']} and {TITLES['kendall']}"
            notes += [f"{data}, labels kept, and {metrics} of those images alone: {'; '.join(each)}"] if each else []
    facts = {"left": "; on ".join(left)} if left else None
    return Finding(measures, doubts=doubts, notes=notes, facts=facts, setting=setting)


def _setting(rows: pd.DataFrame) -> dict[str, Any]:
    """With what the networks were trained and attacked, the same for every data set."""
    parameters = rows.attrs.get("parameters", {})
    titles = {"network": "network", "training images": "training_images", "epochs": "epochs"}
    known = {title: parameters[name] for title, name in titles.items() if name in parameters}
    return known | {"seeds": rows.seed.nunique(), "images": rows.images.max(), "P": sorted(set(rows.iterations))}


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
