"""Convolutions with fixed weights: values and derivatives of every order against PyTorch's own."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fragility._convolution import twice_differentiable

CASES = [
    ("conv1d", (2, 3, 9), (4, 3, 3), {"padding": 1}),
    ("conv2d", (2, 4, 7, 6), (6, 2, 3, 2), {"stride": (2, 1), "padding": (1, 0), "groups": 2}),
    ("conv2d", (2, 3, 7, 7), (5, 3, 3, 3), {"dilation": 2}),
    ("conv2d", (2, 3, 7, 7), (5, 3, 1, 1), {}),
    ("conv3d", (1, 2, 4, 4, 4), (3, 2, 2, 2, 2), {"stride": 2}),
]


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("name", "size", "kernel", "options"), CASES)
def test_finite_differences(name, size, kernel, options):
    torch.manual_seed(0)
    x, weight, bias = _random(*size).requires_grad_(), _random(*kernel), _random(kernel[0])

    def convolve(z: Tensor) -> Tensor:
        with twice_differentiable():
            return getattr(functional, name)(z, weight, bias, **options)

    assert "_Convolution" in type(convolve(x).grad_fn).__name__
    torch.testing.assert_close(convolve(x), getattr(functional, name)(x, weight, bias, **options), rtol=0, atol=0)
    assert gradcheck(convolve, x)
    assert gradgradcheck(lambda z: convolve(z.square()), x)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_order_is_pytorchs(order):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.Conv2d(3, 2, 3, stride=2), nn.Tanh())
    model = model.double().requires_grad_(False)
    x, directions = _random(2, 2, 6, 6).requires_grad_(), [_random(2, 2, 6, 6) for _ in range(order)]

    def derivative() -> Tensor:
        value = model(x).sum()
        for direction in directions:
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = (gradient * direction).sum()
        return value

    with twice_differentiable():
        lean = derivative()
    torch.testing.assert_close(lean, derivative(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_trained_parameters_get_their_gradients(trained):
    layer = nn.Conv2d(2, 3, 3).requires_grad_(False)
    getattr(layer, trained).requires_grad_(True)
    with twice_differentiable():
        layer(torch.rand(1, 2, 5, 5, requires_grad=True)).sum().backward()
    assert getattr(layer, trained).grad is not None


def test_what_is_not_replaced():
    layer = nn.Conv2d(2, 3, 3, padding="same").requires_grad_(False)
    x = torch.rand(1, 2, 5, 5)
    with twice_differentiable():
        assert "_Convolution" not in type(layer(x.requires_grad_()).grad_fn).__name__
        assert layer(x.detach()).grad_fn is None
        assert layer(x[0].detach().requires_grad_()).shape == (3, 5, 5)  # no batch


def test_autocast_has_the_dtype_of_pytorchs():
    layer, x = nn.Conv2d(2, 3, 3).requires_grad_(False), torch.rand(1, 2, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with twice_differentiable():
            result = layer(x)
    assert result.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
