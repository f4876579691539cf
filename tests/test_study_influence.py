"""The studies of chapter 3: their rows against direct calls of the library, and other ways to the same numbers."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from fragility import network, train
from fragility.attack import random_sign
from fragility.data import datasets
from fragility.influence.last_layer import LastLayerInfluence
from fragility.similarity import spearman, top_k_intersection
from fragility.study.catalogue import STUDIES
from fragility.study.influence import manipulated_influence, mislabel, poisoning
from fragility.study.influence.bregman import bregman_response
from fragility.study.influence.leave_sets_out import draw as draw_sets
from fragility.study.influence.setup import SOURCES, load
from fragility.study.piece import Plan, Row, generator

pytestmark = pytest.mark.usefixtures("double_digits")
SOURCE = SOURCES["fast"]


@cache
def plan(study: str) -> Plan:
    return STUDIES[study].plan(STUDIES[study].profiles["fast"])


@cache
def rows(study: str) -> list[Row]:
    return [row for piece in plan(study).pieces for row in plan(study).compute(piece)]


@cache
def attacked(condition: str) -> list[Row]:
    wanted = {"condition": condition, "epsilon": 51.0, "l2": 1e-2}
    pieces = [piece for piece in plan("influence_attack").pieces if wanted.items() <= piece.items()]
    return [row for piece in pieces for row in plan("influence_attack").compute(piece)]


def column(table: list[Row], name: str) -> list[Any]:
    return [row[name] for row in table]


@cache
def features() -> tuple[nn.Module, Tensor, Tensor]:
    """Backbone, training features and labels, without the studies' code."""
    digits = datasets.digits("train")
    model = network.digits_cnn()
    train.fit_cached(model, digits.images, digits.labels, epochs=12, progress=False)
    backbone = network.feature_extractor(model)
    kept = (digits.labels == 3) | (digits.labels == 8)
    return backbone, backbone(digits.images[kept]), (digits.labels[kept] == 8).long()


@cache
def by_hand() -> tuple[nn.Module, LastLayerInfluence, Tensor, Tensor]:
    """Backbone, layer, test images and their predictions."""
    backbone, phi, labels = features()
    layer = LastLayerInfluence(phi, labels, l2=1e-2, num_classes=2)
    test = datasets.digits("test")
    images = test.images[[test.files.index(name) for name in column(attacked("eq2"), "image")]]
    return backbone, layer, images, layer.logits(backbone(images)).argmax(1)


def expected(changed: Tensor) -> dict[str, Tensor]:
    backbone, layer, images, y = by_hand()
    old, new = (layer.influence(backbone(x), y) for x in (images, changed))
    top = old.topk(3).indices
    return {
        "spearman": spearman(old, new),
        "top5_overlap": top_k_intersection(old, new, 5),
        "ratio_top3": new.gather(1, top).sum(1) / old.gather(1, top).sum(1),
    }


def lower_top_3(backbone: nn.Module, layer: LastLayerInfluence, x: Tensor, y: Tensor) -> Tensor:
    top = layer.influence(backbone(x.detach()), y).topk(3).indices
    return -layer.influence(backbone(x), y).gather(1, top).sum()


def raise_confidence(backbone: nn.Module, layer: LastLayerInfluence, x: Tensor, y: Tensor) -> Tensor:
    return -cross_entropy(layer.logits(backbone(x)), y)


@pytest.mark.parametrize(("condition", "aim"), [("eq2", lower_top_3), ("confidence", raise_confidence)])
def test_a_condition_is_one_step_towards_its_aim(condition: str, aim: Any) -> None:
    backbone, layer, images, y = by_hand()
    x = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(aim(backbone, layer, x, y), x)
    changed = (images + 51 / 255 * slope.sign()).clamp(0, 1)
    kept = layer.logits(backbone(changed)).argmax(1) == y
    found = attacked(condition)
    assert column(found, "labels_kept") == kept.tolist()
    assert column(found, "label") == y.tolist()
    for name, values in expected(torch.where(kept.view(-1, 1, 1, 1), changed, images)).items():
        assert column(found, name) == pytest.approx(values.tolist())
    assert column(found, "spearman_float32") == pytest.approx(column(found, "spearman"), abs=0.01)
    if condition == "confidence":
        assert all(row["confidence_after"] > row["confidence_before"] for row in found)


