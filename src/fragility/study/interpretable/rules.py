"""The rules of the claims R, about models that need no explanation and explanations of those that do."""

import numpy as np
import pandas as pd
import scipy.stats

from fragility.study.verdict import Finding, Measure, Tables, at_least, at_most, exact, present

PUBLISHED = (  # in the README of the authors' code
    "if age 23-25 and priors 2-3: yes; else if age 18-20: yes; else if sex Male and age 21-22: yes; "
    "else if priors >3: yes; else no"
)
PILOT = "the threshold was chosen after a pilot"
TABLES = ("iris", "wine", "breast cancer", "COMPAS")


def no_accuracy_gap(tables: Tables) -> Finding:
    """R1: on tables, interpretable models are as accurate as black boxes, within a point."""
    rows, measures, told = tables["accuracy"], [], []
    for data in (*TABLES, "digits"):
        gap, share, names = _gap(rows[rows.data == data])
        if len(gap) < 2:
            continue
        told.append(f"{100 * gap.mean():+.1f} on {data} ({' less '.join(names)})")
        if data in TABLES:
            measures += _within(data, gap, share, 0.01)
    notes = [f"in points of accuracy: {', '.join(told)}", f"the best of each family was chosen on all folds; {PILOT}"]
    facts = {"short": ", ".join(text.partition(" (")[0] for text in told[: len(TABLES)])}
    return Finding(measures, notes=notes, facts=facts)


