"""Averaged gradients and softplus networks, against closed forms and the context manager."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from fragility import objective
from fragility.attack import iterative
from fragility.attribution import ATTRIBUTIONS, simple_gradient
from fragility.defense.smoothing import smooth_gradient, uniform_gradient
from fragility.surrogate import SoftplusNetwork, softplus

AVERAGES = {
    "SmoothGrad": lambda model, x, y, **options: smooth_gradient(model, x, y, sigma=0.1, **options),
    "uniform": lambda model, x, y, **options: uniform_gradient(model, x, y, radius=0.1, **options),
}


class Cubic(nn.Module):
    """S(x) = sum x^3: the gradient 3 x^2 averaged over noise of variance v is 3 (x^2 + v)."""

    def forward(self, images: Tensor) -> Tensor:
        score = (images**3).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize(("average", "variance"), [("SmoothGrad", 0.01), ("uniform", 0.01 / 3)])
def test_the_mean_over_the_noise(average: str, variance: float) -> None:
    x = torch.full((1, 1, 40, 40), 0.5, dtype=torch.float64)
    found = AVERAGES[average](Cubic().eval(), x, torch.tensor([0]), samples=256)
    assert found.mean().item() == pytest.approx(3 * (0.25 + variance), abs=2e-3)  # four standard errors
    assert 0 < (found - found.mean()).abs().max() < 0.1


@pytest.mark.parametrize("average", AVERAGES)
def test_of_a_linear_model_nothing_is_smoothed(average: str, images: Tensor, labels: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double().eval()
    torch.testing.assert_close(AVERAGES[average](model, images, labels), simple_gradient(model, images, labels))


@pytest.mark.parametrize("average", AVERAGES)
def test_the_derivative_by_finite_differences_and_the_attack(average: str, stacked, images, labels) -> None:
    model, method = stacked(nn.Tanh()), AVERAGES[average]
    x, direction = images.clone().requires_grad_(), torch.ones_like(images)

    def value(points: Tensor) -> Tensor:
        return (method(model, points, labels, samples=3) * direction.cumsum(3)).sum()

    (slope,) = torch.autograd.grad(value(x), x)
    h = 1e-6
    expected = (value(images + h * direction) - value(images - h * direction)) / (2 * h)
    assert slope.sum().item() == pytest.approx(expected.item(), rel=1e-6)
    assert not method(model, images, labels).requires_grad
    found = iterative(
        model, images, labels, attribution=method, objective=objective.top_k(6), epsilon=0.05, step_size=0.02,
        iterations=3,
    )  # fmt: skip
    assert (found.distance > 0).all()


def test_the_noise_is_a_function_of_the_seed_alone(every_relu, images, labels) -> None:
    first, again, other = (
        smooth_gradient(every_relu, images, labels, sigma=0.1, samples=4, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    alone = smooth_gradient(every_relu, images[1:], labels[1:], sigma=0.1, samples=4)
    torch.testing.assert_close(alone, first[1:], rtol=1e-12, atol=1e-14)


def test_a_softplus_network_is_the_network_inside_softplus(every_relu, images, labels) -> None:
    model = SoftplusNetwork(every_relu, 2.0)
    assert not model.training
    x = images.clone().requires_grad_()
    for name in ("simple_gradient", "integrated_gradients", "deeplift"):
        found, method = [], ATTRIBUTIONS[name]
        # Inside another one, an attack's surrogate, the network's own softplus counts.
        for network, beta in ((every_relu, 2.0), (model, None), (model, 50.0)):
            with softplus(beta) if beta else nullcontext():
                attributions = method(network, x, labels)
                found.append((attributions, *torch.autograd.grad(attributions.square().sum(), x)))
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-14)
    assert not torch.equal(model(images), every_relu(images))
    assert "beta=2" in repr(model)


def test_bad_input(every_relu, images, labels) -> None:
    with pytest.raises(ValueError, match="sigma: expected a finite number > 0, got 0"):
        smooth_gradient(every_relu, images, labels, sigma=0)
    with pytest.raises(ValueError, match="radius: expected a finite number > 0, got -1"):
        uniform_gradient(every_relu, images, labels, radius=-1)
    with pytest.raises(ValueError, match="samples: expected an integer >= 1, got 0"):
        smooth_gradient(every_relu, images, labels, sigma=1, samples=0)
    with pytest.raises(ValueError, match="beta: expected a finite number > 0, got 0"):
        SoftplusNetwork(every_relu, 0)
    with pytest.raises(ValueError, match=r"labels: expected classes in \[0, 4\)"):
        uniform_gradient(every_relu, images, labels + 3, radius=0.1)