def test_random_rows_are_one_draw_and_an_images_own() -> None:
    _, _, images, _ = by_hand()
    found = attacked("random")
    draws = [
        random_sign(image.unsqueeze(0), 51 / 255, generator=generator(0, name))
        for image, name in zip(images, column(found, "image"), strict=True)
    ]
    for row, value in zip(found, expected(torch.cat(draws))["spearman"].tolist(), strict=True):
        assert row["spearman"] == pytest.approx(value if row["labels_kept"] else 1.0)


def test_an_image_that_loses_its_label_counts_as_unchanged() -> None:
    frozen = attacked("frozen_residual")
    lost = [row for row in frozen if not row["labels_kept"]]
    assert lost, "the condition of which this is known to happen"
    for row in lost:
        assert (row["spearman"], row["top5_overlap"], row["ratio_top3"]) == pytest.approx((1, 1, 1))
        assert row["confidence_after"] == row["confidence_before"]
    assert len(frozen) == SOURCE.tests


def test_training_test_and_validation_images_are_apart() -> None:
    test, validation = (set(load(SOURCE, split).files) for split in ("test", "validation"))
    assert not test & validation
    training = load(SOURCE, "train")
    assert set(training.labels.tolist()) == {0, 1}
    assert training.class_names == ("3", "8")
    assert set(column(attacked("eq2"), "image")) <= test


def test_leave_one_out_rows_are_the_librarys() -> None:
    found = rows("leave_one_out")
    backbone, layer, _, _ = by_hand()
    test = load(SOURCE, "test")
    where = test.files.index(str(found[0]["image"]))
    phi, label = backbone(test.images[where : where + 1]), test.labels[where : where + 1]
    truth = layer.leave_one_out(phi, label, torch.arange(len(layer.labels)))
    for end, corrected in (("", False), ("_corrected", True)):
        pair = torch.stack([layer.influence(phi, label, corrected=corrected)[0], truth[0]])
        assert found[0][f"r{end}"] == pytest.approx(torch.corrcoef(pair)[0, 1].item())
        assert found[0][f"slope{end}"] == pytest.approx((torch.cov(pair)[0, 1] / torch.cov(pair)[0, 0]).item())
    assert (len(found), found[0]["pairs"]) == (12, len(layer.labels))


@pytest.mark.parametrize("chosen", ["random", "alike"])
def test_sets_left_out_by_training_without_them(chosen: str) -> None:
    (piece,) = [piece for piece in plan("leave_sets_out").pieces if piece["chosen"] == chosen]
    found: list[dict[str, Any]] = plan("leave_sets_out").compute(piece)
    backbone, phi, labels = features()
    layer, test = LastLayerInfluence(phi, labels, l2=1e-2, num_classes=2), load(SOURCE, "test")
    where = [test.files.index(row["image"]) for row in found]
    asked, truth = backbone(test.images[where]), test.labels[where]
    before = cross_entropy(layer.logits(asked), truth, reduction="none")
    sets, changes = draw_sets(layer.features, piece), []
    assert (len(sets), len(found)) == (50, 12)
    for left_out in sets.tolist():
        assert len(set(left_out)) == 10
        rest = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, torch.tensor(left_out), False)
        other = LastLayerInfluence(phi[rest], labels[rest], l2=1e-2 * len(labels) / int(rest.sum()), num_classes=2)
        changes.append(cross_entropy(other.logits(asked), truth, reduction="none") - before)
    true = torch.stack(changes, 1).detach().numpy()
    hats = 1 - layer.leverage()  # of two classes: what a Newton step without the image divides by
    plain = layer.influence(asked, truth)
    for end, single in (("", plain), ("_rescaled", plain / hats)):
        summed = torch.stack([single[:, left_out].sum(1) for left_out in sets.tolist()], 1).detach().numpy()
        # Of test images whose loss is hardly there the subtraction above keeps too few digits.
        for row, x, y in [part for part in zip(found, summed, true, strict=True) if part[0]["largest_change"] > 1e-7]:
            assert row[f"slope{end}"] == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-4)
            assert row[f"r{end}"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-4)
    if chosen == "alike":
        apart = [float((layer.features[row[0]] - layer.features[row]).norm(dim=1).max()) for row in sets]
        others = [float(torch.cdist(layer.features[row[:1]], layer.features)[0].sort().values[9]) for row in sets]
        assert apart == pytest.approx(others)


