"""Wrong labels, one changed training image, and depth: the studies' rows against other ways to the same numbers."""

from functools import cache

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from fragility import train
from fragility.influence.last_layer import LastLayerInfluence
from fragility.study import STUDIES, depth, features, mislabel, poisoning
from fragility.study.influence_attack import PROFILES
from fragility.study.store import Plan, Row

pytestmark = pytest.mark.usefixtures("double_digits")


@cache
def plan(study: str) -> Plan:
    chosen = STUDIES[study]
    return chosen.plan(chosen.profiles["fast"], "cpu")


@cache
def rows(study: str) -> list[Row]:
    return [row for piece in plan(study).pieces for row in plan(study).compute(piece)]


@cache
def ready() -> features.Ready:
    return features.prepare(PROFILES["fast"])


def generator(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(int(train.fingerprint(*names)[:15], 16))


def test_wrong_labels_against_the_roc_curve() -> None:
    n = len(ready().labels)
    for draw in ("0", "9"):
        flipped = torch.randperm(n, generator=generator(0, draw))[: n // 10]
        wrong = torch.zeros(n, dtype=torch.long).index_fill_(0, flipped, 1)
        layer = LastLayerInfluence(ready().features, ready().labels ^ wrong, l2=1e-2, num_classes=2)
        scores = {
            "self_influence": layer.influence(layer.features, layer.labels).diagonal(),
            "loss": -layer.logits(layer.features).log_softmax(1).gather(1, layer.labels.unsqueeze(1)).squeeze(1),
            "leverage": layer.leverage(),
        }
        for order, score in scores.items():
            (row,) = [row for row in rows("mislabel") if (row["image"], row["order"]) == (draw, order)]
            # The area under "found against checked" is one under "found against falsely suspected", rescaled.
            share = len(flipped) / n
            area = roc_auc_score(wrong, score) * (1 - share) + share / 2
            assert row["auc"] == pytest.approx((n * area + 0.5) / (n + 1), rel=1e-6)
            assert (row["flips"], row["training_images"]) == (len(flipped), n)


def test_the_curve_of_flips_found() -> None:
    found = mislabel.found(torch.tensor([0.1, 0.9, 0.5, 0.7]), torch.tensor([1, 2]))
    assert found.tolist() == [0, 0.5, 0.5, 1, 1]
    for row in rows("mislabel"):
        curve = [float(share) for share in str(row["found"]).split()]
        assert len(curve) == mislabel.STEPS + 1
        assert curve == sorted(curve)
        assert (curve[0], curve[-1]) == (0, 1)
    chance = torch.tensor([row["auc"] for row in rows("mislabel") if row["order"] == "random"])
    assert len(chance) == len({row["auc"] for row in rows("mislabel") if row["order"] == "random"}) == 10
    assert (chance.mean() - 0.5).abs() < 4 * chance.std() / 10**0.5


def test_the_chosen_training_image_by_automatic_differentiation() -> None:
    draws = generator("strongest")
    x = torch.randn(12, 4, generator=draws, dtype=torch.float64)
    labels = torch.arange(12) % 3
    layer = LastLayerInfluence(x, labels, l2=0.1, num_classes=3)

    def loss(theta: torch.Tensor, point: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(pad(point, (0, 1), value=1.0) @ theta.view(3, -1).T, label)

    theta = layer.theta.flatten()
    hessian = torch.autograd.functional.hessian(lambda t: loss(t, x, labels) + 0.05 * t.square().sum(), theta)
    for number in range(5):
        test, label = torch.randn(1, 4, generator=draws, dtype=torch.float64), torch.tensor([number % 3])
        slope = torch.autograd.functional.jacobian(lambda t, at=(test, label): loss(t, *at), theta)
        direction = torch.linalg.solve(hessian, slope)
        sizes = []
        for i in range(12):
            point = x[i : i + 1].clone().requires_grad_()
            place = theta.clone().requires_grad_()
            (own,) = torch.autograd.grad(loss(place, point, labels[i : i + 1]), place, create_graph=True)
            sizes.append(torch.autograd.grad(own @ direction, point)[0].norm())
        assert poisoning.strongest(layer, test, label, labels) == int(torch.stack(sizes).argmax())


def test_a_poisoned_row_by_hand_and_by_another_solver() -> None:
    piece = plan("poisoning").pieces[-1] | {"iterations": 1}
    training = features.part(PROFILES["fast"], "train")
    names = [*features.part(PROFILES["fast"], "test").files, *features.part(PROFILES["fast"], "validation").files]
    images = torch.cat([features.part(PROFILES["fast"], split).images for split in ("test", "validation")])
    layer = LastLayerInfluence(ready().features, ready().labels, l2=1e-2, num_classes=2)
    n = len(ready().labels)
    for row in plan("poisoning").compute(piece)[:3]:
        where, index = names.index(str(row["image"])), training.files.index(str(row["training_image"]))
        with torch.no_grad():
            test = ready().backbone(images[where : where + 1]).double()
        label = torch.tensor([row["label"]])
        change = layer.sensitivity(test, label)[0]
        x = training.images[index : index + 1].clone().requires_grad_()
        phi = ready().backbone(x).double()
        residual = layer.logits(phi).softmax(1) - torch.eye(2).double()[ready().labels[index]]
        (residual @ change @ pad(phi, (0, 1), value=1.0).T).sum().backward()
        assert x.grad is not None
        changed = (x - float(row["epsilon"] or 0) / 255 * x.grad.sign()).clamp(0, 1).detach()
        inputs = layer.features.clone()
        with torch.no_grad():
            inputs[index] = ready().backbone(changed)[0].double()
        # Two rows that sum to zero have half the squared norm of their difference, which is what this solver knows.
        other = LogisticRegression(C=2 / (1e-2 * n), fit_intercept=False, tol=1e-10, max_iter=10_000)
        other.fit(pad(inputs, (0, 1), value=1.0).numpy(), ready().labels.numpy())
        after = other.predict_proba(pad(test, (0, 1), value=1.0).numpy())[0, int(row["label"] or 0)]
        assert row["confidence_after"] == pytest.approx(after, abs=1e-4)
        assert row["flipped"] == (after < 0.5)
        assert row["change"] == pytest.approx(255 * float((changed - x.detach()).abs().max()))


def test_poisoned_rows_are_of_correctly_classified_images() -> None:
    mine = rows("poisoning")
    assert len(mine) == 2 * len({row["image"] for row in mine}) == 40
    for row in mine:
        assert float(row["confidence_before"] or 0) > 0.5
        assert row["flipped"] == (float(row["confidence_after"] or 0) < 0.5)
        assert 0 < float(row["change"] or 0) <= float(row["epsilon"] or 0) + 1e-3
        assert row["iterations"] == 2 or row["flipped"]


def test_without_hidden_layers_depth_rows_are_the_last_layers() -> None:
    digits = features.part(PROFILES["fast"], "train")
    images = avg_pool2d(digits.images, 8).flatten(1).double()
    images = images - images.mean(0)
    for draw in ("0", "1"):
        (row,) = [row for row in rows("depth") if (row["image"], row["depth"]) == (draw, 0)]
        drawn = torch.randperm(len(images), generator=generator(0, draw))
        training, tests = drawn[:60], drawn[60:70]
        layer = LastLayerInfluence(images[training], digits.labels[training], l2=1e-2, num_classes=2)
        predicted = layer.influence(images[tests], digits.labels[tests])
        largest = predicted.abs().sum(0).topk(8).indices
        true = layer.leave_one_out(images[tests], digits.labels[tests], largest)
        r = torch.corrcoef(torch.stack([predicted[:, largest].flatten(), true.flatten()]))[0, 1]
        assert row["r"] == pytest.approx(r.item(), abs=1e-3)
        assert row["mean_change"] == pytest.approx(true.abs().mean().item(), rel=1e-4)
        # A convex problem: from wherever it starts, training comes back.
        assert row["converged"]
        assert float(row["noise_floor"] or 0) < 1e-4 * float(row["mean_change"] or 0)
        assert row["ceiling"] == pytest.approx(1, abs=1e-6)


def test_hidden_layers_are_trained_and_left_out_as_well() -> None:
    deep = [row for row in rows("depth") if row["depth"] == 1]
    assert len(deep) == 2
    for row in deep:
        assert row["pairs"] == 80
        assert 0 <= float(row["ceiling"] or 0) <= 1
        assert abs(float(row["r"] or 0)) <= 1
        assert row["converged"] == (float(row["gradient"] or 0) <= depth.SMALL_GRADIENT)


def test_profiles_ask_for_what_the_rules_need() -> None:
    for profile in ("laptop", "paper"):
        assert mislabel.PROFILES[profile].batch == 10
        assert poisoning.PROFILES[profile].tests == 200
        assert 0.5 in poisoning.PROFILES[profile].sweep[0][1]
        settings = depth.PROFILES[profile]
        assert (settings.draws, settings.depths, settings.decays) == (10, (0, 1, 2), (1e-2, 1e-3, 1e-4))
