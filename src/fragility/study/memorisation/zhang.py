"""The rules of the claims Z1 to Z5, of [Zhang2017] about networks that memorise."""

from itertools import combinations

import numpy as np
import pandas as pd
import torch

from fragility.data import datasets
from fragility.study.memorisation.setup import corrupted
from fragility.study.memorisation.theorem import lookup
from fragility.study.verdict import Finding, Tables, at_least, at_most, exact, positive, present

PILOT = "the threshold was chosen after a pilot"
POINT = 0.01  # of accuracy, by which a condition may be missed


def random_labels(tables: Tables) -> Finding:
    """Z1: random labels are fitted to 99 % or more, and the test is at chance, .1 +- .02."""
    rows = tables["randomisation"]
    chosen = present(_arm(rows, "random labels"))
    fitted, tested = chosen.train_accuracy, chosen.test_accuracy
    measures = [
        at_least("share of random labels fitted", fitted, 0.99, margin=POINT),
        at_least("test accuracy, at least near chance", tested, 0.08, margin=POINT),
        at_most("test accuracy, at most near chance", tested, 0.12, margin=POINT),
    ]
    means = 100 * _arm(rows, "true")[["train_accuracy", "test_accuracy"]].mean()
    facts = {"fitted": 100 * fitted.mean(), "tested": 100 * tested.mean(), **means}
    notes = [f"{arm}: {_arm(rows, arm).test_accuracy.mean():.3f} of the test" for arm in rows.arm.unique()]
    return Finding(measures, notes=notes, facts=facts, setting=_setting(rows))


def regularisers(tables: Tables) -> Finding:
    """Z2: a regulariser adds 5 points of test accuracy at most, and random labels still fit to 95 % with it."""
    rows = tables["randomisation"]
    measures, plain = [], present(_arm(rows, "true"), 2)
    for way in rows.regulariser[rows.regulariser != "none"].unique():
        gain = _by_seed(_arm(rows, "true", way).test_accuracy - plain.test_accuracy)
        measures.append(at_most(f"test accuracy gained by {way}", gain, 0.05, margin=POINT))
    early = (plain.best_test_accuracy - plain.test_accuracy).to_numpy()
    measures.append(at_most("test accuracy gained by early stopping", early, 0.05, margin=POINT))
    gains = ", ".join(f"{measure.name.split(' by ')[1]} {100 * measure.value:+.1f}" for measure in measures)
    fits = []
    for way in rows.regulariser[rows.regulariser != "none"].unique():
        share = _arm(rows, "random labels", way).train_accuracy
        measures.append(at_least(f"share of random labels fitted with {way}", share, 0.95, margin=POINT))
        fits.append(f"{way} {100 * share.mean():.1f}")
    return Finding(measures, facts={"gains": gains, "fits": ", ".join(fits)}, setting=_setting(rows))


def random_pixels(tables: Tables) -> Finding:
    """Z3: images without a meaning are fitted in fewer epochs than random labels."""
    rows = tables["randomisation"]
    labels, measures = _arm(rows, "random labels").fitted.astype(float), []
    for arm in ("a shuffle each", "Gaussian"):
        ratio = _by_seed(_arm(rows, arm).fitted.astype(float) / labels)
        if len(ratio) > 1:
            measures.append(at_most(f"epochs to fit, {arm}, to those of random labels", ratio, 1, shown="< 1"))
    told = ", ".join(f"{measure.value:.2f} ({measure.name.split(', ')[1]})" for measure in measures)
    return Finding(measures, facts={"told": told}, setting=_setting(rows))


def _arm(rows: pd.DataFrame, arm: str, way: str = "none") -> pd.DataFrame:
    """The trainings of an arm, by seed."""
    return rows[(rows.arm == arm) & (rows.regulariser == way)].set_index("image")


def _by_seed(values: pd.Series) -> np.ndarray:
    return np.asarray(values.dropna(), dtype=float)


def _setting(rows: pd.DataFrame) -> dict[str, object]:
    width = rows.attrs.get("parameters", {}).get("width", 512)
    network = f"perceptron, {width} hidden units"
    return {"network": network, "data": "MNIST", "training images": int(rows.training_images.max())}


def theorem(tables: Tables) -> Finding:
    """Z4: 2n + d weights give n = 200 digits random labels, to 1e-6, and the map is the same everywhere, to 1e-12."""
    drawn = datasets.digits("train", size=8, limit=200)
    points, labels = drawn.images.flatten(1).double(), corrupted(drawn.labels, 1.0, 0).double()
    network = lookup(points, labels)
    x = points.clone().requires_grad_()
    values = network(x)
    (maps,) = torch.autograd.grad(values.sum(), x)
    maps = maps / maps.norm(dim=1, keepdim=True)
    error = float((values.detach() - labels).abs().max())
    apart = float((1 - (maps @ maps[0]).abs()).max())
    measures = [exact("largest error", error, 1e-6), exact("1 - least cosine of two maps", apart, 1e-12)]
    n, d = points.shape
    notes = [f"the condition of the system is {network.condition:.0e}", PILOT]
    return Finding(measures, notes=notes, facts={"weights": 2 * n + d, "n": n, "d": d}, exact=True)


def least_norm(tables: Tables) -> Finding:
    """Z5: the best function of least norm errs on 5 % of the test at most, and norms do not rank the errors."""
    rows = tables["minimum_norm"]
    rows = rows[rows.train_error == 0].assign(name=rows.input + ", " + rows.kernel)
    present(rows.image.unique(), 2)
    means = rows.groupby("name")[["test_error", "norm"]].mean()
    best, least = means.test_error.idxmin(), means.norm.idxmin()
    errors = rows[rows.name == best].test_error
    shares = [_discordant(part) for _, part in rows.groupby("image")]
    measures = [
        at_most("test error of the best kernel", errors, 0.05, margin=POINT),
        positive("share of pairs of kernels of which the one with the larger norm errs less", shares),
    ]
    percent = means.assign(test_error=100 * means.test_error)
    facts = {
        f"{name}_{column}": percent.loc[row, column]
        for name, row in (("best", best), ("least", least))
        for column in ("norm", "test_error")
    }
    notes = [f"{name}: norm {row.norm:.1f}, test error {row.test_error:.4f}" for name, row in means.iterrows()]
    setting = {"data": "MNIST", "training images": int(rows.training_images.max())}
    return Finding(measures, notes=notes, facts=facts | {"best": best, "least": least}, setting=setting)


def _discordant(rows: pd.DataFrame) -> float:
    """The share of pairs whose norms and errors are ordered differently."""
    values = rows[["norm", "test_error"]].to_numpy()
    signs = [np.sign(a - b) for a, b in combinations(values, 2)]
    return float(np.mean([one[0] * one[1] < 0 for one in signs]))
