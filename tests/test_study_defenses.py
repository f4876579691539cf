"""The table of defenses: every piece computed at a tiny size and compared with the library by hand."""

from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch

from fragility import train
from fragility.attribution import importance, integrated_gradients
from fragility.data import datasets
from fragility.defense import Discretized
from fragility.similarity import kendall
from fragility.study.defenses import training_scales
from fragility.study.defenses.defense_table import STUDY
from fragility.study.defenses.rules import ladder, main, moved
from fragility.study.defenses.setup import NETWORKS, Defense, madry_cnn, small_cnn, trained, training_cost
from fragility.study.defenses.worst_case import soft_kendall
from fragility.surrogate import SoftplusNetwork

pytestmark = pytest.mark.usefixtures("data_folder")
FAST = STUDY.profiles["fast"]
TINY = FAST | {
    "training_images": 200, "test_images": 30, "images": 6, "doubled_images": 3, "iterations": 2, "natural_epochs": 6,
    "epochs": 1, "evaluation_steps": 4, "attack_steps": 2,
    "defenses": {name: FAST["defenses"][name] for name in ("natural", "ig_norm", "softplus_untrained")},
}  # fmt: skip


def test_every_defense_and_seed_has_its_row() -> None:
    made = STUDY.plan(TINY)
    rows: list[dict[str, Any]] = [row for piece in made.pieces for row in made.compute(piece)]
    budgets = [(row["seed"], row["budget"]) for row in rows]
    assert budgets == [(0, 1)] * 3 + [(1, 1)] * 3 + [(0, 1)] * 3 + [(0, 2)] * 3
    for number, row in enumerate(rows):
        assert 1 <= row["images"] <= (6 if number < 6 else 3)
        assert row["iterations"] == row["runs"] == 2 * row["budget"]
        assert max(row["kendall_by_top_k"], row["kendall_by_kendall"]) <= 1
        assert all(0 <= row[name] <= 1 for name in ("natural_accuracy", "adversarial_accuracy", "labels_kept"))
        assert (row["surrogate_beta"] is None) == (row["defense"] == "softplus_untrained")
    cost = {row["defense"]: row["cost"] for row in rows}
    assert cost["softplus_untrained"] == 0 < 2 < cost["natural"] < 4 < cost["ig_norm"]
    table = pd.DataFrame(rows)
    assert main(table).index.tolist() == list(range(6))
    steps = ladder(table)
    assert steps.defense.tolist() == [name for name in sorted(TINY["defenses"]) for _ in range(2)]
    assert steps.budget.tolist() == [1, 2] * 3
    change = steps[["kendall", "top_k_intersection"]].diff().iloc[1::2]
    assert moved(table) == change.abs().max().max()
    assert (change.kendall <= 0).all()
    assert str(moved(table[:9])) == "nan"


def test_a_row_is_what_the_library_says(double_digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "small_cnn", lambda **options: small_cnn(**options).double())
    made = STUDY.plan(TINY)
    (row,) = made.compute(made.pieces[0])
    training, test = (datasets.digits(split, limit=n) for split, n in (("train", 200), ("test", 30)))
    model, _ = trained(TINY, "natural", 0, training, "cpu")
    assert row["natural_accuracy"] == train.accuracy(model, test.images, test.labels)
    right = (model(test.images[:12]).argmax(1) == test.labels[:12]).nonzero().flatten()[:6]
    assert row["images"] == len(right)
    images, labels = test.images[right], test.labels[right]
    explain = partial(integrated_gradients, model, labels=labels, steps=4)
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(images.shape, generator=generator, dtype=torch.float64)
    noisy = images + TINY["epsilon"] * (1 - 2 * (draw < 0.5).double())
    tau = kendall(importance(explain(images)), importance(explain(noisy.clamp(0, 1))))
    assert row["noise_kendall"] == pytest.approx(tau.mean().item())


def test_a_size_of_the_training_set_is_the_table_of_that_size() -> None:
    sized = {name: value for name, value in TINY.items() if name != "training_images"}
    made = training_scales.STUDY.plan(sized | {"sizes": [150, 200], "budgets": [1, 2]})
    names = [(piece["seed"], piece["training_images"], piece["budget"]) for piece in made.pieces]
    first, ladder_of_largest = [(0, 150, 1)] * 3 + [(0, 200, 1)] * 3, [(0, 200, 1)] * 3 + [(0, 200, 2)] * 3
    assert names == first + ladder_of_largest + [(1, 150, 1)] * 3 + [(1, 200, 1)] * 3
    assert [piece["count"] for piece in made.pieces] == [6] * 6 + [3] * 6 + [6] * 6
    plain = STUDY.plan(TINY | {"training_images": 150})
    (row,), (same,), (other,) = (
        made.compute(made.pieces[0]),
        plain.compute(plain.pieces[0]),
        made.compute(made.pieces[3]),
    )
    assert {name: row[name] for name in same} == same
    assert (row["training_images"], other["training_images"]) == (150, 200)
    assert row["training_loss"] != other["training_loss"]


def test_training_is_common_at_first_and_taken_up_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    training = datasets.digits("train", limit=200)
    whole, loss = trained(TINY, "ig_norm", 0, training, "cpu")
    untrained, none = trained(TINY, "softplus_untrained", 0, training, "cpu")
    assert none != none
    assert isinstance(untrained, SoftplusNetwork)
    coarse = TINY | {"defenses": {"discretized": FAST["defenses"]["discretized"]}}
    assert isinstance(trained(coarse, "discretized", 0, training, "cpu")[0], Discretized)
    start = small_cnn(size=32, stride=4, seed=0)
    batches = train.Batches(training.images, training.labels, 50)
    train.fit(start, batches, train.cross_entropy, epochs=6, learning_rate=1e-3, seed=0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), untrained.model.parameters(), strict=True))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(train, "_train_epoch", refuse)  # what is stored is loaded
    again, same = trained(TINY, "ig_norm", 0, training, "cpu")
    assert same == loss
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_networks_are_those_of_their_seed() -> None:
    first, same, other = (madry_cnn(seed=seed) for seed in (0, 0, 1))
    assert first(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert torch.equal(first[0].weight, same[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_every_defense_has_its_loss_and_its_cost() -> None:
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    for defense in (Defense(**entry) for entry in FAST["defenses"].values()):
        shorter = {name: min(value, 2) for name, value in defense.options.items() if name.endswith(("steps", "ations"))}
        model = small_cnn(size=28, stride=2, seed=0)  # as at `laptop`
        assert training_cost(replace(defense, options=defense.options | shorter), model, images, labels) >= 0
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_stand_in_for_kendalls_tau() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, other = torch.rand(2, 3, 10, 10, generator=generator, dtype=torch.float64)
    value = soft_kendall()
    same, reverse = value(1e6 * reference, reference), value(-1e6 * reference, reference)
    assert (same < -0.97).all()  # all pairs but those of a pixel with itself
    torch.testing.assert_close(same, -reverse)
    torch.testing.assert_close(-value(1e6 * other, reference), kendall(other, reference), rtol=0, atol=0.06)
    x = reference.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(x, reference).sum(), x)
    assert (slope != 0).any()
