"""Two layers with 2n + d weights that give n points any values [Zhang2017, theorem 1], and what their map is."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve_triangular
from torch import Tensor


class Lookup(NamedTuple):
    """c(x) = sum_j w_j max(a . x - b_j, 0): the n + n + d weights w, b and a."""

    a: Tensor  # (d,)
    b: Tensor  # (n,), rising
    w: Tensor  # (n,)
    condition: float  # of the triangular system that w solves

    def __call__(self, points: Tensor) -> Tensor:
        """Return c (B,) of points (B, d)."""
        return (points @ self.a - self.b[:, None]).clamp(min=0).T @ self.w


def lookup(points: Tensor, values: Tensor, seed: int = 0) -> Lookup:
    """Build the network that has given values in given points.

    A random direction a puts the points in an order, z_1 < ... < z_n with z_i = a . x_i; with b_1 < z_1 < b_2 < z_2 <
    ... the matrix max(z_i - b_j, 0) is triangular with a positive diagonal, so w is the solution of a linear system.

    Args:
        points: (n, d) float64, all different.
        values: (n,) float64.
        seed: of the direction.

    Returns:
        The weights.

    Raises:
        ValueError: if two points are equal.
    """
    a = torch.randn(points.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z, order = (points @ a).sort()
    gaps = z.diff()
    if not (gaps > 64 * torch.finfo(z.dtype).eps * z.abs().max()).all():  # equal ones differ by rounding
        raise ValueError("points: expected different ones, got two that are equal")
    b = torch.cat([z[:1] - gaps.mean(), z[:-1] + gaps / 2])
    matrix = (z[:, None] - b).clamp(min=0).numpy()
    w = solve_triangular(matrix, values[order].numpy(), lower=True)
    return Lookup(a, b, torch.from_numpy(w), float(np.linalg.cond(matrix)))
