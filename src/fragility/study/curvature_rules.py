"""The rules of the claims about dimension, curvature and orthogonality."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fragility.study.curvature import null
from fragility.study.evidence import Finding, Results, at_least, at_most, column
from fragility.study.piece import Row


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


def _orthogonal(rows: Sequence[Row], where: str) -> Finding:
    if not rows:
        return Finding()
    values = column(rows, "angle")
    permuted = null.stored_null(rows)
    # The median is at least 80 degrees exactly if at least half of the angles are.
    measures = [at_least("share of angles of at least 80 degrees", (values >= 80).double(), 0.5)]
    text = (
        f"median {values.median():.1f} degrees; mean squared cosine {permuted.statistic:.2e}, of permuted pairs "
        f"{permuted.mean:.2e} [{permuted.low:.2e}, {permuted.high:.2e}]"
    )
    doubts = [] if permuted.statistic < permuted.low else ["the pairs are not less aligned than permuted ones"]
    return Finding(measures, doubts=doubts, notes=[text], where=where)


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
