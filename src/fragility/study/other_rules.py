"""The rules of the claims about influence, dimension, orthogonality and defenses that rest on stored rows."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fragility.interval import mean_interval
from fragility.study import angles
from fragility.study.evidence import KEPT, Equality, Finding, Results, at_least, at_most, positive
from fragility.study.store import Row

L2 = 1e-2  # damping at which influence is judged
LARGE = 8.0  # epsilon, of 255
COST = 0.02  # of accuracy, what counts as small, and within which two accuracies match
ATTACKED = 500  # images of a seed
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
        _paired([table.get(name, {}) for name in names], column) for column in ("spearman", "top5_overlap")
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
    double, single = (_paired([kept], column)[0] for column in ("spearman", "spearman_float32"))
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
        _column(rows, name) for name in ("r", "slope", "r_corrected", "slope_corrected")
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
    influence, loss, random, leverage = _paired([table.get(name, {}) for name in names], "auc")
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
    flips = _column([row for row in rows if row["epsilon"] == ROUNDED], "flipped")
    inside = total = 0
    if len(flips) > 1:
        _, low, high = (end.item() for end in mean_interval(flips, level=0.9))
        published, margin = FLIPPED
        inside, total = int(published - margin <= low and high <= published + margin), 1
    notes = []
    for epsilon in sorted({float(row["epsilon"] or 0) for row in rows}):
        there = [row for row in rows if row["epsilon"] == epsilon]
        lost = _column(there, "confidence_before") - _column(there, "confidence_after")
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
    converged = _column(rows, "converged").mean()
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


def dimension(results: Results) -> Finding:
    """H2: the relative change of a neuron's raw gradient grows like the square root of d.

    Args:
        results: stored.

    Returns:
        Slopes of log change against log d, one per draw.
    """
    rows, where = results.rows("dimension")
    measures, notes = [], []
    for activation in sorted({str(row["activation"]) for row in rows if row["network"] == "neuron"} - {"identity"}):
        slopes = {arm: _slopes(rows, activation, arm) for arm in ("fixed_epsilon", "fixed_relative")}
        name = f"slope of log relative change against log d, {activation}"
        measures += [at_least(name, slopes["fixed_epsilon"], 0.4), at_most(name, slopes["fixed_epsilon"], 0.6)]
        if len(slopes["fixed_relative"]):
            mean = slopes["fixed_relative"].mean()
            notes.append(f"{activation}: with |delta| / |x| fixed instead of epsilon the slope is {mean:+.2f}")
    moved = [float(row["map_change"] or 0) for row in rows if row["network"] == "neuron"]
    if moved:
        notes.append(f"normalised maps change by at most {max(moved):.1g}")
    return Finding(measures, notes=notes, where=where)


def orthogonal(results: Results) -> Finding:
    """O1: the median angle is at least 80 degrees, and the pairs are less aligned than permuted ones.

    Args:
        results: stored.

    Returns:
        The share of angles of at least 80 degrees, and where the statistic lies in its null.
    """
    rows, where = results.rows("angles")
    return _orthogonal([row for row in rows if row["setup"] == "cifar10"], where)


def orthogonal_for_influence(results: Results) -> Finding:
    """O2: the same for the gradients of the loss and of the most helpful training image's influence.

    Args:
        results: stored.

    Returns:
        As for O1.
    """
    return _orthogonal(*results.rows("influence_angles"))


def two_layers(results: Results) -> Finding:
    """O3: in two layers the Hessian's top direction is one w_k, and not parallel to the gradient.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    rows, where = results.rows("dimension")
    measures, notes = [], []
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["network"] == "two_layer":
            groups.setdefault((str(row["activation"]), int(row["width"] or 0)), []).append(row)
    for (activation, width), members in groups.items():
        misfit, angle = (
            torch.tensor([float(row[name] or 0) for row in members], dtype=torch.float64)
            for name in ("misfit", "angle")
        )
        name = f"{activation}, h = {width}"
        measures += [
            at_most(f"{name}: degrees between the top direction and w_k", misfit, 1e-3),
            at_least(f"{name}: degrees between it and the gradient", angle, 1.0),
        ]
        low, middle, high = angle.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
        notes.append(f"{name}: median {middle:.0f} degrees, from {low:.0f} to {high:.0f} for nine in ten draws")
    return Finding(measures, notes=notes, where=where)


def _budget(rows: Sequence[Row]) -> list[str]:
    """Whether the attack behind the table of defenses was shown to be strong enough."""
    if not rows or any(row["budget"] == 2 for row in rows):
        return []
    return ["that the attack's budget is enough has not been shown: twice as much has not been tried"]


