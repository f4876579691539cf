"""Last-layer influence against dense autograd, closed forms, retraining, finite differences and Captum."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, pad

from fragility.influence.last_layer import LastLayerInfluence

SHAPES = [(60, 7, 2), (60, 7, 4), (12, 20, 2), (12, 20, 3)]  # n, p, K


def problem(n: int, p: int, classes: int, tests: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + p + classes)
    features = torch.randn(n + tests, p, generator=generator, dtype=torch.float64) + 0.5
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (n + tests - classes,), generator=generator)])
    return features[:n], labels[:n], features[n:], labels[n:]


def dense(layer: LastLayerInfluence, test: Tensor, test_labels: Tensor) -> Tensor:
    """Influence from the full K (P + 1) Hessian and per-example gradients, all by autograd."""
    inputs, labels = pad(layer.features, (0, 1), value=1.0), layer.labels

    def one(x: Tensor, y: Tensor) -> Tensor:
        theta = layer.theta.clone().requires_grad_()
        return torch.autograd.grad(cross_entropy(theta @ x, y), theta)[0].flatten()

    training = torch.stack([one(x, y) for x, y in zip(inputs, labels, strict=True)])
    tests = pad(test, (0, 1), value=1.0)
    target = torch.stack([one(x, y) for x, y in zip(tests, test_labels, strict=True)])
    return target @ torch.linalg.solve(dense_hessian(layer), training.T) / len(labels)


def dense_hessian(layer: LastLayerInfluence) -> Tensor:
    """That of all K (P + 1) parameters in double precision, by autograd."""
    inputs = pad(layer.features.double(), (0, 1), value=1.0)

    def mean_loss(flat: Tensor) -> Tensor:
        theta = flat.view_as(layer.theta)
        return cross_entropy(inputs @ theta.T, layer.labels) + layer.l2 / 2 * flat.square().sum()

    return torch.autograd.functional.hessian(mean_loss, layer.theta.double().flatten())


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("form", ["primal", "dual", None])
@pytest.mark.parametrize("shape", SHAPES)
def test_influence_is_that_of_the_dense_hessian(shape: tuple[int, int, int], form: str | None) -> None:
    features, labels, test, test_labels = problem(*shape)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=shape[2], form=form)
    assert layer.form == (form or ("dual" if shape[0] < shape[1] else "primal"))
    assert relative(layer.influence(test, test_labels), dense(layer, test, test_labels)) < 1e-10
    assert layer.theta.sum(0).abs().max() < 1e-12
    assert layer.condition == pytest.approx(torch.linalg.cond(dense_hessian(layer)).item(), rel=0.2)


@pytest.mark.parametrize("shape", SHAPES)
def test_at_the_layer_the_gradient_of_its_strictly_convex_loss_vanishes(shape: tuple[int, int, int]) -> None:
    features, labels, _, _ = problem(*shape)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=shape[2])
    inputs = pad(features, (0, 1), value=1.0)
    theta = layer.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(inputs @ theta.T, labels) + 0.015 * theta.square().sum(), theta)
    assert gradient.abs().max() < 1e-14


def test_the_number_of_test_images_does_not_matter() -> None:
    features, labels, test, test_labels = problem(60, 7, 4, tests=300)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=4)
    whole = layer.influence(test, test_labels)
    single = torch.cat([layer.influence(test[i : i + 1], test_labels[i : i + 1]) for i in (0, 255, 256, 299)])
    assert relative(whole[[0, 255, 256, 299]], single) < 1e-13


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_feature_gradient_is_that_of_finite_differences(shape: tuple[int, int, int], form: str) -> None:
    features, labels, test, test_labels = problem(*shape)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=shape[2], form=form)
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(shape[0], (5, 3), generator=generator)
    weights = torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def total(points: Tensor) -> Tensor:
        return (weights * layer.influence(points, test_labels).gather(1, indices)).sum(1)

    step = 1e-5 * torch.eye(shape[1], dtype=torch.float64)
    columns = [(total(test + row) - total(test - row)) / 2e-5 for row in step]
    ours = layer.feature_gradient(test, test_labels, indices, weights=weights)
    assert relative(ours, torch.stack(columns, 1)) < 1e-8
    plain = layer.feature_gradient(test, test_labels, indices)
    assert relative(plain, layer.feature_gradient(test, test_labels, indices, weights=torch.ones(5, 3))) < 1e-14


def test_a_parameter_change_is_the_first_order_effect_of_leaving_images_out() -> None:
    features, labels, test, test_labels = problem(60, 7, 3)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=3)
    indices = torch.tensor([[4, 9], [0, 1]])
    change = layer.parameter_change(indices)
    gradient = torch.autograd.functional.jacobian(
        lambda theta: cross_entropy(pad(test, (0, 1), value=1.0) @ theta.T, test_labels, reduction="none"), layer.theta
    )
    expected = layer.influence(test, test_labels)[:, [4, 9]].sum(1)
    assert relative((gradient * change[0]).sum((1, 2)), expected) < 1e-12
    # the same number from the other side: the response of a test loss to a training gradient
    response = layer.sensitivity(test, test_labels)
    ours = torch.einsum("nk,np,tkp->tn", training_residuals(layer), pad(features, (0, 1), value=1.0), response)
    assert relative(ours, layer.influence(test, test_labels)) < 1e-12


def training_residuals(layer: LastLayerInfluence) -> Tensor:
    return layer.logits(layer.features).softmax(1) - one_hot(layer.labels, layer.num_classes)


@pytest.mark.parametrize("shape", SHAPES)
def test_self_influence_and_leverage(shape: tuple[int, int, int]) -> None:
    features, labels, _, _ = problem(*shape)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=shape[2])
    diagonal = layer.influence(features, labels).diagonal()
    assert relative(layer.self_influence(), diagonal) < 1e-11
    assert relative(layer.relative_influence(features, labels).diagonal(), diagonal.sqrt()) < 1e-11
    # The leverages sum to the effective number of parameters, sum lambda / (lambda + l2).
    inputs = pad(features, (0, 1), value=1.0)

    def loss(flat: Tensor) -> Tensor:
        return cross_entropy(inputs @ flat.view_as(layer.theta).T, labels)

    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, layer.theta.flatten())).clamp(min=0)
    assert layer.leverage().sum().item() == pytest.approx((values / (values + 0.03)).sum().item(), rel=1e-10)
    assert (layer.leverage() >= 0).all()


def test_binary_leverages_are_the_hat_values_of_weighted_least_squares() -> None:
    features, labels, _, _ = problem(60, 7, 2)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=2)
    p = layer.logits(features).softmax(1)[:, 1]
    x = (p * (1 - p)).sqrt().unsqueeze(1) * pad(features, (0, 1), value=1.0)
    hat = x @ torch.linalg.solve(x.T @ x + 60 * 0.03 / 2 * torch.eye(8).double(), x.T)
    assert relative(layer.leverage(), hat.diagonal()) < 1e-11


@pytest.mark.parametrize("shape", [(60, 7, 2), (60, 7, 4)])
def test_corrected_influence_is_one_newton_step_of_the_problem_without_the_image(shape: tuple[int, int, int]) -> None:
    features, labels, test, test_labels = problem(*shape)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=shape[2])
    inputs, without = pad(features, (0, 1), value=1.0), 11
    weights = torch.ones(shape[0], dtype=torch.float64)
    weights[without] = 0

    def loss(flat: Tensor) -> Tensor:
        entropy = cross_entropy(inputs @ flat.view_as(layer.theta).T, labels, reduction="none")
        return (weights * entropy).mean() + 0.015 * flat.square().sum()

    point = layer.theta.flatten()
    gradient = torch.autograd.functional.jacobian(loss, point)
    step = -torch.linalg.solve(torch.autograd.functional.hessian(loss, point), gradient).view_as(layer.theta)
    by_theta = torch.autograd.functional.jacobian(
        lambda theta: cross_entropy(pad(test, (0, 1), value=1.0) @ theta.T, test_labels, reduction="none"), layer.theta
    )
    expected = (by_theta * step).sum((1, 2))
    assert relative(layer.influence(test, test_labels, corrected=True)[:, without], expected) < 1e-10


@pytest.mark.parametrize("left_out", [[17], [3, 17, 40]])
def test_retraining_is_training_without_the_images(left_out: list[int]) -> None:
    features, labels, test, test_labels = problem(60, 7, 3)
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=3)
    rest = torch.ones(60, dtype=torch.bool).index_fill_(0, torch.tensor(left_out), False)
    # Fewer images of weight 1/60: the penalty counts 60/59 times as much where the mean is over 59.
    fresh = LastLayerInfluence(features[rest], labels[rest], l2=0.03 * 60 / int(rest.sum()), num_classes=3)
    assert relative(layer.retrained(left_out), fresh.theta) < 1e-11
    before, after = (cross_entropy(one.logits(test), test_labels, reduction="none") for one in (layer, fresh))
    indices = torch.tensor([left_out, left_out])
    changes = layer.leave_one_out(test, test_labels, indices if len(left_out) > 1 else indices.flatten())
    assert relative(changes, (after - before).unsqueeze(1).expand(-1, 2)) < 1e-9


APART = torch.tensor([1.0, 1.2, 1.5, -1, -1.2, -1.5, 0.9, -0.8]), torch.tensor([0, 0, 0, 1, 1, 1, 0, 1])
MIXED = APART[0], torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
@pytest.mark.parametrize(("data", "l2"), [(APART, 1e-14), (APART, 1e-10), (MIXED, 1e-10), (APART, 1e-2), (MIXED, 1.0)])
def test_in_either_precision_influence_and_condition_are_right_or_refused(
    data: tuple[Tensor, Tensor], l2: float, scale: float
) -> None:
    features, labels = scale * data[0].double().unsqueeze(1), data[1]
    double = LastLayerInfluence(features, labels, l2=l2, num_classes=2)
    # Logistic regression in u = theta_1 - theta_0, with e^-margin where 1 - p would cancel; |theta|^2 = |u|^2 / 2.
    x, sign = pad(features, (0, 1), value=1.0), 2.0 * labels - 1
    u = double.theta[1] - double.theta[0]
    residual = -sign * torch.sigmoid(-sign * (x @ u))
    curvature = torch.sigmoid(x @ u) * torch.sigmoid(-x @ u)
    matrix = x.T @ (curvature.unsqueeze(1) * x) / 8 + l2 / 2 * torch.eye(2)
    rounding = 8 * torch.finfo(torch.float64).eps * (residual.abs() @ x.abs() / 8 + l2 / 2 * u.abs()).norm()
    gradient = residual @ x / 8 + l2 / 2 * u
    assert torch.linalg.solve(matrix, gradient).norm() < 4 * rounding / torch.linalg.eigvalsh(matrix)[0]
    gradients = residual.unsqueeze(1) * x
    expected = gradients @ torch.linalg.solve(matrix, gradients.T) / 8
    condition = 2 * float(torch.linalg.eigvalsh(matrix)[-1]) / l2

    assert relative(double.influence(features, labels), expected) < 1e-6
    assert double.condition == pytest.approx(condition, rel=0.2)
    fit = partial(LastLayerInfluence, features, labels, l2=l2, num_classes=2, dtype=torch.float32)
    if torch.linalg.cond(matrix) > 1e5:
        with pytest.raises(ValueError, match=r"dtype=torch\.float64"):
            fit()
        return
    single = fit()
    assert single.theta.dtype == torch.float32
    assert relative(single.influence(features, labels).double(), expected) < 1e-2
    assert single.condition == pytest.approx(condition, rel=0.2)


def test_a_training_image_of_probability_1_has_the_relative_influence_of_the_limit() -> None:
    features, labels, test, test_labels = problem(60, 7, 2)
    theta = LastLayerInfluence(features, labels, l2=0.03, num_classes=2).theta
    features[0] = 1e4 * (theta[labels[0]] - theta[1 - labels[0]])[:-1]
    layer = LastLayerInfluence(features, labels, l2=0.03, num_classes=2)
    assert layer.influence(test, test_labels)[:, 0].eq(0).all()
    # The gradient is 1 - p_y = 0 times this one, which cancels.
    gradient = (one_hot(1 - labels[0], 2) - one_hot(labels[0], 2)).double().outer(pad(features[0], (0, 1), value=1.0))
    solved = torch.linalg.solve(dense_hessian(layer), gradient.flatten())
    residual = layer.logits(test).softmax(1) - one_hot(test_labels, 2)
    expected = torch.einsum("tk,tp,kp->t", residual, pad(test, (0, 1), value=1.0), solved.view(2, 8)) / 60
    expected /= (gradient.flatten() @ solved / 60).sqrt()
    relatif = layer.relative_influence(test, test_labels)
    assert relatif.isfinite().all()
    assert relative(relatif[:, 0], expected) < 1e-10


def test_a_hessian_that_no_machine_holds_is_refused_with_its_size_before_anything_is_allocated() -> None:
    features, labels = torch.zeros(3000, 2048), torch.arange(3000) % 1000
    with pytest.raises(ValueError, match=r"the Hessian of 2,046,951 unknowns would need 67\.04 TB"):
        LastLayerInfluence(features, labels, l2=0.1, num_classes=1000)


def test_half_precision_features_and_gradients_pass_through() -> None:
    features, labels, test, test_labels = problem(60, 7, 2)
    layer = LastLayerInfluence(features.half(), labels, l2=0.03, num_classes=2)
    points = test.half().requires_grad_()
    layer.influence(points, test_labels).sum().backward()
    assert points.grad is not None
    assert points.grad.abs().max() > 0


def test_singular_systems_are_refused_with_an_explanation() -> None:
    features, labels, _, _ = problem(12, 20, 2)
    with pytest.raises(ValueError, match=r"l2: the Hessian of 12 images has rank 12 .* 21 features"):
        LastLayerInfluence(features, labels, l2=0.0, num_classes=2)
    features, labels, _, _ = problem(60, 7, 2)
    twice = torch.cat([features, features[:, :1]], 1)
    with pytest.raises(ValueError, match=r"l2: the Hessian is singular up to rounding"):
        LastLayerInfluence(twice, labels, l2=0.0, num_classes=2)
    with pytest.raises(ValueError, match=r"singular up to rounding .*torch\.float32"):
        LastLayerInfluence(twice, labels, l2=1e-12, num_classes=2, dtype=torch.float32)
    assert LastLayerInfluence(features, labels, l2=0.0, num_classes=2).condition < 1e6


def test_bad_input_is_refused() -> None:
    features, labels, test, test_labels = problem(60, 7, 2)
    build = partial(LastLayerInfluence, features, labels, l2=0.1, num_classes=2)
    layer = build()
    cases = [
        (lambda: LastLayerInfluence(features, labels, l2=-1.0, num_classes=2), ValueError, "l2: expected"),
        (lambda: LastLayerInfluence(features, labels, l2=0.1, num_classes=1), ValueError, "num_classes: .* >= 2"),
        (lambda: LastLayerInfluence(features, labels + 1, l2=0.1, num_classes=2), ValueError, "labels: expected"),
        (lambda: LastLayerInfluence(features * torch.nan, labels, l2=0.1, num_classes=2), ValueError, "features: "),
        (lambda: build(form="both"), ValueError, "form: expected one of primal, dual, None, got 'both'"),
        (lambda: build(dtype=torch.float16), TypeError, "dtype: expected"),
        (lambda: layer.influence(test[:, :3], test_labels), ValueError, r"test_features: expected shape \(B, 7\)"),
        (lambda: layer.influence(test, test_labels + 5), ValueError, "test_labels: expected classes"),
        (lambda: layer.parameter_change(torch.tensor([[60]])), ValueError, "train_indices: expected"),
        (lambda: layer.parameter_change(torch.tensor([3])), ValueError, r"train_indices: expected shape \(T, k\)"),
        (lambda: layer.logits(torch.zeros(2, 7).long()), TypeError, "features: expected a floating-point tensor"),
        (lambda: layer.parameter_change(torch.tensor([[3]]), weights=torch.ones(2)), ValueError, "weights: expected"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
