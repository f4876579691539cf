"""The rules of the claims H2 and O1 to O3, about dimension, curvature and orthogonality."""

from typing import Any

import numpy as np
import pandas as pd

from fragility.study.curvature.null import Null, stored_null
from fragility.study.verdict import MARGIN, Finding, Measure, Tables, at_least, at_most, present


def dimension(tables: Tables) -> Finding:
    """H2: the relative change of a neuron's raw gradient grows like the square root of d."""
    rows = tables["dimension"].query("network == 'neuron'")
    measures, notes, growth = [], [], []
    for activation in sorted(set(rows.activation) - {"identity"}):
        slopes = {arm: _slopes(rows, activation, arm) for arm in ("fixed_epsilon", "fixed_relative")}
        name = f"slope of log relative change against log d, {activation}"
        measures += [at_least(name, slopes["fixed_epsilon"], 0.4), at_most(name, slopes["fixed_epsilon"], 0.6)]
        if len(slopes["fixed_epsilon"]):
            growth.append(f"{4 ** slopes['fixed_epsilon'].mean():.2f} ({activation})")
        if len(slopes["fixed_relative"]):
            mean = slopes["fixed_relative"].mean()
            notes.append(f"{activation}: with |delta| / |x| fixed instead of epsilon the slope is {mean:+.2f}")
    if len(rows):
        notes.append(f"normalised maps change by at most {rows.map_change.max():.1g}")
    return Finding(measures, notes=notes, facts={"growth": " and ".join(growth)})


def orthogonal(tables: Tables) -> Finding:
    """O1: the median angle of a score's gradient and its saliency's top direction is at least 80 degrees."""
    return _orthogonal(present(tables["angles"].query("setup == 'cifar10'")))


def more_than_chance(tables: Tables) -> Finding:
    """O1b: gradient and top direction of one image are less aligned than those of two images of a class."""
    rows = present(tables["angles"].query("setup == 'cifar10'"))
    null = stored_null(rows, margin=MARGIN)
    value, low, high = (null.statistic - end for end in (null.mean, null.high, null.low))
    name = "mean squared cosine less that of permuted pairs"
    measure = Measure(name, value, low, high, len(rows), "< 0", 0.0, -1, value < 0, high < 0, null.above)
    facts = {"times": null.statistic / null.mean}
    return Finding([measure], notes=[_null(null)], facts=facts, setting=_setting(rows))


def orthogonal_for_influence(tables: Tables) -> Finding:
    """O2: the same for the gradients of the loss and of the most helpful training image's influence."""
    return _orthogonal(present(tables["influence_angles"]))


def two_layers(tables: Tables) -> Finding:
    """O3: in two layers the Hessian's top direction is one w_k, and not parallel to the gradient."""
    rows = tables["dimension"].query("network == 'two_layer'")
    measures, notes = [], []
    for (activation, width), part in rows.groupby(["activation", "width"], sort=False):
        name = f"{activation}, h = {width:g}"
        measures += [
            at_most(f"{name}: degrees between the top direction and w_k", part.misfit, 1e-3, margin=0),
            at_least(f"{name}: degrees between it and the gradient", part.angle, 1.0, margin=0),
        ]
        low, middle, high = part.angle.quantile([0.05, 0.5, 0.95])
        notes.append(f"{name}: median {middle:.0f} degrees, from {low:.0f} to {high:.0f} for nine in ten draws")
    medians = rows.angle.groupby(rows.width).median()
    return Finding(measures, notes=notes, facts={"least": medians.min(), "most": medians.max()})


def _orthogonal(rows: pd.DataFrame) -> Finding:
    # The median is at least 80 degrees exactly if at least half of the angles are.
    measures = [at_least("share of angles of at least 80 degrees", (rows.angle >= 80).to_numpy(), 0.5)]
    facts = {"median": rows.angle.median()}
    return Finding(measures, notes=[_null(stored_null(rows))], facts=facts, setting=_setting(rows))


def _null(null: Null) -> str:
    return (
        f"mean squared cosine {null.statistic:.2e}, of permuted pairs {null.mean:.2e} [{null.low:.2e}, {null.high:.2e}]"
    )


def _setting(rows: pd.DataFrame) -> dict[str, Any]:
    """With what the rows were computed."""
    known = {"images": len(rows), "inputs": int(rows.dimension.max())}
    if "network" in rows:
        return {"network": f"a linear layer on the features of {rows.network.iloc[0]}"} | known
    accuracy = rows.attrs.get("inputs", {}).get("cifar10", {}).get("test_accuracy", {})
    network = {"network": "the network of appendix B, retrained with softplus", "data": "CIFAR-10"}
    return network | known | ({"test accuracy": accuracy["softplus"]} if accuracy else {})


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
