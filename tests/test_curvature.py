"""Curvature of the score: against dense autograd, closed forms and SciPy, in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from fragility.curvature import (
    MODES,
    angle,
    input_hessian,
    input_hvp,
    saliency_lipschitz_bound,
    top_direction,
    top_directions,
)
from fragility.surrogate import softplus

LABELS, ONES = torch.tensor([0, 2, 3]), torch.ones(2)


class Neuron(nn.Module):
    """g(w . x) for one class, and a linear score for another."""

    def __init__(self, weights: Tensor, g: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weights, self.g = weights, g

    def forward(self, images: Tensor) -> Tensor:
        z = images.flatten(1) @ self.weights
        return torch.stack([self.g(z), 3 * z], 1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(model: nn.Module, image: Tensor, label: int) -> Tensor:
    """Reference: PyTorch's own Hessian of one score as a function of a flat vector."""

    def score(x: Tensor) -> Tensor:
        return model(x.view(1, *image.shape))[0, label]

    return torch.autograd.functional.hessian(score, image.flatten())


@pytest.fixture
def images() -> Tensor:
    return draw(3, 3, 8, 8)


@pytest.mark.parametrize("mode", MODES)
def test_products_equal_the_dense_hessian_of_a_smooth_network(mode: str, stacked, images: Tensor) -> None:
    model = stacked(nn.Tanh())
    vectors = draw(3, 3, 8, 8, seed=1) - 0.5
    products = input_hvp(model, images, LABELS, vectors, mode=mode)
    assert not products.requires_grad
    for image, label, vector, product in zip(images, LABELS.tolist(), vectors, products, strict=True):
        expected = dense(model, image, label) @ vector.flatten()
        torch.testing.assert_close(product.flatten(), expected, rtol=1e-10, atol=1e-12)


