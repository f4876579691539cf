"""Networks whose derivatives are known in closed form: a neuron, and two layers with orthonormal weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fragility.study.piece import generator


def _slope_of_sigmoid(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)


# g, g' and g''.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "identity": (lambda z: z, torch.ones_like, torch.zeros_like),
    "softplus": (nn.functional.softplus, torch.sigmoid, _slope_of_sigmoid),
    "sigmoid": (torch.sigmoid, _slope_of_sigmoid, lambda z: -_slope_of_sigmoid(z) * torch.tanh(z / 2)),
    "exp": (torch.exp, torch.exp, torch.exp),
}


class Neuron(nn.Module):
    """g(w . x + 1) as a model of one class, from (B, 1, 1, d) to (B, 1)."""

    def __init__(self, weights: Tensor, activation: str) -> None:
        super().__init__()
        self.weights, self.g = weights, ACTIVATIONS[activation][0]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the score."""
        return self.g(images.flatten(1) @ self.weights + 1).unsqueeze(1)


class TwoLayers(nn.Module):
    """sum_j v_j g(w_j . (x - mean) / deviation) as a model of one class; pixels uniform in [0, 1] are standardised."""

    def __init__(self, weights: Tensor, v: Tensor, activation: str) -> None:
        super().__init__()
        self.weights, self.v, self.g = weights, v, ACTIVATIONS[activation][0]
        self.eval()

    def inputs(self, images: Tensor) -> Tensor:
        """Return w_j . x (B, h) of standardised pixels, from images (B, 1, 1, d) in [0, 1]."""
        return (images.flatten(1) - 0.5) * math.sqrt(12) @ self.weights

    def forward(self, images: Tensor) -> Tensor:
        """Return the score (B, 1)."""
        return (self.g(self.inputs(images)) @ self.v).unsqueeze(1)


def draw_neuron(dimension: int, activation: str, seed: int, name: str) -> tuple[Neuron, Tensor]:
    """Draw |w| = 1 from the sphere and |x| = 1 with all entries positive and of one order.

    Args:
        dimension: d.
        activation: a key of `ACTIVATIONS`.
        seed: of the draw.
        name: which draw.

    Returns:
        The model, and x as an image (1, 1, 1, d), float64.
    """
    draws = generator(seed, name, dimension)
    weights = torch.randn(dimension, generator=draws, dtype=torch.float64)
    x = 0.5 + torch.rand(dimension, generator=draws, dtype=torch.float64)
    return Neuron(weights / weights.norm(), activation), (x / x.norm()).view(1, 1, 1, -1)


def draw_two_layers(dimension: int, width: int, activation: str, seed: int, name: str) -> tuple[TwoLayers, Tensor]:
    """Draw orthonormal w_j, standard normal v_j, and pixels uniform in [0, 1].

    Args:
        dimension: d.
        width: h, at most d.
        activation: a key of `ACTIVATIONS`.
        seed: of the draw.
        name: which draw.

    Returns:
        The model, and x as an image (1, 1, 1, d), float64.
    """
    draws = generator(seed, name, dimension, width)
    basis, _ = torch.linalg.qr(torch.randn(dimension, width, generator=draws, dtype=torch.float64))
    v = torch.randn(width, generator=draws, dtype=torch.float64)
    x = torch.rand(1, 1, 1, dimension, generator=draws, dtype=torch.float64)
    return TwoLayers(basis, v, activation), x
