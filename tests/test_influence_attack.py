"""Attacks on influence: the gradient by finite differences through pixels, signs, the ball, labels, and retraining."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fragility.influence.attack import judge, lower_influence, raise_confidence, sign_attack, training_attack
from fragility.influence.last_layer import LastLayerInfluence

EPSILON = 8 / 255


class Setup:
    """A smooth backbone, a layer fitted to its features, and test images with the labels that the layer predicts."""

    def __init__(self, classes: int = 2) -> None:
        generator = torch.Generator().manual_seed(classes)
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh())
        self.backbone = layers.double().eval()
        images = torch.rand(60, 1, 6, 6, generator=generator, dtype=torch.float64)
        labels = (images.mean((1, 2, 3)).argsort().argsort() * classes // 60).long()
        self.images, self.labels = images[:50], labels[:50]
        with torch.no_grad():
            self.features = self.backbone(self.images)
            self.layer = LastLayerInfluence(self.features, self.labels, l2=1e-3, num_classes=classes)
            self.test = images[50:]
            self.test_features = self.backbone(self.test)
            self.predicted = self.layer.logits(self.test_features).argmax(1)
        self.top = self.layer.influence(self.test_features, self.predicted).topk(3).indices

    def summed(self, x: Tensor) -> Tensor:
        return self.layer.influence(self.backbone(x), self.predicted).gather(1, self.top).sum(1)


@pytest.fixture(params=[2, 3])
def setup(request: pytest.FixtureRequest) -> Setup:
    return Setup(request.param)


def test_the_objective_is_minus_the_summed_influence_and_so_is_its_gradient_in_pixels(setup: Setup) -> None:
    objective = lower_influence(setup.layer, setup.predicted, setup.layer.parameter_change(setup.top))
    x = setup.test.clone().requires_grad_()
    values = objective(setup.backbone(x))
    assert torch.allclose(-values, setup.summed(setup.test), rtol=1e-10)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    for row, column in ((0, 0), (2, 5), (3, 3)):
        bump = torch.zeros_like(setup.test)
        bump[:, 0, row, column] = 1e-5
        with torch.no_grad():
            slope = -(setup.summed(setup.test + bump) - setup.summed(setup.test - bump)) / 2e-5
        assert torch.allclose(gradient[:, 0, row, column], slope, rtol=1e-5, atol=1e-9)
    # the closed form gives the same direction in feature space
    features = setup.test_features.clone().requires_grad_()
    (by_feature,) = torch.autograd.grad(objective(features).sum(), features)
    closed = setup.layer.feature_gradient(setup.test_features, setup.predicted, setup.top)
    assert torch.allclose(by_feature, -closed, rtol=1e-10)


def test_eq_2_is_its_two_parts_frozen_residual_and_change_of_the_residual(setup: Setup) -> None:
    layer, features = setup.layer, setup.test_features.clone().requires_grad_()
    change = layer.parameter_change(setup.top)
    fixed = layer.logits(setup.test_features).softmax(1) - one_hot(setup.predicted, layer.num_classes)
    frozen = lower_influence(layer, setup.predicted, change, fixed_residuals=fixed)
    (part,) = torch.autograd.grad(frozen(features).sum(), features)
    assert torch.allclose(part, -torch.einsum("bk,bkp->bp", fixed, change[:, :, :-1]), rtol=1e-10)
    (whole,) = torch.autograd.grad(lower_influence(layer, setup.predicted, change)(features).sum(), features)
    assert not torch.allclose(whole, part)
    if layer.num_classes == 2:  # binary: the rest points where the confidence rises
        (confidence,) = torch.autograd.grad(raise_confidence(layer, setup.predicted)(features).sum(), features)
        cosine = torch.nn.functional.cosine_similarity(whole - part, confidence)
        assert torch.allclose(cosine.abs(), torch.ones(10).double())


def test_one_step_is_eq_2_with_the_sign_that_lowers_influence(setup: Setup) -> None:
    objective = lower_influence(setup.layer, setup.predicted, setup.layer.parameter_change(setup.top))
    found = sign_attack(setup.backbone, setup.layer, setup.test, objective=objective, epsilon=EPSILON)
    x = setup.test.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(setup.summed(x).sum(), x)
    by_hand = (setup.test - EPSILON * gradient.sign()).clamp(0, 1)
    kept = found.labels_kept
    assert kept.any()
    assert torch.allclose(found.images[kept], by_hand[kept], atol=1e-15)
    assert torch.equal(found.images[~kept], setup.test[~kept])
    assert (setup.summed(found.images) < setup.summed(setup.test))[kept].all()


def test_more_steps_stay_in_the_ball_and_get_further(setup: Setup) -> None:
    objective = lower_influence(setup.layer, setup.predicted, setup.layer.parameter_change(setup.top))
    options = {"objective": objective, "epsilon": EPSILON}
    one = sign_attack(setup.backbone, setup.layer, setup.test, **options)
    many = sign_attack(setup.backbone, setup.layer, setup.test, step_size=EPSILON / 4, iterations=12, **options)
    assert many.distance.max() <= EPSILON
    assert 0 <= many.images.min() <= many.images.max() <= 1
    both = one.labels_kept & many.labels_kept
    assert many.objective[both].mean() > one.objective[both].mean()
    with torch.no_grad():
        assert torch.allclose(objective(setup.backbone(many.images))[both], many.objective[both])
        after = setup.layer.logits(setup.backbone(many.images)).softmax(1)
    assert torch.allclose(after.gather(1, setup.predicted.unsqueeze(1)).squeeze(1), many.confidence_after)
    assert (after.argmax(1) == setup.predicted).all()


def test_an_image_that_loses_its_label_comes_back_unchanged() -> None:
    setup = Setup()
    fitted = setup.layer.logits(setup.features).argmax(1)
    flip = setup.images[fitted != setup.predicted[0]][:1].expand(10, -1, -1, -1)
    found = judge(setup.backbone, setup.layer, setup.test, [flip, setup.test])
    lost = ~found.labels_kept
    assert lost[0]
    assert torch.equal(found.images[lost], setup.test[lost])
    assert (found.iteration[lost] == 0).all()
    assert torch.equal(found.confidence_after[lost], found.confidence_before[lost])
    assert torch.equal(found.iteration[~lost], torch.ones_like(found.iteration[~lost]))


def test_one_image_without_a_finite_gradient_does_not_cost_the_others_theirs() -> None:
    class Rooted(nn.Module):
        """The root of a pixel, whose slope is infinite in a black image; overwrites its input."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images.sqrt_())

    setup = Setup()
    backbone, images = Rooted(setup.backbone).eval(), setup.test.square()
    images[3] = 0
    before = images.clone()
    objective = raise_confidence(setup.layer, setup.layer.logits(backbone(images.clone())).argmax(1))
    found = sign_attack(backbone, setup.layer, images, objective=objective, epsilon=1e-3, step_size=1e-4, iterations=3)
    assert torch.equal(images, before)
    assert found.labels_kept.tolist() == [number != 3 for number in range(10)]
    assert torch.equal(found.images[3], images[3])
    alone = sign_attack(
        backbone, setup.layer, images[:3], objective=raise_confidence(setup.layer, setup.predicted[:3]),
        epsilon=1e-3, step_size=1e-4, iterations=3,
    )  # fmt: skip
    assert torch.equal(alone.images, found.images[:3])
    black = images[3:4].expand(10, -1, -1, -1)
    with pytest.raises(ValueError, match="objective: expected a finite gradient"):
        sign_attack(backbone, setup.layer, black, objective=objective, epsilon=1e-3)


