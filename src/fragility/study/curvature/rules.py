"""The rules of the claims H2, O1, O2 and O3, about dimension, curvature and orthogonality."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fragility.study.curvature.null import stored_null
from fragility.study.verdict import Finding, at_least, at_most

Tables = Mapping[str, pd.DataFrame]


def dimension(tables: Tables) -> Finding:
    """H2: the relative change of a neuron's raw gradient grows like the square root of d."""
    rows = tables["dimension"].query("network == 'neuron'")
    measures, notes = [], []
    for activation in sorted(set(rows.activation) - {"identity"}):
        slopes = {arm: _slopes(rows, activation, arm) for arm in ("fixed_epsilon", "fixed_relative")}
        name = f"slope of log relative change against log d, {activation}"
        measures += [at_least(name, slopes["fixed_epsilon"], 0.4), at_most(name, slopes["fixed_epsilon"], 0.6)]
        if len(slopes["fixed_relative"]):
            mean = slopes["fixed_relative"].mean()
            notes.append(f"{activation}: with |delta| / |x| fixed instead of epsilon the slope is {mean:+.2f}")
    if len(rows):
        notes.append(f"normalised maps change by at most {rows.map_change.max():.1g}")
    return Finding(measures, notes=notes)


def orthogonal(tables: Tables) -> Finding:
    """O1: the median angle is at least 80 degrees, and the pairs are less aligned than permuted ones."""
    return _orthogonal(tables["angles"].query("setup == 'cifar10'"))


def orthogonal_for_influence(tables: Tables) -> Finding:
    """O2: the same for the gradients of the loss and of the most helpful training image's influence."""
    return _orthogonal(tables["influence_angles"])


def two_layers(tables: Tables) -> Finding:
    """O3: in two layers the Hessian's top direction is one w_k, and not parallel to the gradient."""
    rows = tables["dimension"].query("network == 'two_layer'")
    measures, notes = [], []
    for (activation, width), part in rows.groupby(["activation", "width"], sort=False):
        name = f"{activation}, h = {width:g}"
        measures += [
            at_most(f"{name}: degrees between the top direction and w_k", part.misfit, 1e-3),
            at_least(f"{name}: degrees between it and the gradient", part.angle, 1.0),
        ]
        low, middle, high = part.angle.quantile([0.05, 0.5, 0.95])
        notes.append(f"{name}: median {middle:.0f} degrees, from {low:.0f} to {high:.0f} for nine in ten draws")
    return Finding(measures, notes=notes)


def _orthogonal(rows: pd.DataFrame) -> Finding:
    if rows.empty:
        return Finding()
    null = stored_null(rows)
    # The median is at least 80 degrees exactly if at least half of the angles are.
    measures = [at_least("share of angles of at least 80 degrees", rows.angle >= 80, 0.5)]
    text = (
        f"median {rows.angle.median():.1f} degrees; mean squared cosine {null.statistic:.2e}, of permuted pairs "
        f"{null.mean:.2e} [{null.low:.2e}, {null.high:.2e}]"
    )
    doubts = [] if null.statistic < null.low else ["the pairs are not less aligned than permuted ones"]
    return Finding(measures, doubts=doubts, notes=[text])


def _slopes(rows: pd.DataFrame, activation: str, arm: str) -> Any:
    """Of log relative change against log d by least squares, one per draw that has all d."""
    chosen = rows.query("activation == @activation and arm == @arm")
    wide = np.log(chosen.pivot(index="image", columns="dimension", values="relative_change"))
    wide = wide.reindex(chosen.image.unique()).dropna()
    if wide.shape[1] < 2:
        return np.zeros(0)
    x = np.log(wide.columns.to_numpy(dtype=float))
    x = x - x.mean()
    return wide.to_numpy() @ x / (x @ x)
