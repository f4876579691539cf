"""The rules of the claims K4 and K5, what samples from a ball say of the worst case in it; written before the rows.

The worst case of an image is the most that was found by the attack or by the draws.
"""

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from fragility.study.attacks.evidence import IMAGENET
from fragility.study.verdict import Finding, Tables, at_least, paired, positive, present
from fragility.titles import TITLES

FACTOR = 2.0  # by which the worst case exceeds what 200 draws show
METHODS = 3  # fewer have hardly an order


def samples_understate(tables: Tables) -> Finding:
    """K4: the worst case is at least twice what the draws show, by a factor that grows with the directions."""
    rows = _rows(tables)
    rows = rows[rows.method == "simple_gradient"]
    free = rows[rows.block == 1]
    logs = paired(rows.assign(log=np.log(rows.factor)), "log", "directions", sorted(rows.directions.unique()))
    sizes = np.log(sorted(rows.directions.unique()))
    slopes = (sizes - sizes.mean()) @ logs / np.square(sizes - sizes.mean()).sum() if len(sizes) > 1 else ()
    measures = [
        at_least("worst case over the most of 200 draws", free.factor, FACTOR),
        positive("slope of the logarithm of that factor by the logarithm of the number of directions", slopes),
    ]
    notes = [
        f"{part.directions.iloc[0]} directions (squares of {block}, n = {len(part)}): median factor "
        f"{part.factor.median():.3g}, of the first 10 draws {(part.worst / part.sampled_10).median():.3g}"
        for block, part in rows.groupby("block")
    ]
    facts = {"factor": free.factor.median(), "ten": (free.worst / free.sampled_10).median()}
    return Finding(measures, notes=notes, facts=facts, setting=_setting(rows))


def methods_rank_differently(tables: Tables) -> Finding:
    """K5: the order of methods by what the draws show is not that by the worst case."""
    rows = _rows(tables)
    rows = rows[rows.block == 1]
    methods = [method for method in TITLES if method in set(rows.method)] + ["smooth_gradient"]
    present(methods, METHODS)
    sampled, worst = (paired(rows, name, "method", methods) for name in ("sampled_change", "worst"))
    taus = np.array([kendalltau(one, other).statistic for one, other in zip(sampled.T, worst.T, strict=True)])
    orders = {}
    for name, found in (("sampled", sampled), ("worst", worst)):
        order = np.argsort(np.median(found, axis=1)) if found.size else ()
        orders[name] = ", ".join(TITLES.get(methods[place], "smoothed gradient") for place in order)
    notes = [f"from the steadiest by the {name} medians: {order}" for name, order in orders.items()]
    measures = [positive("1 less Kendall's tau of the two orders of the methods, of an image", 1 - taus)]
    facts = {"apart": (taus < 1).sum(), "images": len(taus), "methods": len(methods)} if len(taus) else None
    return Finding(measures, notes=notes, facts=facts, setting=_setting(rows))


def _rows(tables: Tables) -> pd.DataFrame:
    """The rows of photographs, with the worst case and by which factor it exceeds the draws."""
    rows = tables["sampling"]
    rows = present(rows[rows.setup == IMAGENET])
    worst = rows[["attacked_change", "sampled_change"]].max(axis=1)
    return rows.assign(worst=worst, factor=(worst / rows.sampled_change).where(rows.sampled_change > 0))


def _setting(rows: pd.DataFrame) -> dict[str, object]:
    columns = {"N": rows.draws, "P": rows.iterations, "epsilon": rows.epsilon, "directions": rows.directions}
    return {"images": rows.image.nunique()} | {name: sorted(set(column)) for name, column in columns.items()}