def test_the_training_attacks_gradient_is_the_effect_of_retraining() -> None:
    setup = Setup()
    index, label, target = 7, setup.labels[7:8], setup.predicted[:1]
    objective = lower_influence(setup.layer, label, setup.layer.sensitivity(setup.test_features[:1], target))
    x = setup.images[index : index + 1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(setup.backbone(x)).sum(), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(step: float) -> Tensor:
        features = setup.features.clone()
        features[index] = setup.backbone(x + step * direction)[0]
        layer = LastLayerInfluence(features, setup.labels, l2=1e-3, num_classes=2)
        return torch.nn.functional.cross_entropy(layer.logits(setup.test_features[:1]), target)

    with torch.no_grad():
        slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_a_poisoned_training_image_flips_the_prediction_of_the_layer_trained_on_it() -> None:
    setup = Setup()
    margin = setup.layer.logits(setup.test_features).diff(dim=1).abs().squeeze(1)
    target = int(margin.argmin())
    one = slice(target, target + 1)
    self_influence = setup.layer.influence(setup.test_features[one], setup.predicted[one]).abs()
    index = int(self_influence.argmax())
    options = {"epsilon": 0.5, "step_size": 0.02, "iterations": 40}
    test = (setup.test_features[one], setup.predicted[one])
    found = training_attack(setup.backbone, setup.layer, setup.images[index : index + 1], index, *test, **options)
    assert found.flipped
    assert 0 < found.iterations <= 40
    assert (found.image - setup.images[index]).abs().max() <= 0.5
    rows = torch.arange(50) != index
    assert torch.equal(found.features[rows], setup.features[rows])
    with torch.no_grad():
        assert torch.allclose(found.features[index], setup.backbone(found.image)[0])
    again = LastLayerInfluence(found.features, setup.labels, l2=1e-3, num_classes=2)
    assert again.logits(setup.test_features[one]).argmax() != setup.predicted[target]
    weak = training_attack(
        setup.backbone, setup.layer, setup.images[index : index + 1], index, *test,
        epsilon=1e-9, step_size=1e-9, iterations=2,
    )  # fmt: skip
    assert (weak.flipped, weak.iterations) == (False, 2)


def test_parameters_are_left_as_they_were_and_bad_input_is_refused() -> None:
    setup = Setup()
    objective = raise_confidence(setup.layer, setup.predicted)
    sign_attack(setup.backbone, setup.layer, setup.test, objective=objective, epsilon=EPSILON)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in setup.backbone.parameters())
    options = {"objective": objective, "epsilon": EPSILON}
    change_of_one = setup.layer.parameter_change(setup.top[:1])
    for change, message in [
        ({"epsilon": 0.0}, "epsilon: expected"),
        ({"step_size": -1.0}, "step_size: expected"),
        ({"iterations": 0}, "iterations: expected"),
        ({"objective": lambda features: features}, r"objective: expected one value per image"),
        ({"objective": lambda features: features.sum(1) * 0}, r"objective: expected a finite gradient"),
        ({"objective": raise_confidence(setup.layer, setup.predicted[:1])}, r"labels: expected shape \(10,\)"),
        ({"objective": lower_influence(setup.layer, setup.predicted[:1], change_of_one)}, "labels: expected shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            sign_attack(setup.backbone, setup.layer, setup.test, **{**options, **change})
    with pytest.raises(ValueError, match="images: expected pixels"):
        sign_attack(setup.backbone, setup.layer, setup.test + 1, **options)
    setup.backbone.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        sign_attack(setup.backbone, setup.layer, setup.test, **options)