def test_influence_away_from_the_minimum_by_automatic_differentiation() -> None:
    draws = generator("away")
    x, w = torch.randn(13, 4, generator=draws, dtype=torch.float64), torch.randn(4, generator=draws).double()
    labels = torch.arange(13) % 2

    def losses(theta: Tensor) -> Tensor:
        return cross_entropy(x @ theta.view(2, -1).T, labels, reduction="none")

    theta, derivatives = torch.cat([-w / 2, w / 2]), torch.autograd.functional
    hessian = derivatives.hessian(lambda t: losses(t)[:12].mean() + 0.05 * t.square().sum(), theta)
    gradients = derivatives.jacobian(losses, theta)
    expected = gradients[12] @ torch.linalg.solve(hessian, gradients[:12].T) / 12
    found = manipulated_influence.influences(w, x[:12], labels[:12].double(), x[12], labels[12], 0.1)
    assert found.tolist() == pytest.approx(expected.tolist())


def test_a_trainer_moves_ranks_and_training_on_undoes_it() -> None:
    found: list[dict[str, Any]] = [row for row in rows("manipulated_influence") if row["who"] == "trainer"]
    succeeded = [row for row in found if row["after"] <= 3]
    assert 0 < len(succeeded) < len(found) == 12
    for row in found:
        assert row["undone"] == row["before"] > 3
        assert row["change"] <= 0.5 + 1e-9
    assert all(row["change"] > 0 for row in succeeded)
    assert all((row["after"], row["change"]) == (row["before"], 0) for row in found if row not in succeeded)


def test_a_contributors_pay_by_hand() -> None:
    table: list[dict[str, Any]] = list(rows("manipulated_influence"))
    own = {row["who"]: row for row in table if row["image"] == "draw 0"}
    _, phi, labels = features()
    layer, test = LastLayerInfluence(phi, labels, l2=1e-2, num_classes=2), plan("manipulated_influence").ready
    chosen = set(torch.randperm(len(labels), generator=generator(0, "draw 0"))[:6].tolist())
    helpful = layer.influence(test.test, test.images.labels).argsort(1, descending=True)[:, :10]
    assert own["contributor"]["before"] == own["noise"]["before"]
    assert own["noise"]["before"] == pytest.approx(np.mean([[i in chosen for i in row] for row in helpful.tolist()]))
    assert own["contributor"]["after"] > own["noise"]["after"]
    assert [row["change"] for row in own.values()] == pytest.approx([51, 51])


def test_harder_images_have_larger_losses_within_the_ball() -> None:
    ready, (backbone, layer, images, y) = plan("manipulated_influence").ready, by_hand()
    changed = manipulated_influence.harder(ready, layer, images, y, 8 / 255, 3)
    before, after = (cross_entropy(layer.logits(backbone(x)), y, reduction="none") for x in (images, changed))
    assert (after > before).all()
    assert (changed - images).abs().max() == pytest.approx(6 / 255, rel=1e-5)


@pytest.mark.parametrize("factor", [1, 10])
def test_the_bregman_response_is_stationary(factor: int) -> None:
    draws = generator("bregman")
    x, labels = torch.randn(30, 4, generator=draws, dtype=torch.float64), torch.arange(30) % 2
    start = LastLayerInfluence(x[:, :3], labels, l2=0.1, num_classes=2).theta
    x = pad(x[:, :3], (0, 1), value=1.0)
    found = bregman_response(x, labels, start, 7, 0.1 * factor)

    def gradient(theta: Tensor, weights: Tensor) -> Tensor:
        return torch.func.grad(lambda t: weights @ cross_entropy(x @ t.T, labels, reduction="none") / 30)(theta)

    everyone = torch.ones(30).double()
    rest = everyone.index_fill(0, torch.tensor(7), 0.0)
    at = gradient(found, rest) - gradient(start, everyone) + 0.1 * factor * (found - start)
    assert at.abs().max() < 1e-6 * (found - start).abs().max()