def robust_attributions(results: Results) -> Finding:
    """D2: IG-NORM and IG-SUM-NORM beat natural and adversarial training at a cost of at most 2 points.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    rows, where = results.rows("defense_table")
    table = _defenses(rows)
    measures = []
    for name in ("ig_norm", "ig_sum_norm"):
        for other in ("natural", "adversarial"):
            for metric, shown in (("top_k_intersection", "top-k intersection"), ("kendall", "Kendall's tau")):
                ours, theirs = _paired([table.get(name, {}), table.get(other, {})], metric)
                measures.append(positive(f"{shown}: {name} less {other}", ours - theirs))
        ours, theirs = _paired([table.get(name, {}), table.get("natural", {})], "natural_accuracy")
        measures.append(at_most(f"accuracy lost by {name}", theirs - ours, COST))
    return Finding(measures if rows else (), notes=_budget(rows), where=where)


def discretised_or_smooth(results: Results) -> Finding:
    """D6: discretised inputs or a softplus raise the intersection by .05 under the adaptive attack, accuracy matched.

    Args:
        results: stored.

    Returns:
        What they say.
    """
    rows, where = results.rows("defense_table")
    table = _defenses(rows)
    measures = []
    for name in ("discretized", "softplus"):
        pair = [table.get(name, {}), table.get("natural", {})]
        ours, theirs = _paired(pair, "top_k_intersection")
        measures.append(at_least(f"top-k intersection: {name} less natural", ours - theirs, 0.05))
        ours, theirs = _paired(pair, "natural_accuracy")
        measures.append(at_most(f"accuracies of {name} and natural, difference", (ours - theirs).abs(), COST))
    return Finding(measures if rows else (), notes=_budget(rows), where=where)


def _orthogonal(rows: Sequence[Row], where: str) -> Finding:
    if not rows:
        return Finding()
    values = _column(rows, "angle")
    null = angles.stored_null(rows)
    # The median is at least 80 degrees exactly if at least half of the angles are.
    measures = [at_least("share of angles of at least 80 degrees", (values >= 80).double(), 0.5)]
    text = (
        f"median {values.median():.1f} degrees; mean squared cosine {null.statistic:.2e}, of permuted pairs "
        f"{null.mean:.2e} [{null.low:.2e}, {null.high:.2e}]"
    )
    doubts = [] if null.statistic < null.low else ["the pairs are not less aligned than permuted ones"]
    return Finding(measures, doubts=doubts, notes=[text], where=where)


def _influence(rows: Iterable[Row]) -> dict[str, dict[object, Row]]:
    """Rows at the damping and epsilon where influence is judged, by condition and image."""
    table: dict[str, dict[object, Row]] = {}
    for row in rows:
        if (row["l2"], row["epsilon"]) == (L2, LARGE):
            table.setdefault(str(row["condition"]), {})[row["image"]] = row
    return table


def _defenses(rows: Iterable[Row]) -> dict[str, dict[object, Row]]:
    """Rows of one budget and enough images, by defense and seed."""
    table: dict[str, dict[object, Row]] = {}
    for row in rows:
        if row["budget"] == 1 and int(row["images"] or 0) >= ATTACKED:
            table.setdefault(str(row["defense"]), {})[row["seed"]] = row
    return table


def _paired(tables: Sequence[dict[object, Row]], column: str) -> Tensor:
    """A column of several conditions for the images, or seeds, that all of them have: (conditions, n)."""
    keys = [key for key in tables[0] if all(key in table for table in tables)]
    numbers = [[float(table[key][column] or 0) for key in keys] for table in tables]
    return torch.tensor(numbers, dtype=torch.float64).view(len(tables), -1)


def _column(rows: Iterable[Row], name: str) -> Tensor:
    return torch.tensor([float(row[name] or 0) for row in rows], dtype=torch.float64)


def _few_kept(rows: Iterable[Row]) -> list[str]:
    kept = [bool(row["labels_kept"]) for row in rows]
    share = sum(kept) / len(kept) if kept else 1.0
    return [f"few labels kept ({share:.0%})"] if share < KEPT else []


def _slopes(rows: Iterable[Row], activation: str, arm: str) -> Tensor:
    """Of log relative change against log d by least squares, one per draw that has all d."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        if (row["network"], row["activation"], row["arm"]) == ("neuron", activation, arm):
            points.setdefault(str(row["image"]), {})[int(row["dimension"] or 0)] = float(row["relative_change"] or 0)
    dimensions = sorted({d for found in points.values() for d in found})
    if len(dimensions) < 2:
        return torch.zeros(0, dtype=torch.float64)
    whole = [[found[d] for d in dimensions] for found in points.values() if len(found) == len(dimensions)]
    x = torch.tensor(dimensions, dtype=torch.float64).log()
    x = x - x.mean()
    return (torch.tensor(whole, dtype=torch.float64).log() * x).sum(1) / x.square().sum()
