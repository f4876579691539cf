"""Operator norms against dense singular values; penalties against their closed forms."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import EveryRelu, randomise
from fragility.defense.operator_norm import (
    operator_norm,
    operator_norm_loss,
    operator_norm_penalty,
    operator_norms,
    parseval_loss,
    parseval_penalty,
)

CONVOLUTIONS = {
    "same": nn.Conv2d(2, 3, 3, padding=1),
    "valid": nn.Conv2d(2, 3, 3),
    "stride": nn.Conv2d(2, 3, 4, stride=2, padding=1),
    "dilation": nn.Conv2d(2, 4, 3, dilation=2, padding=1),
    "groups": nn.Conv2d(2, 4, 3, padding="same", groups=2),
}


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """The layer's matrix: the images of the unit vectors, less the bias."""
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).view(-1, *shape)
    return (layer(units) - layer(torch.zeros_like(units))).flatten(1).T


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("size", [(7, 7), (6, 9)])
def test_convolutions_against_the_dense_matrix(kind: str, size: tuple[int, int]) -> None:
    layer, shape = randomise(CONVOLUTIONS[kind]).requires_grad_(True), (2, *size)
    singular = torch.linalg.svdvals(dense(layer, shape))
    found = operator_norm(layer, shape, iterations=500)
    torch.testing.assert_close(found, singular[0], rtol=1e-9, atol=0)
    reshaped = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    assert abs(found.item() / reshaped.item() - 1) > 0.05  # the kernel as a matrix would not have done
    assert found <= reshaped * layer.weight[0, 0].numel() ** 0.5 + 1e-12
    first, second = (torch.autograd.grad(value, layer.weight)[0] for value in (found, singular[0]))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_linear_against_the_singular_values() -> None:
    layer = randomise(nn.Linear(12, 7)).requires_grad_(True)
    expected = torch.linalg.matrix_norm(layer.weight, 2)
    found = operator_norm(layer, (12,), iterations=500)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    few = operator_norm(layer, (12,), iterations=1)
    assert few < expected


def test_every_layer_is_found_with_the_shape_that_it_receives() -> None:
    model, images = randomise(EveryRelu()).requires_grad_(True), torch.rand(5, 3, 8, 8, dtype=torch.float64)
    shapes = {"first": (3, 8, 8), "second": (6, 8, 8), "third": (6, 4, 4), "head": (8,)}
    found = operator_norms(model, images, iterations=500)
    assert list(found) == list(shapes)
    for name, shape in shapes.items():
        expected = torch.linalg.matrix_norm(dense(model.get_submodule(name), shape), 2)
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=0)
    penalty = operator_norm_penalty(model, images, iterations=500)
    torch.testing.assert_close(penalty, sum(norm**2 for norm in found.values()), rtol=1e-12, atol=0)
    labels = torch.tensor([0, 1, 2, 3, 0])
    loss = operator_norm_loss(model, images, labels, weight=0.6, iterations=500)
    torch.testing.assert_close(loss, F.cross_entropy(model(images), labels) + 0.3 * penalty)
    assert not any(model.get_submodule(name)._forward_pre_hooks for name in shapes)


def test_parseval_against_the_singular_values() -> None:
    layers = [nn.Linear(6, 4), nn.Linear(4, 9)]
    model = randomise(nn.Sequential(*layers))
    expected = sum((torch.linalg.svdvals(layer.weight) ** 2 - 1).square().sum() for layer in layers)
    torch.testing.assert_close(parseval_penalty(model), expected, rtol=1e-12, atol=0)
    x, y = torch.rand(3, 6, dtype=torch.float64), torch.tensor([0, 1, 2])
    torch.testing.assert_close(parseval_loss(model, x, y, weight=0.6), F.cross_entropy(model(x), y) + 0.3 * expected)


def test_where_the_parseval_penalty_vanishes_a_convolution_contracts() -> None:
    layer = randomise(nn.Conv2d(2, 3, 3, padding=1)).requires_grad_(True)
    u, _, v = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    with torch.no_grad():
        layer.weight.copy_((u @ v).view_as(layer.weight) / 3)
    assert parseval_penalty(layer) < 1e-24
    norm = operator_norm(layer, (2, 7, 7), iterations=500)
    assert 0.5 < norm <= 1


def test_what_has_no_operator_norm_is_refused() -> None:
    with pytest.raises(TypeError, match=r"layer: expected nn\.Linear or nn.Conv2d with zero padding, got ReLU"):
        operator_norm(nn.ReLU(), (3,))
    with pytest.raises(TypeError, match="zero padding, got Conv2d"):
        operator_norm(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), (1, 4, 4))
    nothing = nn.Flatten()
    for call in (lambda: operator_norms(nothing, torch.rand(1, 1, 4, 4)), lambda: parseval_penalty(nothing)):
        with pytest.raises(ValueError, match=r"model: expected an nn\.Linear or nn.Conv2d in it, found none"):
            call()
    with pytest.raises(ValueError, match="iterations: expected an integer >= 1, got 0"):
        operator_norm(nn.Linear(2, 2), (2,), iterations=0)