def test_wrong_labels_against_the_roc_curve() -> None:
    _, phi, labels = features()
    n = len(labels)
    for draw in ("0", "9"):
        flipped = torch.randperm(n, generator=generator(0, draw))[: n // 10]
        wrong = torch.zeros(n, dtype=torch.long).index_fill_(0, flipped, 1)
        layer = LastLayerInfluence(phi, labels ^ wrong, l2=1e-2, num_classes=2)
        scores = {
            "self_influence": layer.influence(layer.features, layer.labels).diagonal(),
            "loss": -layer.logits(layer.features).log_softmax(1).gather(1, layer.labels.unsqueeze(1)).squeeze(1),
            "leverage": layer.leverage(),
        }
        for order, score in scores.items():
            (row,) = [row for row in rows("mislabel") if (row["image"], row["order"]) == (draw, order)]
            # The area under "found against checked" is one under "found against falsely suspected", rescaled.
            share = len(flipped) / n
            area = roc_auc_score(wrong, score.detach()) * (1 - share) + share / 2
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
    assert len(set(chance.tolist())) == len(chance) == 10
    assert (chance.mean() - 0.5).abs() < 4 * chance.std() / 10**0.5


def test_the_chosen_training_image_by_automatic_differentiation() -> None:
    draws = generator("strongest")
    x = torch.randn(12, 4, generator=draws, dtype=torch.float64)
    labels = torch.arange(12) % 3
    layer = LastLayerInfluence(x, labels, l2=0.1, num_classes=3)

    def loss(theta: Tensor, point: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(pad(point, (0, 1), value=1.0) @ theta.view(3, -1).T, label)

    theta = layer.theta.flatten()
    hessian = torch.autograd.functional.hessian(lambda t: loss(t, x, labels) + 0.05 * t.square().sum(), theta)
    for number in range(5):
        test, label = torch.randn(1, 4, generator=draws, dtype=torch.float64), torch.tensor([number % 3])
        slope = torch.autograd.functional.jacobian(lambda t, at=(test, label): loss(t, *at), theta)
        direction = torch.linalg.solve(hessian, slope)
        sizes = []
        for i in range(12):
            point, place = x[i : i + 1].clone().requires_grad_(), theta.clone().requires_grad_()
            (own,) = torch.autograd.grad(loss(place, point, labels[i : i + 1]), place, create_graph=True)
            sizes.append(torch.autograd.grad(own @ direction, point)[0].norm())
        assert poisoning.strongest(layer, test, label, labels) == int(torch.stack(sizes).argmax())


def test_a_poisoned_row_by_hand_and_by_another_solver() -> None:
    piece = plan("poisoning").pieces[-1] | {"iterations": 1}
    training, tests = load(SOURCE, "train"), [load(SOURCE, split) for split in ("test", "validation")]
    names, images = [*tests[0].files, *tests[1].files], torch.cat([split.images for split in tests])
    backbone, phi, labels = features()
    layer = LastLayerInfluence(phi, labels, l2=1e-2, num_classes=2)
    for row in plan("poisoning").compute(piece)[:3]:
        where, index = names.index(str(row["image"])), training.files.index(str(row["training_image"]))
        test, label = backbone(images[where : where + 1]).detach(), torch.tensor([row["label"]])
        x = training.images[index : index + 1].clone().requires_grad_()
        own = backbone(x)
        residual = layer.logits(own).softmax(1) - torch.eye(2).double()[labels[index]]
        influence = residual @ layer.sensitivity(test, label)[0] @ pad(own, (0, 1), value=1.0).T
        (slope,) = torch.autograd.grad(influence.sum(), x)
        changed = (x - row["epsilon"] / 255 * slope.sign()).clamp(0, 1).detach()
        inputs = phi.detach().index_copy(0, torch.tensor([index]), backbone(changed).detach())
        # Two rows that sum to zero have half the squared norm of their difference, which is what this solver knows.
        other = LogisticRegression(C=2 / (1e-2 * len(labels)), fit_intercept=False, tol=1e-10, max_iter=10_000)
        other.fit(pad(inputs, (0, 1), value=1.0).numpy(), labels.numpy())
        after = other.predict_proba(pad(test, (0, 1), value=1.0).numpy())[0, label.item()]
        assert row["confidence_after"] == pytest.approx(after, abs=1e-4)
        assert row["flipped"] == (after < 0.5)
        assert row["change"] == pytest.approx(255 * float((changed - x.detach()).abs().max()))


def test_poisoned_rows_are_of_correctly_classified_images() -> None:
    found: list[dict[str, Any]] = list(rows("poisoning"))
    assert len(found) == 2 * len({row["image"] for row in found}) == 40
    for row in found:
        assert row["confidence_before"] > 0.5
        assert row["flipped"] == (row["confidence_after"] < 0.5)
        assert 0 < row["change"] <= row["epsilon"] + 1e-3
        assert row["iterations"] == 2 or row["flipped"]


def test_without_hidden_layers_depth_rows_are_the_last_layers() -> None:
    digits = load(SOURCE, "train")
    images = avg_pool2d(digits.images, 8).flatten(1).double()
    images = images - images.mean(0)
    for draw in ("0", "1"):
        row: dict[str, Any]
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
        assert row["noise_floor"] < 1e-4 * row["mean_change"]
        assert row["ceiling"] == pytest.approx(1, abs=1e-6)
