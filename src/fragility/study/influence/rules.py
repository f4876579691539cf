"""The rules of the claims I1 to I6, about influence functions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fragility.interval import mean_interval
from fragility.study.verdict import KEPT, Equality, Finding, at_least, at_most, paired, positive

L2 = 1e-2  # damping at which influence is judged
LARGE = 8.0  # epsilon, of 255
ROUNDED = 0.5  # change of a training image, of 255, that an 8-bit file does not see
FLIPPED = (0.57, 0.15)  # published share of test images flipped, and how near ours has to come

Tables = Mapping[str, pd.DataFrame]


def influence_attack(tables: Tables) -> Finding:
    """I1: noise keeps a rank correlation of .95, the attack loses .2 and 2 of the top 5 more, and beats confidence."""
    rows = tables["influence_attack"].query("l2 == @L2 and epsilon == @LARGE")
    names = ("random", "eq2", "confidence")
    ranks, overlap = (paired(rows, value, "condition", names) for value in ("spearman", "top5_overlap"))
    measures = [
        at_least("rank correlation after random signs", ranks[0], 0.95),
        at_least("that less the one after the attack", ranks[0] - ranks[1], 0.2),
        at_least("of the top 5, lost by the attack more than by random signs", 5 * (overlap[0] - overlap[1]), 2),
        positive("rank correlation after raising confidence only, less after the attack", ranks[2] - ranks[1]),
    ]
    kept = rows[rows.condition == "eq2"].labels_kept.mean()
    return Finding(measures, doubts=[f"few labels kept ({kept:.0%})"] if kept < KEPT else [])


def influence_reversed(tables: Tables) -> Finding:
    """I2: some images keep their label and end at a rank correlation of .1, some of -.5 or less, in both precisions."""
    rows = tables["influence_attack"].query("l2 == @L2 and epsilon == @LARGE and condition == 'eq2' and labels_kept")
    measures = [
        positive("share of images with rank correlation <= .1", rows.spearman <= 0.1),
        positive("share of images with rank correlation <= -.5", rows.spearman <= -0.5),
        at_most("difference between single and double precision", (rows.spearman - rows.spearman_float32).abs(), 0.05),
    ]
    return Finding(measures)


def leave_one_out(tables: Tables) -> Finding:
    """I3: influence and leave-one-out retraining correlate by .86 and have a slope from .9 to 1.1."""
    rows = tables["leave_one_out"]
    doubts, notes = [], []
    for name, column in (("first order", "slope"), ("with the leverage correction", "slope_corrected")):
        low, high = at_least("", rows[column], 0.9), at_most("", rows[column], 1.1)
        text = f"slope {name}: {low.value:.2f} [{low.low:.2f}, {low.high:.2f}]"
        notes.append(text)
        if not (low.holds and high.holds) and column == "slope":
            doubts.append(f"{text}, not within .9 and 1.1")
    measures = [
        at_least("correlation, first order", rows.r, 0.86),
        at_least("correlation, with the leverage correction", rows.r_corrected, 0.86),
    ]
    return Finding(measures, doubts=doubts, notes=notes[1:])


def wrong_labels(tables: Tables) -> Finding:
    """I4: the area under the curve of flips found is larger by self-influence than by loss and by chance."""
    rows = tables["mislabel"].query("l2 == @L2")
    names = ("self_influence", "loss", "random", "leverage")
    areas = paired(rows, "auc", "order", names)
    gain = areas[0] - np.maximum(areas[1], areas[2])
    measures = [positive("area under the curve: self-influence less the better of loss and chance", gain)]
    means = ", ".join(f"{name} {area.mean():.3f}" for name, area in zip(names, areas, strict=True) if len(area))
    return Finding(measures, notes=[f"areas: {means}"])


def flipped_predictions(tables: Tables) -> Finding:
    """I5: one training image changed within 8-bit rounding flips test images after training, 57 % of them +- 15."""
    rows = tables["poisoning"].query("l2 == @L2")
    flips = rows[rows.epsilon == ROUNDED].flipped
    inside = total = 0
    if len(flips) > 1:
        _, low, high = mean_interval(flips, level=0.9)
        published, margin = FLIPPED
        inside, total = int(published - margin <= low and high <= published + margin), 1
    notes = []
    for epsilon, part in rows.groupby("epsilon"):
        lost = part.confidence_before - part.confidence_after
        notes.append(
            f"within {epsilon:g}/255: {part.flipped.sum()} of {len(part)} flipped; the confidence falls by "
            f"{lost.mean():.2g} on average and by {lost.max():.2g} at most"
        )
    measures = [positive("share of test images flipped, 0.5/255", flips)]
    return Finding(measures, Equality(inside, total), notes=notes)


def deeper_networks(tables: Tables) -> Finding:
    """I6: what influence lacks of the correlation that retraining noise allows grows with depth and with less decay."""
    rows = tables["depth"]
    whole = rows[rows.groupby("image")["r"].transform("size") == len(rows[["depth", "decay"]].drop_duplicates())]
    if whole.empty:
        return Finding()
    lacking = (whole.ceiling - whole.r).groupby([whole.image, whole.depth, whole.decay], sort=False).mean()
    depths, decays = sorted(set(whole.depth)), sorted(set(whole.decay))

    def trend(factor: str, less: float, more: float) -> Any:
        table = lacking.groupby(["image", factor], sort=False).mean().unstack()
        return (table[more] - table[less]).reindex(whole.image.unique()).to_numpy()

    trends = {
        f"from {depths[0]} to {depths[-1]} hidden layers": trend("depth", depths[0], depths[-1]),
        f"from decay {decays[-1]:g} to {decays[0]:g}": trend("decay", decays[-1], decays[0]),
    }
    measures = [positive(f"correlation lost beyond noise, {name}", values) for name, values in trends.items()]
    converged = rows.converged.mean()
    doubts = [f"few trainings converged ({converged:.0%})"] if converged < KEPT else []
    means = whole.groupby(["depth", "decay"])[["r", "ceiling"]].mean()
    notes = [
        f"{d} hidden: "
        + "; ".join(
            f"decay {c:g}: r {means.r[d, c]:.2f} of at most {means.ceiling[d, c]:.2f}" for c in reversed(decays)
        )
        for d in depths
    ]
    return Finding(measures, doubts=doubts, notes=notes)
