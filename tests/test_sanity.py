"""The studies of LRP and of sanity checks: rows computed another way, and the rules on rows that are made up."""

import numpy as np
import pandas as pd
import pytest
import torch

from fragility import objective
from fragility.attack import iterative
from fragility.attribution import importance, lrp, simple_gradient
from fragility.network import digits_cnn
from fragility.similarity import spearman
from fragility.study.attacks import sanity
from fragility.study.catalogue import STUDIES
from fragility.study.claims import LEDGER
from fragility.study.ledger import decide
from fragility.study.piece import generator
from fragility.study.store import stored

BY_ID, THEIRS = {claim.id: claim for claim in LEDGER}, stored("published")


def deep_taylor(*arguments):
    return lrp(*arguments, rules="deep_taylor")


def test_random_weights_stand_in_the_last_layers_only() -> None:
    model = digits_cnn()
    for share, random in ((0.0, 1), (0.5, 2), (1.0, 4)):
        other, count = sanity.randomised(model, share, generator("weights"))
        pairs = zip(model.modules(), other.modules(), strict=True)
        same = [torch.equal(a.weight, b.weight) for a, b in pairs if hasattr(a, "weight")]
        assert (count, same) == (random, [True] * (4 - random) + [False] * random)


def test_sanity_rows(double_digits: None) -> None:
    made = STUDIES["sanity"].plan({**STUDIES["sanity"].profiles["fast"], "layers": {"all": 1.0}})
    rows = pd.DataFrame([row for piece in made.pieces for row in made.compute(piece)])
    subject = made.ready["digits"]
    x = subject.data.images[:4]
    other, _ = sanity.randomised(subject.model, 1.0, generator(0, "weights"))

    def averaged(model, x, labels):
        points = [subject.baseline + k / 5 * (x - subject.baseline) for k in range(1, 6)]
        return sum(simple_gradient(model, point, labels) for point in points)

    methods = {"simple_gradient": simple_gradient, "averaged_gradient": averaged, "deep_taylor": deep_taylor}
    assert set(rows.method) == {*methods, "integrated_gradients"}
    for name, method in methods.items():
        maps = [method(model, x, model(x).argmax(1)).abs().sum(1) for model in (subject.model, other)]
        assert rows[rows.method == name].spearman.tolist() == pytest.approx(spearman(*maps).tolist())


def test_rows_of_the_fourth_method(double_digits: None) -> None:
    """The attack climbs on the ReLU network itself, and the row says so."""
    made = STUDIES["relevance_sweep"].plan(STUDIES["relevance_sweep"].profiles["fast"])
    (piece,) = (piece for piece in made.pieces if (piece["method"], piece["attack"]) == ("deep_taylor", "top_k"))
    rows, subject = made.compute(piece), made.ready["digits"]
    x, y = subject.batch(piece)
    found = iterative(
        subject.model, x, y, attribution=deep_taylor, objective=objective.top_k(100), epsilon=51 / 255,
        step_size=10 / 255, iterations=3,
    )  # fmt: skip
    maps = [importance(deep_taylor(subject.model, images, y)) for images in (x, found.images)]
    assert [row["spearman"] for row in rows] == pytest.approx(spearman(*maps).tolist())
    assert {row[name] for row in rows for name in ("surrogate_beta", "surrogate_gain", "attack_steps")} == {None}


def test_random_labels_row() -> None:
    made = STUDIES["random_labels"].plan(STUDIES["random_labels"].profiles["fast"])
    (row,) = made.compute(made.pieces[0])
    assert row["image"] == "seed 0"
    assert 0 < row["true_accuracy"] <= 1
    assert -1 <= min(row["same"], row["other"]) <= max(row["same"], row["other"]) < 1


def outcome(name: str, **tables: pd.DataFrame) -> str:
    return decide(BY_ID[name], tables | {"published": THEIRS})[1].text


def around(mean: float, n: int = 64) -> np.ndarray:
    return mean + 0.01 * np.linspace(-1, 1, n)


def checked(method: str, layers: str, mean: float, n: int = 64) -> pd.DataFrame:
    rows = pd.DataFrame({"image": [f"{i}" for i in range(n)], "spearman": around(mean, n)})
    return rows.assign(setup="squeezenet", method=method, layers=layers)


def noisy(lift: float = 0.0, attack: str = "random_walk", n: int = 64) -> pd.DataFrame:
    """Rows whose means are the published ones of Deep Taylor, lifted, and of the simple gradient."""
    published = THEIRS.set_index(["method", "attack", "epsilon", "metric"])["value"].sort_index()
    parts = []
    for method, epsilon in ((name, e) for name in ("deep_taylor", "simple_gradient") for e in (2.0, 8.0)):
        means = published[method, "random", epsilon]
        means = {name: around(mean + lift * (method == "deep_taylor"), n) for name, mean in means.items()}
        parts.append(
            pd.DataFrame({"image": [f"{i}" for i in range(n)], **means}).assign(method=method, epsilon=epsilon)
        )
    columns = {"setup": "squeezenet", "iterations": 300, "labels_kept": True, "step_size": 0.5, "attack_steps": np.nan}
    return pd.concat(parts).assign(attack=attack, **columns)


class TestRules:
    def test_identities_hold_now(self):
        assert outcome("T1") == "reproduced"

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            (noisy(), "reproduced"),
            (noisy(attack="random"), "direction only"),
            (noisy(lift=-0.105), "direction only"),
            (noisy(lift=-0.6), "refuted"),
            (noisy(n=63), "not yet tested"),
        ],
    )
    def test_noise(self, rows, expected):
        assert outcome("T2", relevance_sweep=rows) == expected

    @pytest.mark.parametrize(
        ("name", "cases", "expected"),
        [
            ("T3", {("deep_taylor", "the upper half"): 0.95}, "reproduced"),
            ("T3", {("deep_taylor", "the upper half"): 0.5}, "refuted"),
            ("S1", {("simple_gradient", "all"): 0.05}, "direction only"),
            ("S1", {("simple_gradient", "all"): 0.5}, "not reproduced"),
            ("S2", {("integrated_gradients", "all"): 0.95, ("averaged_gradient", "all"): 0.2}, "direction only"),
            ("S2", {("integrated_gradients", "all"): 0.95, ("averaged_gradient", "all"): 0.6}, "not reproduced"),
        ],
    )
    def test_random_weights(self, name, cases, expected):
        rows = pd.concat([checked(*case, mean) for case, mean in cases.items()])
        assert outcome(name, sanity=rows) == expected
        assert outcome(name, sanity=rows[rows.image != "0"]) == "not yet tested"

    @pytest.mark.parametrize(("other", "expected"), [(0.3, "reproduced"), (0.45, "refuted")])
    def test_random_labels(self, other, expected):
        rows = pd.DataFrame({"same": around(0.5, 10), "other": around(other, 10)[::-1]})
        rows = rows.assign(true_accuracy=1.0, random_accuracy=1.0, training_images=500)
        assert outcome("S3", random_labels=rows) == expected
        assert outcome("S3", random_labels=rows[1:]) == "not yet tested"