def test_products_are_differences_of_gradients(every_relu: nn.Module) -> None:
    images, labels = 0.2 + 0.6 * draw(2, 3, 9, 9), torch.tensor([1, 3])
    vectors = draw(2, 3, 9, 9, seed=2) - 0.5
    step = 1e-5

    def gradient(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return torch.autograd.grad(every_relu(x)[range(2), labels].sum(), x)[0]

    for parameter in every_relu.parameters():
        parameter.requires_grad_()
    with softplus(3.0):
        differences = (gradient(images + step * vectors) - gradient(images - step * vectors)) / (2 * step)
        backward, forward = (input_hvp(every_relu, images, labels, vectors, mode=mode) for mode in MODES)
    torch.testing.assert_close(backward, differences, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(backward, forward, rtol=1e-11, atol=1e-12)
    assert all(parameter.grad is None for parameter in every_relu.parameters())


def test_a_relu_network_is_flat_and_says_so(every_relu: nn.Module) -> None:
    images = draw(3, 3, 9, 9)
    for mode in MODES:
        assert input_hvp(every_relu, images, LABELS, images, mode=mode).abs().max() == 0
    with pytest.raises(
        ValueError, match=r"a Hessian that is zero for the whole batch.* call inside fragility.surrogate.softplus"
    ):
        top_direction(every_relu, images, LABELS)


def test_the_dense_matrix_is_pytorchs(stacked, images: Tensor) -> None:
    model = stacked(nn.Sigmoid())
    found = input_hessian(model, images, LABELS, chunk=50)
    for image, label, matrix in zip(images, LABELS.tolist(), found, strict=True):
        torch.testing.assert_close(matrix, dense(model, image, label), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_directions_are_scipys(mode: str, stacked, images: Tensor) -> None:
    model = stacked(nn.Softplus())
    found = top_directions(model, images, LABELS, count=4, steps=120, mode=mode)
    for index, (image, label) in enumerate(zip(images, LABELS.tolist(), strict=True)):
        matrix = dense(model, image, label).numpy()
        values, vectors = scipy.linalg.eigh(matrix)
        order = np.argsort(-np.abs(values))
        np.testing.assert_allclose(found.values[index], values[order[:4]], rtol=1e-9)
        np.testing.assert_allclose(
            np.abs(np.sum(found.directions[index].flatten(1).numpy() * vectors[:, order[:4]].T, axis=1)), 1, rtol=1e-9
        )
        top = np.abs(values[order])
        np.testing.assert_allclose(found.gap[index], (top[0] - top[1]) / top[0], rtol=1e-7)
    assert found.residual.max() < 1e-8
    values, directions = top_direction(model, images, LABELS, steps=120, mode=mode)
    torch.testing.assert_close(values, found.values[:, 0])
    torch.testing.assert_close(directions, found.directions[:, 0])
    torch.testing.assert_close(directions.flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_an_image_does_not_depend_on_its_company(stacked, images: Tensor) -> None:
    model = stacked(nn.Tanh())
    together = top_directions(model, images, LABELS, steps=12)
    alone = top_directions(model, images[1:2], LABELS[1:2], steps=12)
    torch.testing.assert_close(together.values[1:2], alone.values, rtol=1e-10, atol=0)
    torch.testing.assert_close(together.directions[1:2], alone.directions, rtol=1e-9, atol=1e-10)
    assert (together.residual >= top_directions(model, images, LABELS, steps=120).residual).all()


def test_nearly_opposite_ends_of_the_spectrum_do_not_stall_it() -> None:
    # S = sum_i c_i x_i^2 / 2 with eigenvalues 1, -0.999, and 98 in between: power iteration would need 10^4 steps.
    scales = torch.linspace(-0.9, 0.9, 100, dtype=torch.float64)
    scales[3], scales[70] = 1.0, -0.999

    class Quadratic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1).square() @ scales / 2).unsqueeze(1)

    images, label = draw(1, 1, 10, 10), torch.tensor([0])
    found = top_directions(Quadratic().eval(), images, label, count=2, steps=50)
    torch.testing.assert_close(found.values, torch.tensor([[1.0, -0.999]], dtype=torch.float64), rtol=1e-8, atol=0)
    assert found.directions.abs().flatten(2).argmax(2).tolist() == [[3, 70]]
    torch.testing.assert_close(found.gap, torch.tensor([0.001], dtype=torch.float64), rtol=1e-5, atol=0)
    # All of the space: the dimension caps the steps.
    everything = top_directions(Quadratic().eval(), images, label, count=100, steps=1000)
    torch.testing.assert_close(everything.values[0].sort().values, scales.sort().values, rtol=0, atol=1e-12)


def test_one_neuron_has_one_fragile_direction() -> None:
    weights = draw(48, seed=4) - 0.5
    images = draw(2, 3, 4, 4)
    model = Neuron(weights, torch.sigmoid).eval()
    found = top_directions(model, images, torch.zeros(2, dtype=torch.int64), steps=6)
    z = images.flatten(1) @ weights
    second = torch.sigmoid(z) * torch.sigmoid(-z) * (1 - 2 * torch.sigmoid(z))
    torch.testing.assert_close(found.values[:, 0], second * weights.square().sum(), rtol=1e-10, atol=0)
    expected = (weights / weights.norm()).view(1, 3, 4, 4).expand_as(images)
    assert angle(found.directions[:, 0], expected).max() < 1e-6
    torch.testing.assert_close(found.gap, torch.ones(2, dtype=torch.float64))
    assert found.residual.max() < 1e-12
    assert input_hvp(model, images, torch.ones(2, dtype=torch.int64), images).abs().max() == 0  # the linear score


def test_an_infinite_curvature_is_refused() -> None:
    model = Neuron(draw(48), lambda z: torch.sqrt(z - z.detach())).eval()
    with pytest.raises(ValueError, match="expected finite second derivatives, got NaN or infinity"):
        top_direction(model, draw(1, 3, 4, 4), torch.tensor([0]))


def test_a_flat_image_in_a_curved_batch_has_value_zero() -> None:
    model = Neuron(draw(48) - 0.5, torch.sigmoid).eval()
    found = top_directions(model, draw(2, 3, 4, 4), torch.tensor([0, 1]), steps=5)
    assert found.values[0].abs() > 0
    assert (found.values[1], found.gap[1], found.residual[1]) == (0, 0, 0)
    assert found.directions.isfinite().all()


def test_single_precision_finds_the_same_direction(stacked, images: Tensor) -> None:
    model = stacked(nn.Softplus())
    values, directions = top_direction(model, images, LABELS, steps=120)
    low = top_directions(model.float(), images.float(), LABELS, steps=120)
    # Three layers of sums of at most 54 products, forwards and backwards, and both once more for the derivative.
    allowed = 3 * 4 * 54 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(low.values[:, 0].double(), values, rtol=allowed, atol=0)
    assert (
        angle(low.directions[:, 0].double(), directions) < torch.rad2deg(2 * allowed / low.gap)
    ).all()  # Davis, Kahan
    assert low.residual.max() < allowed


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 30.0, 60.0, 90 - 1e-6, 90.0])
def test_angles_are_those_of_lines(degrees: float) -> None:
    radians = math.radians(degrees)
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1e-200, 0.0]], dtype=torch.float64)
    b = torch.tensor([[math.cos(radians), math.sin(radians)]], dtype=torch.float64)
    b = torch.cat([3 * b, -b, 1e200 * b])
    torch.testing.assert_close(angle(a, b), torch.full((3,), degrees, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(angle(b, a), angle(a, b), rtol=0, atol=1e-12)


def test_the_bound_is_reached_by_one_unit_and_is_the_formula_by_hand() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert saliency_lipschitz_bound(3 * one, one, one / 4) == 9 / 4  # max |S''| of softplus(3 x), at x = 0
    norms, slopes, bends = (torch.tensor(v, dtype=torch.float64) for v in ([2.0, 3.0, 5.0], [0.5, 1, 1], [0.2, 0.3, 0]))
    by_hand = 0.2 * 2**2 * (3 * 1) * (5 * 1) + 0.3 * 3**2 * (2 * 0.5) ** 2 * (5 * 1)
    torch.testing.assert_close(saliency_lipschitz_bound(norms, slopes, bends).item(), by_hand)
    assert saliency_lipschitz_bound(norms, slopes, torch.zeros(3)) == 0
    assert saliency_lipschitz_bound(norms, slopes, torch.tensor([math.inf, 0, 0])) == math.inf
    assert torch.autograd.gradcheck(lambda n: saliency_lipschitz_bound(n, slopes, bends), norms.requires_grad_())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: input_hvp(m, x, LABELS, x[:2]), ValueError, r"vectors: expected the shape of images, \(3, 3, 8"),
        (lambda m, x: input_hvp(m, x, LABELS, x.float()), TypeError, "vectors: expected a tensor of torch.float64"),
        (lambda m, x: input_hvp(m, x, LABELS, x, mode="fast"), ValueError, "mode: expected one of double_backward, f"),
        (lambda m, x: input_hvp(m, x, LABELS + 9, x, mode=MODES[1]), ValueError, r"labels: expected classes in \[0, 4"),
        (lambda m, x: input_hessian(m, x, LABELS[:2]), ValueError, r"labels: expected shape \(3,\)"),
        (lambda m, x: top_direction(m, x, LABELS, steps=0), ValueError, "steps: expected an integer >= 1, got 0"),
        (lambda m, x: top_directions(m, x, LABELS, count=31), ValueError, "count: expected an integer from 1 to 30"),
        (lambda m, x: angle(x, x[:2]), ValueError, "b: expected shape"),
        (lambda m, x: angle(x, 0 * x), ValueError, r"b: expected finite vectors .* not zero, .* rows \[0, 1, 2\]"),
        (lambda m, x: angle(LABELS, LABELS), TypeError, "a: expected a floating-point tensor"),
        (lambda m, x: saliency_lipschitz_bound(ONES, ONES[:1], ONES), ValueError, "slopes: expected one number per"),
        (lambda m, x: saliency_lipschitz_bound(ONES, ONES, -ONES), ValueError, "bends: expected numbers >= 0"),
    ],
)
def test_bad_input_is_named(
    call: Callable[[nn.Module, Tensor], object], error: type[Exception], message: str, stacked, images: Tensor
) -> None:
    with pytest.raises(error, match=message):
        call(stacked(nn.Tanh()), images)
