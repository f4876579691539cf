"""Softmax regression: its derivatives against autograd, its minimum against scikit-learn."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fragility.influence.logistic import (
    contrasts,
    covariances,
    cross_entropies,
    directions,
    extreme_eigenvalues,
    factor,
    hessian,
    newton,
    residuals,
)


def problem(n: int = 40, width: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize(("margin", "dtype"), [(20.0, torch.float32), (60.0, torch.float32), (600.0, torch.float64)])
def test_a_nearly_certain_prediction_is_no_rounding_error(margin: float, dtype: torch.dtype) -> None:
    # For two classes everything is e^-margin up to its square; 1 - p would be 0.
    logits = torch.tensor([[margin, 0.0]], dtype=dtype, requires_grad=True)
    label, tail, slack = torch.tensor([0]), np.exp(-margin), 1e-6 if dtype == torch.float32 else 1e-13
    (gradient,) = torch.autograd.grad(cross_entropies(logits, label).sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0, 0], logits)
    for found in (gradient, residuals(logits, label), -second, -covariances(logits)[:, 0]):
        assert (found.detach().double() / tail)[0].tolist() == pytest.approx([-1, 1], rel=slack)
    assert cross_entropies(logits, label).item() / tail == pytest.approx(1, rel=slack)
    assert directions(logits * 100, label).tolist() == [[-1, 1]]


def test_newton_gets_there_from_far_away_and_in_single_precision() -> None:
    inputs, labels = problem()
    near = newton(inputs, labels, l2=1e-3, num_classes=3)
    far = newton(inputs, labels, l2=1e-3, num_classes=3, start=near + 100)
    assert (near - far).abs().max() < 1e-11
    single = newton(inputs.float(), labels, l2=1e-3, num_classes=3)
    # It ends where the gradient is eight roundings, which the solution magnifies by the condition number.
    matrix = hessian(inputs, covariances(inputs @ near.T @ contrasts(3, inputs).T), 1e-3)
    allowed = 8 * torch.finfo(torch.float32).eps * torch.linalg.cond(matrix)
    assert (single - near).abs().max() < allowed * near.abs().max()


def test_separable_classes_without_a_penalty_are_refused() -> None:
    inputs = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"l2: (no minimum|the Hessian is singular)"):
        newton(inputs, torch.tensor([0, 0, 1, 1]), l2=0.0, num_classes=2)


def test_the_condition_number_and_its_limit() -> None:
    matrix = torch.diag(torch.tensor([1e-6, 1.0, 2.0, 1e4], dtype=torch.float64))
    assert extreme_eigenvalues(matrix, factor(matrix)) == pytest.approx((1e4, 1e-6), rel=1e-6)
    with pytest.raises(ValueError, match=r"singular up to rounding .*1e\+10 in torch\.float32.* dtype=torch\.float64"):
        extreme_eigenvalues(matrix.float(), factor(matrix.float()))
    with pytest.raises(ValueError, match="singular up to rounding"):
        factor(torch.zeros(2, 2))
