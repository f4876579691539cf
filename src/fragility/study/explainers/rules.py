"""The rules of the claims L, of models that lie about their maps, and G, of what can be proved about maps."""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fragility.study.verdict import Finding, Measure, Tables, at_least, at_most, exact, positive, present

PILOT = "the threshold was chosen after a pilot"
CASES = 1000  # random networks of G4
SHARPNESS = 1.0  # of the softplus by which G2 is judged, PyTorch's default


def _all(name: str, values: pd.Series, limit: float) -> Measure:
    """Hold the largest of all images' errors against a limit."""
    return exact(name, float(values.max()), limit)._replace(n=len(values))


def _none(name: str, wrong: pd.Series) -> Measure:
    """Ask that nothing is wrong."""
    return exact(name, float(wrong.sum()), 0)._replace(n=len(wrong))


def logit_maps(tables: Tables) -> Finding:
    """L1: adding a function to all logits makes the gradient's map any drawing; the log-odds' map does not change."""
    rows = present(tables["same_function"])
    measures = [
        _all("1 less the rank correlation of map and drawing", 1 - rows.spearman, 0.01),
        _all("largest change of a probability", rows.probability_change, 1e-10),
        _all("largest change of the log-odds' map, relative to its largest value", rows.log_odds_change, 1e-10),
    ]
    notes = [
        f"{len(rows)} photographs; before, the maps correlate with the drawings by {rows.before.mean():.2f}",
        "a drawing with flat areas was tried first, on other photographs: there the network orders the pixels (.95)",
    ]
    return Finding(measures, notes=notes, facts={"n": len(rows), "least": rows.spearman.min()}, exact=True)


def unused_pixels(tables: Tables) -> Finding:
    """L2: weights on pixels that never vary change no label and take nine tenths of the map; a projection shows it."""
    rows = present(tables["unused_pixels"], 2)
    measures = [
        _none("labels changed", rows.label_changed),
        at_least("share of importance on pixels that never vary", rows.after, 0.9),
        at_most("the same, projected on directions in which images differ", rows.projected, 0.01),
    ]
    notes = [f"of the log-odds: {rows.log_odds.mean():.3f}; of the network before: {rows.before.mean():.3f}"]
    facts = {"silent": int(rows.silent.iloc[0]), "before": 100 * rows.before.mean(), "after": 100 * rows.after.mean()}
    return Finding(measures, notes=notes, facts=facts)


def scaffold(tables: Tables) -> Finding:
    """L5: a model that decides by race for 95 % of people or more shows LIME race for 5 % of them at most."""
    rows = present(tables["scaffold"], 2)
    first = {name: rows[name] == "race" for name in ("lime_biased", "lime_scaffold", "shapley_scaffold")}
    measures = [
        at_most("race first by LIME, of the scaffold", first["lime_scaffold"], 0.05),
        at_least("decisions by race, of the scaffold", rows.groupby("seed").fidelity.mean(), 0.95),
        at_least("race first by LIME, of the model that it hides", first["lime_biased"], 0.95),
    ]
    # Five seeds of a hundred people each: a share of people counts people, a share of decisions counts seeds.
    measures[1] = measures[1]._replace(n=len(rows))
    shares = {name: 100 * values.mean() for name, values in first.items()}
    notes = [f"race first by exact Shapley values, of the scaffold: {shares['shapley_scaffold']:.0f} %", PILOT]
    return Finding(measures, notes=notes, facts=shares | {"fidelity": 100 * rows.fidelity.mean()})


def input_code(tables: Tables) -> Finding:
    """L6: another code of the pixels leaves the gradient's map as it is and moves that of gradient times input."""
    rows = present(tables["same_function"], 2)
    measures = [
        _all("largest change of the gradient's map, relative to its largest value", rows.recoded_change, 1e-12),
        at_most("rank correlation of the maps of gradient times input", rows.recoded_input, 0.9, shown="< 0.9"),
    ]
    return Finding(measures, facts={"input": rows.recoded_input.mean(), "n": len(rows)})


def smoothed(tables: Tables) -> Finding:
    """G1: of the sparsified smoothed gradient's top pixels some are certified, and no attack leaves fewer."""
    every = present(tables["smoothed"], 2)
    rows = every[every.rho == every.rho.min()]
    measures = [
        positive("certified share of the top k", rows.certified),
        _none("images for which an attack leaves fewer, at all radii", every.attacked_at_most < every.certified),
        _caught("a broken certificate that the same attacks do not refute", every.attacked_at_most < every.broken),
    ]
    notes = [
        f"rho {rho:g}: certified {part.certified.mean():.3f}, attacked {part.attacked.mean():.3f}"
        for rho, part in every.groupby("rho")
    ]
    facts = {"certified": 100 * rows.certified.mean(), "attacked": 100 * rows.attacked.mean(), "rho": rows.rho.iloc[0]}
    return Finding(measures, notes=notes, facts=facts)


