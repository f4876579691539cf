"""Activations as the substitutions need them: piecewise linear ones as sums of hinges, smooth ones with slopes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Hinges(NamedTuple):
    """A piecewise linear activation: constant + slope z + sum of coefficient * relu(z - offset)."""

    constant: float
    slope: float
    terms: tuple[tuple[float, float], ...]  # (coefficient, offset)


def _relu(inplace: bool = False) -> Hinges:
    return Hinges(0.0, 0.0, ((1.0, 0.0),))


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> Hinges:
    return Hinges(0.0, negative_slope, ((1.0 - negative_slope, 0.0),))


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Hinges:
    return Hinges(min_val, 0.0, ((1.0, min_val), (-1.0, max_val)))


def _relu6(inplace: bool = False) -> Hinges:
    return _hardtanh(0.0, 6.0)


HINGES: dict[str, Callable[..., Hinges]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "hardtanh": _hardtanh,
    "relu6": _relu6,
}


def hinge_sum(hinges: Hinges, z: Tensor, hinge: Callable[[Tensor], Tensor]) -> Tensor:
    """Evaluate `hinges` at z with `hinge` in the place of relu."""
    parts = [coefficient * hinge(z - offset if offset else z) for coefficient, offset in hinges.terms]
    total = sum(parts[1:], start=parts[0])
    if hinges.slope:
        total = total + hinges.slope * z
    return total + hinges.constant if hinges.constant else total


def smooth_relu(beta: float) -> Callable[[Tensor], Tensor]:
    """Softplus of sharpness beta, in the place of relu."""
    # PyTorch's default threshold of 20 makes softplus discontinuous by 2e-9, which float64 sees.
    return lambda z: functional.softplus(z, beta, 40.0)


def _gelu_slope(z: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        return z * density + (1 + torch.erf(z / math.sqrt(2))) / 2
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    bend = torch.tanh(scale * (z + cubic * z**3))
    derivative: Tensor = (1 + bend + z * (1 - bend.square()) * scale * (1 + 3 * cubic * z.square())) / 2
    return derivative


def _softplus_slope(z: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    return torch.where(z * beta > threshold, 1.0, torch.sigmoid(z * beta))


# Smooth activations and their derivatives, called with the activation's own further arguments.
SMOOTH: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "sigmoid": (torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z).square()),
    "silu": (functional.silu, lambda z: torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))),
    "gelu": (functional.gelu, _gelu_slope),
    "softplus": (functional.softplus, _softplus_slope),
}


def relu_secant(z: Tensor, z0: Tensor) -> Tensor:
    """The secant of relu, exact: 0 or 1 where the kink does not lie between z0 and z."""
    on = z > 0
    crossed = (on != (z0 > 0)) & ((z - z0).abs() > vanishing(z.dtype))
    run = torch.where(crossed, z - z0, 1.0)
    return torch.where(crossed, (z.clamp(min=0) - z0.clamp(min=0)) / run, on.to(z.dtype))


def vanishing(dtype: torch.dtype) -> float:
    """The size below which a difference has no finite reciprocal slope left: its inverse square overflows."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def smooth_secant(
    value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], z: Tensor, z0: Tensor, width: float
) -> Tensor:
    """The secant of a smooth activation that bends over a distance `width`."""
    # Where z and z0 are close, the quotient and above all its derivative cancel; there the secant is the mean of the
    # slope between them, by three Gauss-Legendre nodes (error below 1e-14 within the radius used).
    run = z - z0
    near = run.abs() < 0.05 * width
    middle, half = (z + z0) / 2, run / 2
    reach = math.sqrt(3 / 5) * half
    mean_slope = (5 * slope(middle - reach) + 8 * slope(middle) + 5 * slope(middle + reach)) / 18
    return torch.where(near, mean_slope, (value(z) - value(z0)) / torch.where(near, 1.0, run))
