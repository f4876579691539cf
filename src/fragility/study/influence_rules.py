"""The rules of the claims about influence."""

from collections.abc import Iterable

import torch

from fragility.interval import mean_interval
from fragility.study.evidence import KEPT, Equality, Finding, Results, at_least, at_most, column, paired, positive
from fragility.study.piece import Row

L2 = 1e-2  # damping at which influence is judged
LARGE = 8.0  # epsilon, of 255
ROUNDED = 0.5  # change of a training image, of 255, that an 8-bit file does not see
FLIPPED = (0.57, 0.15)  # published share of test images flipped, and how near ours has to come


def influence_attack(results: Results) -> Finding:
    """I1: noise keeps a rank correlation of .95, the attack loses .2 and 2 of the top 5 more, and beats confidence.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    rows, where = results.rows("influence_attack")
    table = _influence(rows)
    names = ("random", "eq2", "confidence")
    ranks, overlap = (
        paired([table.get(name, {}) for name in names], column) for column in ("spearman", "top5_overlap")
    )
    measures = [
        at_least("rank correlation after random signs", ranks[0], 0.95),
        at_least("that less the one after the attack", ranks[0] - ranks[1], 0.2),
        at_least("of the top 5, lost by the attack more than by random signs", 5 * (overlap[0] - overlap[1]), 2),
        positive("rank correlation after raising confidence only, less after the attack", ranks[2] - ranks[1]),
    ]
    return Finding(measures if rows else (), doubts=_few_kept(table.get("eq2", {}).values()), where=where)


def influence_reversed(results: Results) -> Finding:
    """I2: some images with a kept label end at a rank correlation of at most .1, some at most -.5, in either precision.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    rows, where = results.rows("influence_attack")
    kept = {name: row for name, row in _influence(rows).get("eq2", {}).items() if row["labels_kept"]}
    double, single = (paired([kept], column)[0] for column in ("spearman", "spearman_float32"))
    measures = [
        positive("share of images with rank correlation <= .1", (double <= 0.1).double()),
        positive("share of images with rank correlation <= -.5", (double <= -0.5).double()),
        at_most("difference between single and double precision", (double - single).abs(), 0.05),
    ]
    return Finding(measures if rows else (), where=where)


def leave_one_out(results: Results) -> Finding:
    """I3: influence and leave-one-out retraining correlate by .86 and have a slope from .9 to 1.1.

    Args:
        results: stored.

    Returns:
        What they say, with the leverage correction apart.
    """
    rows, where = results.rows("leave_one_out")
    r, slope, r_corrected, slope_corrected = (
        column(rows, name) for name in ("r", "slope", "r_corrected", "slope_corrected")
    )
    doubts, notes = [], []
    for name, values in (("first order", slope), ("with the leverage correction", slope_corrected)):
        low, high = at_least("", values, 0.9), at_most("", values, 1.1)
        text = f"slope {name}: {low.value:.2f} [{low.low:.2f}, {low.high:.2f}]"
        notes.append(text)
        if not (low.holds and high.holds) and values is slope:
            doubts.append(f"{text}, not within .9 and 1.1")
    measures = [
        at_least("correlation, first order", r, 0.86),
        at_least("correlation, with the leverage correction", r_corrected, 0.86),
    ]
    return Finding(measures if rows else (), doubts=doubts, notes=notes[1:] if rows else (), where=where)


def wrong_labels(results: Results) -> Finding:
    """I4: the area under the curve of flips found is larger by self-influence than by loss and by chance.

    Args:
        results: stored.

    Returns:
        The difference, one per draw of flipped labels.
    """
    rows, where = results.rows("mislabel")
    table: dict[str, dict[object, Row]] = {}
    for row in rows:
        if row["l2"] == L2:
            table.setdefault(str(row["order"]), {})[row["image"]] = row
    names = ("self_influence", "loss", "random", "leverage")
    influence, loss, random, leverage = paired([table.get(name, {}) for name in names], "auc")
    gain = influence - torch.maximum(loss, random)
    measures = [positive("area under the curve: self-influence less the better of loss and chance", gain)]
    areas = zip(names, (influence, loss, random, leverage), strict=True)
    notes = [f"areas: {', '.join(f'{name} {area.mean():.3f}' for name, area in areas)}"]
    return Finding(measures if rows else (), notes=notes if rows else (), where=where)


