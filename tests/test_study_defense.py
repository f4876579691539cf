"""The table of defenses: every piece computed at a tiny size, resumed, and compared with the library by hand."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from fragility import train
from fragility.attribution import importance, integrated_gradients
from fragility.data import datasets
from fragility.defense import Discretized
from fragility.similarity import kendall
from fragility.study import STUDIES, Outcome, complete
from fragility.study.defense_attack import soft_kendall
from fragility.study.defense_profile import DEFENSE_TABLE, Defense, Profile
from fragility.study.defense_table import COLUMNS, ladder, moved, plan, summary
from fragility.study.defense_training import NETWORKS, madry_cnn, small_cnn, trained, training_cost
from fragility.study.store import Store, read
from fragility.surrogate import SoftplusNetwork


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAGILITY_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def tiny() -> Profile:
    fast = DEFENSE_TABLE["fast"]
    kept = ("natural", "ig_norm", "softplus_untrained")
    return replace(
        fast, training_images=200, test_images=30, images=6, doubled_images=3, iterations=2, natural_epochs=6, epochs=1,
        evaluation_steps=4, attack_steps=2, defenses={name: fast.defenses[name] for name in kept},
    )  # fmt: skip


def complete_in(folder: Path, profile: Profile) -> Outcome:
    what = plan(profile)
    return complete(Store("defense_table", "fast", what, folder, {"started": "now"}), what)


def test_every_defense_and_seed_has_its_row(tiny: Profile, folder: Path) -> None:
    assert complete_in(folder, tiny)[1:] == (12, 12, 0)
    rows = read("defense_table", "fast", folder)
    assert list(rows[0]) == list(COLUMNS)
    budgets = [(row["seed"], row["budget"]) for row in rows]
    assert budgets == [(0, 1)] * 3 + [(1, 1)] * 3 + [(0, 1)] * 3 + [(0, 2)] * 3
    for number, row in enumerate(rows):
        assert 1 <= row["images"] <= (6 if number < 6 else 3)
        assert row["iterations"] == 2 * row["budget"]
        assert row["runs"] == 2 * row["budget"]
        assert max(row["kendall_by_top_k"], row["kendall_by_kendall"]) <= 1
        assert all(0 <= row[name] <= 1 for name in ("natural_accuracy", "adversarial_accuracy", "labels_kept"))
        assert (row["surrogate_beta"] > 0) is (row["defense"] != "softplus_untrained")  # none there, which reads NaN
    cost = {row["defense"]: row["cost"] for row in rows}
    assert cost["softplus_untrained"] == 0 < 2 < cost["natural"] < 4 < cost["ig_norm"]
    table = summary(rows)
    assert [(row["defense"], row["n"]) for row in table] == [(name, 2) for name in tiny.defenses]
    steps = ladder(rows)
    assert [(row["defense"], row["budget"]) for row in steps] == [
        (name, b) for name in sorted(tiny.defenses) for b in (1, 2)
    ]
    changes = [
        abs(a[m] - b[m])
        for a, b in zip(steps[::2], steps[1::2], strict=True)
        for m in ("kendall", "top_k_intersection")
    ]
    assert moved(rows) == max(changes)
    assert all(two["kendall"] <= one["kendall"] for one, two in zip(steps[::2], steps[1::2], strict=True))
    assert str(moved(rows[:9])) == "nan"
    assert summary(rows[:6]) == table


def test_a_row_is_what_the_library_says(tiny: Profile, double_digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "small_cnn", lambda **options: small_cnn(**options).double())
    what = plan(tiny)
    piece = what.pieces[0]
    (row,) = what.compute(piece)
    training, test = (datasets.digits(part, limit=n) for part, n in (("train", 200), ("test", 30)))
    model, _ = trained(tiny, "natural", 0, training, "cpu")
    assert row["natural_accuracy"] == train.accuracy(model, test.images, test.labels)
    right = (model(test.images[:12]).argmax(1) == test.labels[:12]).nonzero().flatten()[:6]
    assert row["images"] == len(right)
    images, labels = test.images[right], test.labels[right]
    explain = partial(integrated_gradients, model, labels=labels, steps=4)
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(images.shape, generator=generator, dtype=torch.float64)
    noisy = images + tiny.epsilon * (1 - 2 * (draw < 0.5).double())
    tau = kendall(importance(explain(images)), importance(explain(noisy.clamp(0, 1))))
    assert row["noise_kendall"] == pytest.approx(tau.mean().item())
    assert str(what.compute(piece)) == str([row])


def test_training_is_common_at_first_and_taken_up_where_it_stopped(
    tiny: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = datasets.digits("train", limit=200)
    whole, loss = trained(tiny, "ig_norm", 0, training, "cpu")
    untrained, none = trained(tiny, "softplus_untrained", 0, training, "cpu")
    assert none != none
    assert isinstance(untrained, SoftplusNetwork)
    coarse = replace(tiny, defenses={"discretized": DEFENSE_TABLE["fast"].defenses["discretized"]})
    assert isinstance(trained(coarse, "discretized", 0, training, "cpu")[0], Discretized)
    start = small_cnn(size=32, stride=4, seed=0)
    settings = {"epochs": 6, "batch_size": 50, "learning_rate": 1e-3, "seed": 0, "progress": False}
    train.fit(start, train.Batches(training.images, training.labels, 50), train.cross_entropy, **{
        key: value for key, value in settings.items() if key != "batch_size"
    })  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), untrained.model.parameters(), strict=True))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(train, "_train_epoch", refuse)  # what is stored is loaded
    again, same = trained(tiny, "ig_norm", 0, training, "cpu")
    assert same == loss
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_networks_take_their_images() -> None:
    for size in (28, 32):
        for stride in (2, 4):
            assert small_cnn(size=size, stride=stride, seed=0)(torch.rand(2, 1, size, size)).shape == (2, 10)
    first, same, other = (madry_cnn(seed=seed) for seed in (0, 0, 1))
    assert first(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert torch.equal(first[0].weight, same[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert not any(part.requires_grad for part in first.parameters())


@pytest.mark.parametrize("name", DEFENSE_TABLE)
def test_profiles_name_what_there_is(name: str) -> None:
    profile = DEFENSE_TABLE[name]
    assert profile.data in datasets.LOADERS
    assert NETWORKS[profile.network](**profile.network_options, seed=0)
    required = {
        "natural", "adversarial", "ig_norm", "ig_sum_norm", "input_gradient", "spectral", "softplus", "discretized",
    }  # fmt: skip
    assert required <= set(profile.defenses)
    size = profile.network_options.get("size", 28)
    images, labels = torch.rand(8, 1, size, size), torch.arange(8)
    for defense in profile.defenses.values():
        few = replace(defense, options={
            key: min(value, 2) if key in ("iterations", "steps", "inner_steps") else value
            for key, value in defense.options.items()
        })  # fmt: skip
        model: nn.Module = small_cnn(size=size, stride=4, seed=0)
        assert training_cost(few, model, images, labels) >= 0
        assert not any(part.requires_grad for part in model.parameters())
    if name != "fast":
        assert len(profile.seeds) >= 5
        assert profile.images >= 500


def test_other_settings_never_mix(tiny: Profile, folder: Path) -> None:
    one = replace(tiny, defenses={"softplus_untrained": Defense(None, beta=4.0)}, seeds=(0,))
    complete_in(folder, one)
    other = replace(one, defenses={"softplus_untrained": Defense(None, beta=5.0)})
    with pytest.raises(ValueError, match="made with other parameters"):
        complete_in(folder, other)
    assert asdict(one)["defenses"]["softplus_untrained"]["beta"] == 4.0
    assert "defense_table" in STUDIES


def test_the_stand_in_for_kendalls_tau() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(3, 10, 10, generator=generator, dtype=torch.float64)
    tied = torch.ones_like(reference)
    value = soft_kendall()
    assert value(reference, tied).abs().max() == 0 or value(reference, tied).isnan().all()
    same, reverse = value(1e6 * reference, reference), value(-1e6 * reference, reference)
    assert (same < -0.97).all()  # all pairs but those of a pixel with itself
    torch.testing.assert_close(same, -reverse)
    other = torch.rand(3, 10, 10, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(-value(1e6 * other, reference), kendall(other, reference), rtol=0, atol=0.06)
    x = reference.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(x, reference).sum(), x)
    assert (slope != 0).any()
