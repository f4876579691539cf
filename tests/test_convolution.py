"""What a second derivative is computed by: values and derivatives of every order against PyTorch's own."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fragility._convolution import twice_differentiable
from fragility._pool import QuickPools
from fragility.attribution import integrated_gradients, simple_gradient

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
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.Softplus(), nn.MaxPool2d(3, 1), nn.Conv2d(3, 2, 3, stride=2), nn.Tanh()]
    sequence = nn.Sequential(*layers).double().requires_grad_(False)

    def model(images: Tensor) -> Tensor:
        return sequence(torch.cat([images.sin(), images[:, :, :4] ** 2], dim=2))

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


POOLS = [(2,), (3, 2, 1), ((3, 2), (1, 2), (1, 0), (2, 1), True), (2, None, 0, 1, True)]


@pytest.mark.parametrize("options", POOLS)
@pytest.mark.parametrize("context", [twice_differentiable, QuickPools])
def test_pools_are_pytorchs_to_the_bit(options, context):
    """Also where values are equal, or are no numbers: the same pixel is passed the gradient."""
    x = torch.randint(-2, 3, (3, 5, 9, 8), generator=torch.Generator().manual_seed(0)).float()
    x[0, 0, 2, 3] = float("nan")
    results = []
    for where in (context(), nullcontext()):
        points = x.clone().requires_grad_()
        with where:
            values = functional.max_pool2d(points, *options)
        weights = torch.arange(values.numel(), dtype=values.dtype).view_as(values).requires_grad_()
        (first,) = torch.autograd.grad(values, points, weights, create_graph=True)
        results.append((values, first, *torch.autograd.grad((first * first.detach()).sum(), weights)))
        assert ("_MaxPool" in type(values.grad_fn).__name__) == (len(results) == 1)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("attribution", [simple_gradient, partial(integrated_gradients, steps=3)])
def test_a_checkpoint_pools_again_as_before(attribution):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)).eval()
    again = Again(body).eval()
    x, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
    assert torch.equal(attribution(again, x, labels), attribution(body, x, labels))


class Again(nn.Module):
    """Computes its convolution, activation and pool again in the backward pass."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body[3:](checkpoint(self.body[:3], x, use_reentrant=False))


def test_pools_that_are_left_to_pytorch():
    x = torch.randn(2, 3, 6, 6)
    with QuickPools():
        values, indices = functional.max_pool2d(x, 2, return_indices=True)
        each = torch.func.vmap(torch.func.grad(lambda image: functional.max_pool2d(image, 2).square().sum()))(x)
        _, tangent = torch.func.jvp(lambda images: functional.max_pool2d(images, 2), (x,), (torch.ones_like(x),))
        alone = functional.max_pool2d(x[0], 2)
    assert torch.equal(values, functional.max_pool2d(x, 2))
    assert torch.equal(alone, values[0])
    assert torch.equal(each.flatten(2).gather(2, indices.flatten(2)), 2 * values.flatten(2))
    assert torch.equal(tangent, torch.ones_like(values))


@pytest.mark.parametrize("call", [torch.cat, torch.concat])
def test_concatenations_of_all_kinds(call):
    """Also of parts without a gradient, of equal ones, and of other dimensions."""
    torch.manual_seed(0)
    a, b, fixed = _random(2, 3).requires_grad_(), _random(2, 1).requires_grad_(), _random(2, 2)
    directions = _random(3, 2, 9)

    def derivatives() -> list[Tensor]:
        joined = call([a, fixed, b.exp(), a.sin()], dim=-1)
        first = torch.autograd.grad(joined.square(), [a, b], directions[0], create_graph=True)
        return [joined, *first, *torch.autograd.grad(sum(part.square().sum() for part in first), [a, b])]

    with twice_differentiable():
        ours = derivatives()
        assert "_Concatenation" in type(ours[0].grad_fn).__name__
        empty = call([torch.empty(0, requires_grad=True), a.flatten()])
        stacked = call((a, fixed.new_zeros(1, 3).float()))  # PyTorch finds the common dtype
    assert empty.shape == (6,)
    assert stacked.dtype == torch.float64
    for mine, theirs in zip(ours, derivatives(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
