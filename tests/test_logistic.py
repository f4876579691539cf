"""Softmax regression: its derivatives against autograd, its minimum against SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy

from fragility.influence.logistic import condition_number, contrasts, covariances, factor, hessian, newton, residuals


def problem(n: int = 40, width: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_contrasts_are_orthonormal_and_sum_to_zero(classes: int) -> None:
    basis = contrasts(classes, torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(basis.T @ basis, torch.eye(classes - 1, dtype=torch.float64), atol=1e-14)
    assert basis.sum(0).abs().max() < 1e-14


def test_derivatives_are_autograds() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(residuals(logits, labels), gradient, atol=1e-15)
    for row, label, mine in zip(logits.detach(), labels, covariances(logits.detach()), strict=True):
        second = torch.autograd.functional.hessian(lambda z, y=label: cross_entropy(z, y), row)
        assert torch.allclose(mine, second, atol=1e-15)


def test_residuals_of_a_certain_prediction_are_no_rounding_errors() -> None:
    logits = torch.tensor([[40.0, 0.0]], dtype=torch.float64)
    tail = 1 / (1 + np.exp(40.0))
    assert residuals(logits, torch.tensor([0])).tolist()[0] == pytest.approx([-tail, tail], rel=1e-12)


def test_the_hessian_is_autograds() -> None:
    inputs, labels = problem()
    theta = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def loss(flat: Tensor) -> Tensor:
        entropy = cross_entropy(inputs @ flat.view(3, 5).T, labels, reduction="none")
        return (weights * entropy).mean() + 0.05 * flat.square().sum()

    dense = torch.autograd.functional.hessian(loss, theta.flatten())
    mine = hessian(inputs, weights.view(-1, 1, 1) * covariances(inputs @ theta.T), 0.1)
    assert (mine - dense).abs().max() < 1e-14


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_newton_finds_scipys_minimum(classes: int, weighted: bool) -> None:
    inputs, labels = problem(classes=classes)
    weights = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if weighted else None

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(flat).view(classes, 5).requires_grad_()
        entropy = cross_entropy(inputs @ theta.T, labels, reduction="none")
        loss = (entropy if weights is None else weights * entropy).mean() + 0.01 * theta.square().sum()
        loss.backward()
        return loss.item(), theta.grad.numpy().ravel()

    options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 10_000}
    found = minimize(objective, np.zeros(classes * 5), jac=True, method="L-BFGS-B", options=options)
    theta = contrasts(classes, inputs) @ newton(inputs, labels, l2=0.02, num_classes=classes, weights=weights)
    assert np.abs(objective(theta.numpy().ravel())[1]).max() < 1e-15
    assert np.allclose(theta.numpy().ravel(), found.x, atol=1e-6)


def test_newton_finds_scikit_learns_minimum() -> None:
    inputs, labels = problem()
    l2 = 0.03
    other = LogisticRegression(C=1 / (40 * l2), fit_intercept=False, tol=1e-12, max_iter=10_000)
    other.fit(inputs.numpy(), labels.numpy())
    theta = contrasts(3, inputs) @ newton(inputs, labels, l2=l2, num_classes=3)
    assert np.allclose(theta.numpy(), other.coef_, atol=1e-6)


def test_newton_gets_there_from_far_away_and_in_single_precision() -> None:
    inputs, labels = problem()
    near = newton(inputs, labels, l2=1e-3, num_classes=3)
    far = newton(inputs, labels, l2=1e-3, num_classes=3, start=near + 100)
    assert (near - far).abs().max() < 1e-11
    single = newton(inputs.float(), labels, l2=1e-3, num_classes=3)
    # It ends where the gradient is eight roundings, which the solution magnifies by the condition number.
    matrix = hessian(inputs, covariances(inputs @ near.T @ contrasts(3, inputs).T), 1e-3)
    allowed = 8 * torch.finfo(torch.float32).eps * condition_number(matrix, factor(matrix))
    assert (single - near).abs().max() < allowed * near.abs().max()


def test_separable_classes_without_a_penalty_are_refused() -> None:
    inputs = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"l2: (no minimum|the Hessian is singular)"):
        newton(inputs, torch.tensor([0, 0, 1, 1]), l2=0.0, num_classes=2)


def test_the_condition_number_and_its_limit() -> None:
    matrix = torch.diag(torch.tensor([1e-6, 1.0, 2.0, 1e4], dtype=torch.float64))
    assert condition_number(matrix, factor(matrix)) == pytest.approx(1e10, rel=1e-6)
    with pytest.raises(ValueError, match=r"singular up to rounding .*1e\+10 in torch\.float32"):
        condition_number(matrix.float(), factor(matrix.float()))
    with pytest.raises(ValueError, match="singular up to rounding"):
        factor(torch.zeros(2, 2))