def flipped_predictions(results: Results) -> Finding:
    """I5: one training image changed within 8-bit rounding flips test images after training, 57 % of them +- 15.

    Args:
        results: stored.

    Returns:
        The share, and whether its 90 % interval lies within the margin of the published one.
    """
    rows, where = results.rows("poisoning")
    rows = [row for row in rows if row["l2"] == L2]
    flips = column([row for row in rows if row["epsilon"] == ROUNDED], "flipped")
    inside = total = 0
    if len(flips) > 1:
        _, low, high = (end.item() for end in mean_interval(flips, level=0.9))
        published, margin = FLIPPED
        inside, total = int(published - margin <= low and high <= published + margin), 1
    notes = []
    for epsilon in sorted({float(row["epsilon"] or 0) for row in rows}):
        there = [row for row in rows if row["epsilon"] == epsilon]
        lost = column(there, "confidence_before") - column(there, "confidence_after")
        count = sum(bool(row["flipped"]) for row in there)
        notes.append(
            f"within {epsilon:g}/255: {count} of {len(there)} flipped; the confidence falls by {lost.mean():.2g} on "
            f"average and by {lost.max():.2g} at most"
        )
    measures = [positive("share of test images flipped, 0.5/255", flips)]
    return Finding(measures if rows else (), Equality(inside, total) if rows else None, notes=notes, where=where)


def deeper_networks(results: Results) -> Finding:
    """I6: what influence lacks of the correlation that retraining noise allows grows with depth and with less decay.

    Args:
        results: stored.

    Returns:
        Both trends, between the ends of the range and averaged over the other factor, one per draw.
    """
    rows, where = results.rows("depth")
    cells: dict[str, dict[tuple[int, float], Row]] = {}
    for row in rows:
        cells.setdefault(str(row["image"]), {})[int(row["depth"] or 0), float(row["decay"] or 0)] = row
    planned = {key for found in cells.values() for key in found}
    whole = [found for found in cells.values() if found.keys() == planned]
    if not whole:
        return Finding()
    depths, decays = (sorted(set(values)) for values in zip(*planned, strict=True))
    r, ceiling = (
        torch.tensor([[[float(found[d, c][name] or 0) for c in decays] for d in depths] for found in whole]).double()
        for name in ("r", "ceiling")
    )
    lacking = ceiling - r  # (draws, depths, decays)
    trends = {
        f"from {depths[0]} to {depths[-1]} hidden layers": lacking[:, -1].mean(1) - lacking[:, 0].mean(1),
        f"from decay {decays[-1]:g} to {decays[0]:g}": lacking[:, :, 0].mean(1) - lacking[:, :, -1].mean(1),
    }
    measures = [positive(f"correlation lost beyond noise, {name}", values) for name, values in trends.items()]
    converged = column(rows, "converged").mean()
    doubts = [f"few trainings converged ({converged:.0%})"] if converged < KEPT else []
    notes = [
        f"{d} hidden: "
        + "; ".join(
            f"decay {c:g}: r {r[:, i, j].mean():.2f} of at most {ceiling[:, i, j].mean():.2f}"
            for j, c in reversed(list(enumerate(decays)))
        )
        for i, d in enumerate(depths)
    ]
    return Finding(measures, doubts=doubts, notes=notes, where=where)


def _influence(rows: Iterable[Row]) -> dict[str, dict[object, Row]]:
    """Rows at the damping and epsilon where influence is judged, by condition and image."""
    table: dict[str, dict[object, Row]] = {}
    for row in rows:
        if (row["l2"], row["epsilon"]) == (L2, LARGE):
            table.setdefault(str(row["condition"]), {})[row["image"]] = row
    return table


def _few_kept(rows: Iterable[Row]) -> list[str]:
    kept = [bool(row["labels_kept"]) for row in rows]
    share = sum(kept) / len(kept) if kept else 1.0
    return [f"few labels kept ({share:.0%})"] if share < KEPT else []