def hessian_bracket(tables: Tables) -> Finding:
    """G2: no attack passes the Hessian's certificate, which at eps = .1 is at most .2 below the strongest attack."""
    every = present(tables["certificates"], 2)
    worst = every[["attacked", "attacked_doubled", "attacked_cube", "drawn"]].min(axis=1)
    every = every.assign(worst=worst, gap=worst - every.certified)
    rows = every[(every.beta == SHARPNESS) & (every.epsilon == 0.1)]
    measures = [
        _none("top k: images and radii at which an attack leaves less than is certified", worst < every.certified),
        _none("cosine: the same", every.attacked_cosine < every.certified_cosine - 1e-12),
        _caught("a broken certificate that the same attacks do not refute", worst < every.broken),
        at_most("attacked less certified share at eps .1", rows.gap, 0.2),
    ]
    notes = [
        f"beta {beta:g}, eps {epsilon:g}: certified {part.certified.mean():.3f} "
        f"(everywhere {part.certified_everywhere.mean():.3f}), attacked {part.worst.mean():.3f}"
        for (beta, epsilon), part in every.groupby(["beta", "epsilon"])
    ]
    measures[:3] = [measure._replace(n=every.image.nunique()) for measure in measures[:3]]
    facts = {"certified": 100 * rows.certified.mean(), "worst": 100 * rows.worst.mean()}
    return Finding(measures, notes=[*notes, PILOT], facts=facts)


def _caught(name: str, refuted: pd.Series) -> Measure:
    """Ask that a test which passes certificates does not pass everything."""
    return exact(name, float(not refuted.any()), 0)._replace(n=len(refuted))


def linear_region(tables: Tables) -> Finding:
    """G3: as far as the nearest kink the gradient of a ReLU network is constant, and behind it is not."""
    rows = present(tables["relu_regions"], 2)
    measures = [
        _all("largest relative change of the gradient at .99 of the distance", rows.inside, 1e-12),
        at_least("images whose gradient changes at 1.01 of it", rows.outside > 1e-12, 0.95),
    ]
    facts = {"median": rows.radius.median(), "n": len(rows)}
    return Finding(measures, notes=[f"median change behind the kink {rows.outside.median():.2g}"], facts=facts)


def averaged_gradient(tables: Tables) -> Finding:
    """G4: the averaged gradient of M points of a path moves at most (M + 1) / 2M as far as the gradient may."""
    draws, worst, tight = torch.Generator().manual_seed(0), 0.0, 0.0

    def normal(*shape: int) -> Tensor:
        return torch.randn(CASES, *shape, generator=draws, dtype=torch.float64)

    w, a, x, move = normal(8, 6), normal(8), normal(6), normal(6)
    parts = [w.mT @ (sign * a / 4).clamp(min=0).diag_embed() @ w for sign in (1, -1)]
    bound = torch.stack([torch.linalg.eigvalsh(part)[:, -1] for part in parts]).amax(0)

    def mean(at: Tensor, points: int) -> Tensor:
        shares = torch.arange(1, points + 1, dtype=torch.float64) / points
        z = torch.einsum("bjd,bd,m->bmj", w, at, shares)
        return torch.einsum("bj,bmj,bjd->bd", a, torch.sigmoid(z), w) / points

    for points in (1, 2, 5, 20):
        limit = (points + 1) / (2 * points) * bound * move.norm(dim=1)
        worst = max(worst, float(((mean(x + move, points) - mean(x, points)).norm(dim=1) / limit).max()))
        square = torch.arange(1, points + 1, dtype=torch.float64).mean() / points  # the gradient of |x|^2 / 2 is x
        tight = max(tight, abs(float(square) - (points + 1) / (2 * points)))
    measures = [
        exact("largest change to its bound", worst, 1.0),
        exact("distance from the bound for a quadratic function, where it is attained", tight, 1e-12),
    ]
    return Finding(measures, notes=[f"{CASES} random networks, M = 1, 2, 5 and 20"], facts={"worst": worst}, exact=True)


def sine(tables: Tables) -> Finding:
    """G5: from |h' - h| <= R follows a cosine of (1 - R^2 / |h|^2)^(1/2), and no larger one."""
    # Smoothed over a disc that loses a tenth of its area to one side and gains as much on the other; there the
    # attribution is -u and u, of length M = 1, and between them the middle vector, whose length is below 1.
    lost, u, length = 0.1, np.array([1.0, 0.0]), 0.5
    bound = 2 * lost
    middle = np.array([-lost, math.sqrt(length**2 - bound**2)]) / (1 - lost)
    before, after = (side * lost * u + (1 - lost) * middle for side in (-1, 1))
    size = float(np.linalg.norm(before))
    cosine = float(before @ after / size / np.linalg.norm(after))
    printed, ours = 1 / math.sqrt(1 + (bound / size) ** 2), math.sqrt(1 - (bound / size) ** 2)
    measures = [
        exact("length of the attribution in the middle", float(np.linalg.norm(middle)), 1.0),
        exact("change of the smoothed attribution over R", float(np.linalg.norm(after - before)) / bound, 1 + 1e-12),
        exact("cosine attained over the printed bound", cosine / printed, 0.99),
        exact("sine bound over the cosine attained", ours / cosine, 1 + 1e-12),
    ]
    notes = ["the printed form as summaries of the paper have it; we have not seen its proof"]
    return Finding(measures, notes=notes, facts={"cosine": cosine, "printed": printed}, exact=True)