def _gap(rows: pd.DataFrame) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Accuracy of the best interpretable model less that of the best other, fold by fold; test to training rows."""
    best = rows.groupby(["interpretable", "model"]).accuracy.mean()
    if best.empty:
        return np.zeros(0), 0.0, ()
    names = tuple(str(best[kind].idxmax()) for kind in (True, False))
    ours, theirs = (rows[rows.model == name].set_index("image").accuracy for name in names)
    return (ours - theirs).to_numpy(), float((rows.test_people / rows.train_people).mean()), names


def _within(data: str, gap: np.ndarray, share: float, margin: float) -> list[Measure]:
    """Two one-sided tests at 5 %."""
    worse, better = f"{data}: at most a point worse", f"{data}: at most a point better"
    return [_folds(worse, gap, share, -margin, 1, margin / 2), _folds(better, gap, share, margin, -1, margin / 2)]


def _folds(name: str, values: np.ndarray, share: float, limit: float, side: int, margin: float) -> Measure:
    """Hold a mean over folds against a limit, with the variance of overlapping training sets [Nadeau2003]."""
    n, mean = len(values), float(values.mean())
    size = float(np.sqrt((1 / n + share) * values.var(ddof=1)))
    far = float(scipy.stats.t.ppf(0.95, n - 1)) * size
    right, holds = side * (mean - limit) >= 0, side * (mean - limit) >= far
    beyond = side * (mean - limit) + margin  # missed by no more than what matters
    chance = float(scipy.stats.t.cdf(beyond / size, n - 1)) if size else float(beyond >= 0)
    shown = f"{'>=' if side > 0 else '<='} {limit:g}"
    return Measure(name, mean, mean - far, mean + far, n, shown, limit, side, right, holds, chance)


def disagreeing(tables: Tables) -> Finding:
    """R2: of the three features that LIME calls most important, integrated gradients share fewer than .7."""
    rows = tables["disagreement"]
    same, seeds = rows[rows.networks == "one"], present(rows[rows.networks != "one"])
    pair = present(same[(same.a == "integrated gradients") & (same.b == "LIME")])
    means = same.groupby(["a", "b"], sort=False).agreement.mean()
    notes = [", ".join(f"{a} and {b} {share:.2f}" for (a, b), share in means.items())]
    again = seeds.groupby("a", sort=False).agreement.mean()
    notes.append(
        "a method and itself on a network of another seed: " + ", ".join(f"{a} {v:.2f}" for a, v in again.items())
    )
    notes.append("three of thirty features drawn at random share .10")
    name = "share of the top three of LIME and of integrated gradients"
    facts = {"share": pair.agreement.mean(), "least": means.min(), "most": means.max()}
    return Finding([at_most(name, pair.agreement, 0.7, shown="< 0.7")], notes=notes, facts=facts)


def unstable(tables: Tables) -> Finding:
    """R4: other draws of people give other optimal lists, which say something else about more than 5 % of everyone."""
    rows = tables["rule_lists"].query("image != 'everyone'")
    measures, notes, facts = [], [PILOT], None
    for penalty, drawn in rows.groupby("penalty"):
        differs, lists = drawn.differs.dropna().to_numpy(), drawn.list.nunique()
        text = f"{lists} lists in {len(drawn)} draws; two of them disagree about {100 * differs.mean():.1f} % of people"
        notes.append(f"penalty {penalty:g}: {text}, at most {100 * differs.max():.0f} %")
        if penalty == rows.penalty.min():
            # A count is what it is: more draws can only add lists, so too few in these refute nothing.
            n, holds, count = len(drawn), lists >= 5, float(lists)
            several = Measure("distinct optimal lists", count, count, count, n, ">= 5", 5, 1, holds, holds, 1.0)
            measures = [several, at_least("share of people on whom two lists differ", differs, 0.05, margin=0.01)]
            facts = {"rules": drawn.rules.median(), "text": text}
    return Finding(measures, notes=notes, facts=facts)


def published_list(tables: Tables) -> Finding:
    """R5: the published list of CORELS is optimal, and comes out of an independent search."""
    row = present(tables["rule_lists"].query("image == 'everyone' and penalty == 0.01 and together == 2")).iloc[0]
    measures = [
        exact("lists other than the published", float(row.list != PUBLISHED), 0),
        exact("gap", float(row.gap), 0),
    ]
    facts = {"list": "the published" if measures[0].holds else "another", "prefixes": row.prefixes, "gap": row.gap}
    notes = [f"objective {row.objective:.5f}, accuracy {row.accuracy:.4f}: {row.list}"]
    return Finding(measures, notes=notes, facts=facts, exact=True)


def race_term(tables: Tables) -> Finding:
    """R6: bins for age and offences take half or more of the race term of a linear explanation away."""
    rows = tables["race"]
    draws = present(rows.query("image != 'everyone'"))
    whole = present(rows.query("image == 'everyone'")).iloc[0]
    value, drops = float(1 - whole.binned / whole.linear), (1 - draws.binned / draws.linear).to_numpy()
    low, high = map(float, np.quantile(drops, [0.025, 0.975]))
    chance = float(1 + (drops >= 0.5 - 0.02).sum()) / (1 + len(drops))
    name, n = "share of the coefficient that bins remove", int(whole.people)
    measure = Measure(name, value, low, high, n, ">= 0.5", 0.5, 1, value >= 0.5, low >= 0.5, chance)
    notes = ["no verdict on COMPAS: it reads more than 130 factors, of which the file has few"]
    notes.append("the pilot had looked at the same people, so this row confirms a computation and predicts nothing")
    return Finding([measure], notes=notes, facts=dict(whole))


def counterfactuals(tables: Tables) -> Finding:
    """R7: most people have two or more shortest counterfactuals, at most .8 of which survive another training."""
    rows = tables["counterfactuals"]
    measures, notes, facts = [], [], None
    for model, some in rows.groupby("model", sort=False):
        ways = some.ways.to_numpy()
        survival = some.survival.dropna()
        text = f"the median is {np.median(ways):g} shortest counterfactuals, of which {survival.mean():.2f} survive"
        notes.append(f"{model}: {text}; {(ways == 0).sum()} of {len(ways)} people have none")
        if model == "gradient boosting":
            measures = [
                at_least("share of people with two or more shortest counterfactuals", ways >= 2, 0.5),
                at_most("share of these that survive another training", survival, 0.8),
            ]
            facts = {"text": text}
    return Finding(measures, notes=notes, facts=facts)


def integer_scores(tables: Tables) -> Finding:
    """R8: a card of at most five features with whole points loses at most .01 of AUC to logistic regression."""
    rows = present(tables["card"].query("features == 5"), 2)
    loss, share = (rows.logistic_auc - rows.auc).to_numpy(), float((rows.test_people / rows.train_people).mean())
    card, facts = rows.card.mode()[0], dict(rows[["auc", "logistic_auc", "boosting_auc"]].mean())
    notes = [f"the most frequent card, {(rows.card == card).sum()} of {len(rows)} times: {card}"]
    return Finding([_folds("loss of AUC", loss, share, 0.01, -1, 0.005)], notes=notes, facts=facts)
